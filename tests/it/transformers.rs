//! Tiny models of transformers' own classes, against the logits it computed.
#![expect(clippy::unwrap_used, reason = "tests stop at what they cannot do")]

use ruvlab::{
    engine::{self, Chunk, EngineKind, LogitRows},
    model::weights::Weights,
};

use super::logits::{all, largest_difference, load_exact, logits};

/// Tokens and logits that transformers computed in f32 for a tiny model of its own
/// (`scripts/golden-models`).
struct Golden {
    weights: Weights,
    tokens: Vec<u32>,
    first_kept: usize,
    /// Of the positions from `first_kept` on.
    logits: Vec<Vec<f32>>,
}

fn golden(name: &str) -> Golden {
    let folder = std::path::Path::new("tests/it/golden").join(name);
    let weights = Weights::open(folder.to_str().unwrap()).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(facts["tokens"].clone()).unwrap();
    let first_kept = facts["first_kept"].as_u64().unwrap() as usize;
    let bytes = std::fs::read(folder.join("logits.f32")).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let logits: Vec<Vec<f32>> = values.chunks(weights.spec().vocab_size).map(<[f32]>::to_vec).collect();
    assert_eq!(first_kept + logits.len(), tokens.len());
    Golden { weights, tokens, first_kept, logits }
}

/// The model, and whether `reference` can run it.
const GOLDEN: [(&str, bool); 9] = [
    ("llama3-rope", false),
    ("llama-yarn", false),
    ("mistral-window", false),
    ("qwen2", true),
    ("qwen3", true),
    ("phi3", true),
    ("phi3-partial", false),
    ("phi3-longrope", false),
    ("gemma3", true),
];

#[test]
fn logits_are_those_of_transformers() {
    let mut wrong = Vec::new();
    for (name, reference_can) in GOLDEN {
        let Golden { weights, tokens, first_kept, logits: expected } = golden(name);
        let tail = tokens.len() - first_kept;
        for kind in all() {
            if kind == EngineKind::Reference && !reference_can {
                let refusal = engine::load(kind, &weights, None).err().unwrap().to_string();
                assert!(refusal.contains("candle-transformers"), "{name}: {refusal}");
                assert!(kind.check(weights.spec()).is_err(), "{name}");
                continue;
            }
            let mut engine = load_exact(kind, &weights, 2);
            let singly = [first_kept].into_iter().chain(vec![1; tail]).collect();
            for sizes in [vec![tokens.len()], vec![5, first_kept - 5, 1, tail - 1], singly] {
                let found = logits(engine.as_mut(), &tokens, &sizes);
                let difference = largest_difference(&found[first_kept..], &expected);
                println!("{name} {kind:?} in {} chunks: largest difference {difference:e}", sizes.len());
                if difference.is_nan() || difference > 1e-3 {
                    wrong.push(format!("{name} {kind:?} {sizes:?}: {difference:e}"));
                }
            }
            // At once, as a prompt is: the reference takes it in other pieces than position by position.
            let sequence = engine.open().unwrap();
            let chunk = Chunk { sequence, tokens: &tokens, logits: LogitRows::Last };
            let last = engine.step(&[chunk]).unwrap()[0].row(0).to_vec();
            let difference = largest_difference(&[last], &expected[tail - 1..]);
            if difference.is_nan() || difference > 1e-3 {
                wrong.push(format!("{name} {kind:?} at once: {difference:e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
