use super::*;
use crate::model::weights::Weights;

fn rope(theta: f64, scaling: RopeScaling) -> Rope {
    Rope { theta, dim: 16, layout: RopeLayout::Halves, scaling }
}

fn close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) / expected - 1.0).abs() <= 5e-7, "{found:e} is not {expected:e}");
    }
}

/// The figures are those of transformers 5.24 (`modeling_rope_utils.py`) for the same numbers.
#[test]
fn stretched_frequencies_are_those_of_transformers() {
    let linear = rope(1e4, RopeScaling::Linear { factor: 4.0 }).frequencies(1);
    #[rustfmt::skip]
    close(&linear.values, &[
        0.25, 0.07905694097280502, 0.02500000037252903, 0.007905694656074047,
        0.0024999999441206455, 0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-5,
    ]);
    let (factor, magnitude) = (4.0, yarn_magnitude(4.0));
    let yarn = RopeScaling::Yarn { factor, original_context: 512, beta_fast: 32.0, beta_slow: 1.0, magnitude };
    let yarn = rope(1e4, yarn).frequencies(1);
    #[rustfmt::skip]
    close(&yarn.values, &[
        1.0, 0.2569350600242615, 0.0625, 0.013834965415298939,
        0.0024999999441206455, 0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-5,
    ]);
    assert!((f64::from(yarn.magnitude) - 1.138629436111989).abs() <= 1e-7);
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 1024 };
    #[rustfmt::skip]
    close(&rope(5e5, llama3).frequencies(1).values, &[
        1.0, 0.193922758102417, 0.03760603070259094, 0.0013125694822520018,
        0.00017677668074611574, 3.428102354519069e-5, 6.647869668086059e-6, 1.289173155782919e-6,
    ]);
}

#[test]
fn ntk_slows_the_last_pair_by_the_factor_and_keeps_the_first() {
    let plain = rope(1e4, RopeScaling::None).frequencies(1).values;
    let ntk = rope(1e4, RopeScaling::Ntk { factor: 4.0 }).frequencies(1).values;
    assert!((ntk[0] - plain[0]).abs() <= 0.0);
    assert!((plain[7] / ntk[7] - 4.0).abs() <= 1e-5, "{} {}", plain[7], ntk[7]);
}

#[test]
fn longrope_takes_its_divisors_by_the_room_there_is() {
    let (short, long) = (vec![1.0; 8], (1..=8).map(|i| i as f32).collect::<Vec<f32>>());
    let magnitude = longrope_magnitude(32.0, 4096);
    assert!((magnitude - 1.190_238_071_0).abs() <= 1e-9, "{magnitude}");
    let longrope = rope(1e4, RopeScaling::Longrope { short, long: long.clone(), original_context: 4096, magnitude });
    let plain = rope(1e4, RopeScaling::None).frequencies(1);
    assert_eq!(longrope.frequencies(4096).values, plain.values);
    let divided: Vec<f32> = plain.values.iter().zip(&long).map(|(f, d)| f / d).collect();
    assert_eq!(longrope.frequencies(4097).values, divided);
    let (cos, sin) = longrope.frequencies(4096).rotations(&[0, 3]);
    assert_eq!((cos.len(), sin.len()), (16, 16));
    assert!((f64::from(cos[0]) - magnitude).abs() <= 1e-7 && sin[0].abs() <= 0.0);
    assert!((f64::from(sin[8]) - 3f64.sin() * magnitude).abs() <= 1e-6);
}

#[test]
fn a_change_says_what_it_lacks_and_stretches_the_context() {
    let pico = Weights::open("builtin:pico").unwrap();
    let spec = pico.spec();
    let change = |scaling, factor| RopeChange { scaling: Some(scaling), factor, ..RopeChange::default() };
    assert_eq!(spec.with_rope(&RopeChange::default()).unwrap(), *spec);
    for scaling in [Scaling::Linear, Scaling::Ntk, Scaling::Yarn, Scaling::Llama3] {
        let stretched = spec.with_rope(&change(scaling, Some(2.0))).unwrap();
        assert_eq!(stretched.context_length, 2 * spec.context_length, "{scaling:?}");
        assert_ne!(stretched.rope.frequencies(1).values, spec.rope.frequencies(1).values, "{scaling:?}");
        for factor in [None, Some(0.5), Some(f64::NAN)] {
            assert!(matches!(spec.with_rope(&change(scaling, factor)), Err(RopeError::Numbers(_))), "{scaling:?}");
        }
        let back = stretched.with_rope(&change(Scaling::None, None)).unwrap();
        assert_eq!(back.rope, spec.rope, "{scaling:?}");
    }
    assert_eq!(spec.with_rope(&change(Scaling::Longrope, None)), Err(RopeError::NoDivisors));
    let alone = RopeChange { factor: Some(2.0), ..RopeChange::default() };
    assert!(spec.with_rope(&alone).is_err());
    let base = RopeChange { theta: Some(5e4), ..RopeChange::default() };
    assert!((spec.with_rope(&base).unwrap().rope.theta - 5e4).abs() <= 0.0);
    assert!(spec.with_rope(&RopeChange { theta: Some(1.0), ..base }).is_err());
}
