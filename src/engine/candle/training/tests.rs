//! Gradients against finite differences in f64, as rounding in f32 hides errors below a thousandth.
use candle_core::DType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{LowRank, candle::linear::Embedding, places::Target};

/// Widens everything that is computed with to f64.
fn to_f64(autograd: &mut Autograd) -> Result<()> {
    let wide = |tensor: &mut Tensor| -> Result<()> {
        *tensor = tensor.to_dtype(DType::F64)?;
        Ok(())
    };
    let wide_linear = |linear: &mut Linear| -> Result<()> {
        *linear = Linear::Dense(linear.dense()?.to_dtype(DType::F64)?);
        Ok(())
    };
    let wide_var = |var: &mut Var| -> Result<()> {
        *var = Var::from_tensor(&var.to_dtype(DType::F64)?)?;
        Ok(())
    };
    let Model { embedding, layers, output_norm, output, .. } = &mut autograd.model;
    for layer in layers {
        wide(&mut layer.attention_norm)?;
        wide(&mut layer.feed_forward_norm)?;
        layer.biases.iter_mut().flatten().try_for_each(wide)?;
        layer.head_norms.iter_mut().flatten().try_for_each(wide)?;
        [&mut layer.post_attention_norm, &mut layer.post_feed_forward_norm].into_iter().flatten().try_for_each(wide)?;
        layer.matrices_mut().try_for_each(wide_linear)?;
    }
    wide(output_norm)?;
    wide_linear(output)?;
    *embedding = Embedding::Dense(match embedding {
        Embedding::Dense(matrix) => matrix.to_dtype(DType::F64)?,
        Embedding::Stored(matrix) => matrix.dequantize(&matrix.device())?.to_dtype(DType::F64)?,
    });
    for change in autograd.changes.values_mut() {
        [&mut change.a, &mut change.b].into_iter().try_for_each(wide_var)?;
        if let Some(decomposed) = &mut change.decomposed {
            wide_var(&mut decomposed.magnitude)?;
            wide(&mut decomposed.norms)?;
        }
    }
    Ok(())
}

/// Returns a model of tests/it/golden that has a change of every matrix, widened.
fn toy(name: &str, random: &mut ChaCha8Rng, decompose: bool) -> Autograd {
    let weights = Weights::open(&format!("tests/it/golden/{name}")).unwrap();
    let mut draw = |count: usize| (0..count).map(|_| random.random_range(-0.1f32..0.1)).collect::<Vec<f32>>();
    let change = |place: Place| {
        let (outputs, inputs) = place.target.shape(weights.spec());
        let (a, b) = (draw(2 * inputs), draw(outputs * 2));
        (place, LowRank { rank: 2, scale: 2.0, a, b, magnitude: None })
    };
    let adapter = Place::all(weights.spec(), &Target::ALL).into_iter().map(change).collect();
    let mut toy = Autograd::load(&weights, &adapter, TraineeSettings::default(), Device::Cpu).unwrap();
    if decompose {
        for (place, mut magnitudes) in toy.decompose().unwrap() {
            magnitudes.iter_mut().enumerate().for_each(|(at, m)| *m *= 1.0 + 0.2 * (at as f32).sin());
            toy.set_magnitude(place, &magnitudes).unwrap();
        }
    }
    to_f64(&mut toy).unwrap();
    toy
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns the slope of the loss where a variable is moved along a direction of length 1.
fn slope(toy: &Autograd, batch: &Batch, var: &Var, direction: &[f64]) -> f64 {
    let here = var.as_detached_tensor().copy().unwrap();
    let direction = Tensor::from_slice(direction, var.shape(), var.device()).unwrap();
    let at = |step: f64| {
        var.set(&(&here + (&direction * step).unwrap()).unwrap()).unwrap();
        toy.losses(batch).unwrap().iter().flat_map(values).sum::<f64>()
    };
    let central = |step: f64| (at(step) - at(-step)) / (2.0 * step);
    let (wide, narrow) = (central(2.0e-3), central(1.0e-3));
    var.set(&here).unwrap();
    (4.0 * narrow - wide) / 3.0
}

/// Norms of decomposed changes are held, as they are on the way back.
#[test]
fn gradients_are_those_of_finite_differences_in_f64() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let ids: Vec<u32> = (0..33).map(|_| random.random_range(3..256)).collect();
    let sequences = [Scored { tokens: &ids[..21], prompt: 0 }, Scored { tokens: &ids[21..], prompt: 4 }];
    let mut checked = 0;
    for (name, decompose) in
        ["mistral-window", "qwen2", "qwen3", "gemma3", "phi3"].iter().flat_map(|name| [(name, false), (name, true)])
    {
        let toy = toy(name, &mut random, decompose);
        let batch = Batch::new(&sequences, &toy.model).unwrap();
        let (_, Sums(gradients)) = toy.differentiate(&batch, Labels::Data, 1.0).unwrap();
        assert_eq!(gradients.len(), 7 * toy.model.spec.layers + 1);
        for (place, change) in &toy.changes {
            assert_eq!(gradients[place].len(), if decompose { 3 } else { 2 });
            for (part, (var, gradient)) in change.variables().zip(&gradients[place]).enumerate() {
                let gradient = values(gradient);
                // Half along the gradient, and half along what is missing across it would show on.
                let drawn: Vec<f64> = gradient.iter().map(|_| random.random_range(-1.0..1.0)).collect();
                let (norm, length) = (dot(&gradient, &gradient).sqrt(), dot(&drawn, &drawn).sqrt());
                let mut direction: Vec<f64> = gradient.iter().zip(&drawn).map(|(g, x)| g / norm + x / length).collect();
                let length = dot(&direction, &direction).sqrt();
                direction.iter_mut().for_each(|x| *x /= length);
                let (found, right) = (dot(&gradient, &direction), slope(&toy, &batch, var, &direction));
                let what = format!("{name} {place}, part {part}, decomposed {decompose}");
                assert!((found - right).abs() <= 1.0e-8 * norm, "{what}: {found} for {right} (norm {norm})");
                checked += 1;
            }
        }
    }
    assert!(checked >= 5 * 15 * 5, "{checked}");
}
