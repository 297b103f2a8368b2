//! The embedded model through `LanguageModel`, engine beside engine, on all threads.
mod suite;

use std::{process::ExitCode, thread::available_parallelism};

use ruvlab::{
    engine::{self, Chunk, EngineKind, LanguageModel, LogitRows},
    model::{
        spec::ModelSpec,
        weights::{TensorType, Weights},
    },
};
use ruvlab_kernels::Format;
use suite::{Suite, Work, tiers, verify};

const PROMPT_TOKENS: usize = 128;
/// An answer, from an empty context.
const OUTPUT_TOKENS: usize = 64;

/// Returns engines, and how far from f32 weights their logits may be: our kernels keep 15 bits of an
/// activation, candle's keep 8.
fn engines() -> impl Iterator<Item = (EngineKind, f64)> {
    let native = tiers().map(|kernels| (EngineKind::Native(kernels.tier()), 1.0e-6));
    native.chain([(EngineKind::Candle, 1.0e-3), (EngineKind::Reference, 1.0e-3)])
}

fn tokens(count: usize, spec: &ModelSpec) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + 13) % spec.vocab_size) as u32).collect()
}

/// Feeds tokens to an empty sequence, so many at a time, and returns the last logits.
fn evaluate(engine: &mut dyn LanguageModel, tokens: &[u32], at_a_time: usize) -> Vec<f32> {
    let sequence = engine.open().expect("room");
    let mut last = Vec::new();
    for tokens in tokens.chunks(at_a_time) {
        let chunk = Chunk { sequence, tokens, logits: LogitRows::Last };
        last = engine.step(&[chunk]).expect("a step").remove(0).values;
    }
    engine.close(sequence);
    last
}

/// Returns what evaluating tokens moves and computes: products with the layers' matrices for every
/// token, with the head's for the last of each step, and attention.
fn work(spec: &ModelSpec, tokens: usize, steps: usize, threads: usize) -> Work {
    let ModelSpec { layers, hidden_size: e, intermediate_size: f, heads, kv_heads, head_dim, vocab_size, .. } = *spec;
    let layer = e * head_dim * (2 * heads + 2 * kv_heads) + 3 * e * f;
    let head = e * vocab_size;
    let bytes = |values| Format::Q8_0.row_bytes(values).expect("whole blocks");
    let seen = tokens * (tokens + 1) / 2;
    Work {
        read: steps * bytes(layers * layer + head),
        written: steps * vocab_size * size_of::<f32>(),
        passes: steps,
        float_operations: layers * heads * head_dim * 4 * seen,
        integer_operations: 2 * (tokens * layers * layer + steps * head),
        threads,
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let threads = available_parallelism().map_or(1, usize::from);
    let weights = Weights::open("builtin:pico").expect("the embedded model");
    assert_eq!(weights.common_format(), TensorType::Q8_0, "what `work` counts");
    let exact = weights.requantized(TensorType::F32).expect("f32 holds all");
    let spec = weights.spec().clone();
    // candle-transformers' own model on f32 weights: none of our code but the reading of the file.
    let mut reference = engine::load(EngineKind::Reference, &exact, None).expect("the reference runs it");
    let phases = [("prefill", PROMPT_TOKENS, PROMPT_TOKENS), ("decode", OUTPUT_TOKENS, 1)];
    let wanted = phases.map(|(_, count, _)| -> Vec<f64> {
        let logits = evaluate(reference.as_mut(), &tokens(count, &spec), count);
        logits.into_iter().map(f64::from).collect()
    });
    drop(reference);
    for (kind, bound) in engines() {
        let mut engine = engine::load(kind, &weights, None).expect("every engine runs it");
        for ((phase, count, at_a_time), want) in phases.into_iter().zip(&wanted) {
            let tokens = tokens(count, &spec);
            let logits = evaluate(engine.as_mut(), &tokens, at_a_time);
            verify(&format!("{} {phase}", kind.name()), &logits, want, bound);
            let work = work(&spec, count, count / at_a_time, threads);
            suite.time(&format!("e2e_{phase}"), kind.name(), &format!("pico/{count} tokens"), work, || {
                evaluate(engine.as_mut(), &tokens, at_a_time);
            });
        }
    }
    suite.finish()
}
