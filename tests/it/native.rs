//! Our kernels against candle, against themselves, and against llama.cpp.
#![expect(clippy::print_stdout, reason = "tests print what they measure")]

use ruvlab::{
    engine::{self, CacheType, Chunk, EngineKind, LanguageModel, LogitRows, Settings, Tier},
    model::{
        tokenizer::Tokenizer,
        weights::{TensorType, Weights},
    },
    text,
};

use super::engines::{heldout, largest_difference, logits, mean_kl, pico, smollm2};

/// Returns our kernels in every tier this processor runs.
fn native() -> impl Iterator<Item = EngineKind> {
    Tier::ALL.into_iter().map(EngineKind::Native).filter(|kind| kind.is_available())
}

/// Loads with f32 caches, so that nothing is rounded but weights.
fn load_exact(kind: EngineKind, weights: &Weights, threads: usize) -> Box<dyn LanguageModel> {
    let (key_type, value_type) = (CacheType::F32, CacheType::F32);
    let settings = Settings { context_length: None, threads: threads.try_into().ok(), key_type, value_type };
    engine::load_with(kind, weights, &settings).unwrap()
}

#[test]
fn our_kernels_give_the_distribution_of_candle() {
    let weights = pico();
    let tokens = &heldout(&weights)[..128];
    let dense = weights.requantized(TensorType::F32).unwrap();
    let right = logits(engine::load(EngineKind::Candle, &dense, None).unwrap().as_mut(), tokens, &[128]);
    for kind in native() {
        let exact = logits(load_exact(kind, &dense, 2).as_mut(), tokens, &[128]);
        let half = logits(engine::load(kind, &dense, None).unwrap().as_mut(), tokens, &[128]);
        let quantised = logits(engine::load(kind, &weights, None).unwrap().as_mut(), tokens, &[128]);
        let found = [&exact, &half, &quantised].map(|found| mean_kl(&right, found));
        println!(
            "{kind:?}: KL from candle in f32 {:e}, with an f16 cache {:e}, on packed blocks {:e}",
            found[0], found[1], found[2]
        );
        assert!(found[0] <= 1e-9 && found[1] <= 1e-6 && found[2] <= 1e-5, "{kind:?}: {found:?}");
    }
}

#[test]
fn logits_depend_neither_on_threads_nor_on_the_tier_beyond_rounding() {
    let weights = pico();
    let tokens = &heldout(&weights)[..90];
    let sizes: Vec<usize> = [80].into_iter().chain([1; 10]).collect();
    let mut tiers = Vec::new();
    for kind in native() {
        let one = logits(load_exact(kind, &weights, 1).as_mut(), tokens, &sizes);
        for threads in [2, 3, 7] {
            assert!(logits(load_exact(kind, &weights, threads).as_mut(), tokens, &sizes) == one, "{kind:?} {threads}");
        }
        tiers.push(one);
    }
    for tier in &tiers[1..] {
        let found = mean_kl(&tiers[0], tier);
        println!("KL between tiers: {found:e}");
        assert!(found <= 1e-7, "{found:e}");
    }
}

/// Returns the share of rows whose largest logit is the same.
fn agreement(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let best = |row: &Vec<f32>| row.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1)).map(|(i, _)| i);
    a.iter().zip(b).filter(|(a, b)| best(a) == best(b)).count() as f64 / a.len() as f64
}
