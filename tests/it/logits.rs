//! Engines, what they say of tokens, and how far apart two of them are.
#![expect(clippy::unwrap_used, reason = "tests stop at what they cannot do")]

use ruvlab::{
    engine::{self, CacheType, Chunk, EngineKind, LanguageModel, LogitRows, Settings, Tier},
    model::{tokenizer::Tokenizer, weights::Weights},
    text,
};

pub(crate) const BOTH: [EngineKind; 2] = [EngineKind::Reference, EngineKind::Candle];

/// Returns our kernels in every tier this processor runs.
pub(crate) fn native() -> impl Iterator<Item = EngineKind> {
    Tier::ALL.into_iter().map(EngineKind::Native).filter(|kind| kind.is_available())
}

pub(crate) fn all() -> impl Iterator<Item = EngineKind> {
    BOTH.into_iter().chain(native())
}

/// Caches in f32, so that nothing is rounded but weights.
pub(crate) fn exact(threads: usize) -> Settings {
    let (key_type, value_type) = (CacheType::F32, CacheType::F32);
    Settings { threads: threads.try_into().ok(), key_type, value_type, ..Settings::default() }
}

pub(crate) fn load_exact(kind: EngineKind, weights: &Weights, threads: usize) -> Box<dyn LanguageModel> {
    engine::load_with(kind, weights, &exact(threads)).unwrap()
}

pub(crate) fn pico() -> Weights {
    Weights::open("builtin:pico").unwrap()
}

pub(crate) fn heldout(weights: &Weights) -> Vec<u32> {
    let tokenizer = Tokenizer::new(weights).unwrap();
    tokenizer.encode(&text::load("builtin:heldout").unwrap().content, false).unwrap()
}

/// Returns the logits of a fresh sequence that takes these tokens in chunks of these sizes.
pub(crate) fn logits(engine: &mut dyn LanguageModel, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<f32>> {
    assert_eq!(sizes.iter().sum::<usize>(), tokens.len());
    let sequence = engine.open().unwrap();
    let (mut rows, mut rest) = (Vec::new(), tokens);
    for size in sizes {
        let (tokens, tail) = rest.split_at(*size);
        let output = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }]).unwrap();
        assert_eq!(output[0].rows, *size);
        rows.extend((0..*size).map(|row| output[0].row(row).to_vec()));
        rest = tail;
    }
    engine.close(sequence);
    rows
}

pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|x| f64::from(x - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Returns the mean over rows of KL(softmax(a) ‖ softmax(b)), in nats; NaN if a logit is NaN.
pub(crate) fn mean_kl(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let terms = softmax(a).into_iter().zip(softmax(b));
        terms.map(|(p, q)| if p == 0.0 { 0.0 } else { p * (p / q).ln() }).sum()
    };
    a.iter().zip(b).map(row).sum::<f64>() / a.len() as f64
}

pub(crate) fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.fold(0.0, |largest, (a, b)| {
        let difference = (a - b).abs();
        if difference <= largest { largest } else { difference }
    })
}

#[test]
fn the_comparators_see_what_is_no_number() {
    let (good, bad) = (vec![vec![0.0, 1.0]], vec![vec![0.0, f32::NAN]]);
    assert!(mean_kl(&good, &good).abs() <= 1e-12 && mean_kl(&good, &bad).is_nan());
    assert!(largest_difference(&good, &bad).is_nan() && largest_difference(&bad, &good).is_nan());
}
