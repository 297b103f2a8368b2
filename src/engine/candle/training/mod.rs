//! Losses and gradients of low-rank adapters over a frozen model, by candle's automatic differentiation: on
//! every device it has, and a second opinion on the backward pass of our own kernels.
//!
//! The backward pass goes layer by layer: of each layer only its input is a leaf, so a layer's graph is
//! dropped as soon as it is passed, nothing below the lowest adapter is recorded, and with
//! [`TraineeSettings::recompute`] no graph is kept at all but built again when its turn comes (gradient
//! checkpointing, arXiv 1604.06174). What a step makes stays on the device until its end, so nothing
//! waits for the device in between; labels drawn from the model are the exception.
mod batch;
mod executor;
mod flows;
mod operations;
mod score;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use candle_core::{Result, Tensor, Var, backprop::GradStore};

use super::{
    linear::Linear,
    weights::{Gated, Model, Projections},
};
use crate::{
    engine::{
        Adapter, Device, EngineError, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainable,
        TraineeSettings, adapter::check, places::Place,
    },
    model::{
        decoder::{Executor, walk_layer},
        spec::ModelSpec,
        weights::Weights,
    },
};
use batch::Batch;
use executor::{Learner, Pair, Tap};
use flows::Flows;
use operations::log_sum_exp;

/// A frozen model with adapters that learn, on a device of candle's.
pub struct Autograd {
    model: Model,
    pairs: BTreeMap<Place, Pair>,
    settings: TraineeSettings,
    flows: Mutex<Flows>,
}

/// Gradients of A and B, on the device.
type Sums = BTreeMap<Place, (Tensor, Tensor)>;

impl Autograd {
    /// Returns the model with these changes, which are what learns, on a device.
    ///
    /// # Errors
    ///
    /// If the weights lack something, a change does not fit its matrix, or there is no such device.
    pub fn load(
        weights: &Weights,
        adapter: &Adapter,
        settings: TraineeSettings,
        device: Device,
    ) -> std::result::Result<Self, EngineError> {
        check(adapter, weights.spec())?;
        let mut model = Model::load(weights, weights.spec().context_length, device)?;
        if settings.widen {
            widen(&mut model)?;
        }
        let mut pairs = BTreeMap::new();
        for (place, change) in adapter {
            let (out, width) = place.target.shape(&model.spec);
            let var = |values: &[f32], shape| Var::from_slice(values, shape, &model.device);
            let (a, b) = (var(&change.a, (change.rank, width))?, var(&change.b, (out, change.rank))?);
            pairs.insert(*place, Pair { a, b, scale: change.scale.into() });
        }
        Ok(Self { model, pairs, settings, flows: Mutex::default() })
    }

    fn learner(&self, batch: &Batch, taps: bool) -> Result<Learner<'_>> {
        Learner::new(&self.model, &self.pairs, &batch.step, batch.length, taps)
    }

    fn noted(&self) -> Option<Noted> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).noted
    }

    /// Adds what a part's graph found for the changes in it.
    fn collect(&self, layer: usize, found: &GradStore, sums: &mut Sums) -> Result<()> {
        for (place, pair) in self.pairs.iter().filter(|(place, _)| place.layer == layer) {
            let (Some(a), Some(b)) = (found.get(pair.a.as_tensor()), found.get(pair.b.as_tensor())) else { continue };
            let (a, b) = match sums.remove(place) {
                None => (a.clone(), b.clone()),
                Some((a_sum, b_sum)) => ((a_sum + a)?, (b_sum + b)?),
            };
            sums.insert(*place, (a, b));
        }
        Ok(())
    }

    /// Notes what passed the changes in a part; `real` are the rows that stand for tokens, all where it is
    /// none.
    fn note(&self, taps: Option<Vec<Tap>>, found: &GradStore, real: Option<&Tensor>) -> Result<()> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        for Tap { place, input, zeros } in taps.into_iter().flatten() {
            let Some(delta) = found.get(zeros.as_tensor()) else { continue };
            match real {
                None => flows.add(place, &input, delta)?,
                Some(real) => flows.add(place, &input.index_select(real, 0)?, &delta.index_select(real, 0)?)?,
            }
        }
        Ok(())
    }
}

impl Trainable for Autograd {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> std::result::Result<(), EngineError> {
        let Some(pair) = self.pairs.get(&place) else { return Ok(()) };
        let own = (pair.a.elem_count(), pair.b.elem_count());
        if (a.len(), b.len()) != own {
            let message = format!("{} and {} values for {} and {}", a.len(), b.len(), own.0, own.1);
            return Err(EngineError::Adapter(message));
        }
        for (var, values) in [(&pair.a, a), (&pair.b, b)] {
            var.set(&Tensor::from_slice(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }

    fn loss(&self, sequences: &[Scored<'_>]) -> std::result::Result<f64, EngineError> {
        let batch = Batch::new(sequences, &self.model)?;
        let mut learner = self.learner(&batch, false)?;
        let hidden = self.top(&mut learner, &batch)?;
        let (losses, _) = self.score(&mut learner, &batch, &hidden, None)?;
        Ok(total(&losses)?)
    }

    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
        // It has no decomposed changes.
        _magnitudes: &mut Magnitudes,
    ) -> std::result::Result<f64, EngineError> {
        let batch = Batch::new(sequences, &self.model)?;
        let layers = self.model.spec.layers;
        let lowest = self.pairs.keys().map(|place| place.layer).min().unwrap_or(layers);
        let mut learner = self.learner(&batch, self.noted().is_some())?;
        let mut hidden = learner.embed(&batch.step)?;
        // What each layer took in, a leaf where something below learns, and its graph.
        let mut passed = Vec::with_capacity(layers);
        for layer in 0..layers {
            let input = if layer > lowest { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
            let output = walk_layer(&mut learner, layer, input.clone(), &batch.step)?;
            hidden = output.detach();
            let taps = learner.take_taps();
            if layer >= lowest {
                passed.push((input, (!self.settings.recompute).then_some((output, taps))));
            }
        }
        let top = if lowest < layers { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
        let mut sums = Sums::new();
        let (losses, mut grad) = self.score(&mut learner, &batch, &top, Some((weight, labels, &mut sums)))?;
        for layer in (lowest..layers).rev() {
            let (Some((input, output)), Some(above)) = (passed.pop(), grad.take()) else { break };
            let (output, taps) = match output {
                Some(output) => output,
                None => (walk_layer(&mut learner, layer, input.clone(), &batch.step)?, learner.take_taps()),
            };
            let found = (output * &above)?.sum_all()?.backward()?;
            self.collect(layer, &found, &mut sums)?;
            self.note(taps, &found, batch.real.as_ref())?;
            grad = found.get(&input).cloned();
        }
        add(gradients, sums)?;
        Ok(total(&losses)?)
    }

    fn log_likelihoods(&self, sequences: &[Scored<'_>], tokens: &[u32]) -> std::result::Result<Vec<f64>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        let ids = Tensor::new(tokens, &self.model.device)?;
        let rows = self.outputs(sequences, |logits| {
            let picked = logits.index_select(&ids, 1)?.broadcast_sub(&log_sum_exp(logits)?)?;
            picked.to_vec2::<f32>()
        })?;
        Ok(rows.into_iter().flatten().map(f64::from).collect())
    }

    fn top_logits(&self, sequences: &[Scored<'_>], count: usize) -> std::result::Result<Vec<TopLogits>, EngineError> {
        let rows = self.outputs(sequences, |logits| logits.to_vec2::<f32>())?;
        Ok(rows.iter().map(|logits| TopLogits::of(logits, count)).collect())
    }

    fn note_flows(&mut self, noted: Option<Noted>) {
        self.flows = Mutex::new(Flows::new(noted));
    }

    fn take_flows(&mut self) -> std::result::Result<BTreeMap<Place, Flow>, EngineError> {
        let flows = self.flows.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(flows.take(&self.model.spec, self.pairs.keys())?)
    }
}

/// Returns the sum of losses, each of which is a row.
fn total(losses: &[Tensor]) -> Result<f64> {
    Ok(to_host(losses)?.iter().flatten().map(|loss| f64::from(*loss)).sum())
}

/// Adds gradients that were made on the device.
fn add(gradients: &mut Gradients, sums: Sums) -> Result<()> {
    let tensors: Vec<Tensor> = sums.values().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let mut values = to_host(&tensors)?.into_iter();
    for place in sums.into_keys() {
        let (Some(a), Some(b)) = (values.next(), values.next()) else { break };
        let own = gradients.entry(place).or_insert_with(|| (vec![0.0; a.len()], vec![0.0; b.len()]));
        for (sum, more) in [(&mut own.0, a), (&mut own.1, b)] {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
    Ok(())
}

/// Returns the values of several tensors in one copy: each copy waits for the device.
fn to_host(tensors: &[Tensor]) -> Result<Vec<Vec<f32>>> {
    let flat = tensors.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    if flat.is_empty() {
        return Ok(Vec::new());
    }
    let all = Tensor::cat(&flat, 0)?.to_vec1::<f32>()?;
    let mut rest = all.as_slice();
    let split = |tensor: &Tensor| {
        let (own, after) = rest.split_at(tensor.elem_count());
        rest = after;
        own.to_vec()
    };
    Ok(tensors.iter().map(split).collect())
}

/// Widens all matrices but the embedding.
fn widen(model: &mut Model) -> Result<()> {
    let widen = |linear: &mut Linear| -> Result<()> {
        *linear = Linear::Dense(linear.dense()?);
        Ok(())
    };
    for layer in &mut model.layers {
        match &mut layer.projections {
            Projections::Separate(matrices) => matrices.iter_mut().try_for_each(widen)?,
            Projections::Fused(matrix) => widen(matrix)?,
        }
        match &mut layer.gated {
            Gated::Separate { gate, up } => [gate, up].into_iter().try_for_each(widen)?,
            Gated::Fused(matrix) => widen(matrix)?,
        }
        widen(&mut layer.attention_output)?;
        widen(&mut layer.down)?;
    }
    widen(&mut model.output)
}
