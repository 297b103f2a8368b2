//! PEFT's adapters give PEFT's logits.
use std::{fs, path::Path, sync::Arc};

use ruvlab::{
    adapt::{file, train::fresh},
    engine::{self, Adapter, EngineKind, Target},
    model::{
        rope::RopeLayout,
        weights::{TensorType, Weights},
    },
};
use ruvlab_kernels::{Format, dequantize_row, quantize_row};
use serde_json::Value;

use super::super::{
    llama_cpp::smollm2,
    logits::{largest_difference, load_exact, logits, native},
};

/// PEFT's own folders and the logits it computes with them (`scripts/golden-adapters`): ranks and alphas
/// by pattern, rsLoRA; of a family whose rows of queries and keys GGUF interleaves, one whose it does not, and
/// one with fused matrices; and a decomposed one. A copy as llama.cpp has it, and a folder made from that, are the
/// same adapter.
#[test]
fn logits_with_pefts_adapters_are_pefts() {
    let copies = tempfile::tempdir().unwrap();
    for name in ["llama3-rope", "qwen2", "phi3", "qwen2-dora"] {
        let decomposed = name.ends_with("-dora");
        let base = Path::new("tests/it/golden").join(name.trim_end_matches("-dora"));
        let folder = Path::new("tests/it/golden/adapters").join(name);
        let weights = Weights::open(base.to_str().unwrap()).unwrap();
        let facts: Value = serde_json::from_slice(&fs::read(base.join("golden.json")).unwrap()).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(facts["tokens"].clone()).unwrap();
        let bytes = fs::read(folder.join("logits.f32")).unwrap();
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let right: Vec<Vec<f32>> = values.chunks(weights.spec().vocab_size).map(<[f32]>::to_vec).collect();
        let adapter = file::read(&folder, weights.spec()).unwrap();
        let ranks = |target: Target| adapter.iter().filter(move |(place, _)| place.target == target);
        assert!(
            ranks(Target::Query).all(|(_, part)| part.rank == 2) && ranks(Target::Up).all(|(_, part)| part.rank == 3)
        );
        assert!(adapter.values().all(|part| part.magnitude.is_some() == decomposed), "{name}");
        let (gguf, peft) = (copies.path().join("a.gguf"), copies.path().join(name));
        let copied = if decomposed {
            // Only PEFT's folders have a place for magnitudes.
            assert!(file::write(&gguf, weights.spec(), name, &adapter).is_err());
            adapter.clone()
        } else {
            file::write(&gguf, weights.spec(), name, &adapter).unwrap();
            file::read(&gguf, weights.spec()).unwrap()
        };
        file::write(&peft, weights.spec(), name, &copied).unwrap();
        for adapter in [adapter, copied, file::read(&peft, weights.spec()).unwrap()].map(Arc::new) {
            for kind in native().chain([EngineKind::Candle]) {
                let mut engine = engine::adapted(load_exact(kind, &weights, 2), Arc::clone(&adapter)).unwrap();
                let found = logits(engine.as_mut(), &tokens, &[tokens.len()]);
                let off = largest_difference(&found[tokens.len() - right.len()..], &right);
                println!("{name} {kind:?}: {off:e}");
                assert!(off <= 1e-3, "{name} {kind:?}: {off:e}");
            }
        }
    }
}

/// Returns an adapter with the numbers that our kernels give it next to matrices in blocks, where what activations are
/// rounded by would hide what adapters are.
fn rounded_as_next_to_blocks(adapter: &Adapter) -> Adapter {
    let round = |format: Format, values: &[f32]| {
        let mut bytes = vec![0; values.len() / format.block_values() * format.block_bytes()];
        quantize_row(format, values, &mut bytes).unwrap();
        let mut rounded = vec![0.0; values.len()];
        dequantize_row(format, &bytes, &mut rounded);
        rounded
    };
    let mut rounded = adapter.clone();
    for part in rounded.values_mut() {
        let first = round(Format::Q8_0, &part.a);
        let rest: Vec<f32> = part.a.iter().zip(&first).map(|(value, first)| value - first).collect();
        let second = round(Format::Q4_0, &rest);
        part.a = first.iter().zip(&second).map(|(first, second)| first + second).collect();
        part.b = round(Format::F16, &part.b);
    }
    rounded
}

/// An adapter of queries and keys over a real GGUF file, whose logits PEFT computed on the same weights.
#[test]
fn logits_of_smollm2_with_an_adapter_are_pefts() {
    let Some(path) = smollm2() else { return };
    let golden: Value = serde_json::from_str(include_str!("../golden/adapters/smollm2.json")).unwrap();
    let list = |key: &str| -> Vec<f64> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (columns, normalisers) = (list("columns"), list("normalisers"));
    let right: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let first = golden["first"].as_u64().unwrap() as usize;
    let weights = Weights::open(&path).unwrap().requantized(TensorType::F32).unwrap();
    let mut adapter = fresh(weights.spec(), &[Target::Query, Target::Key], 4, 2.0, 0);
    for (place, part) in &mut adapter {
        let layer = place.layer as f64;
        part.a.iter_mut().zip(0..).for_each(|(a, k)| *a = (0.02 * (0.1 * f64::from(k) + 1.0 + layer).sin()) as f32);
        part.b.iter_mut().zip(0..).for_each(|(b, k)| *b = (0.02 * (0.3 * f64::from(k) + layer).cos()) as f32);
    }
    // The formula is of PEFT's rows: written without moving them, and read as a folder is.
    let mut halves = weights.spec().clone();
    halves.rope.layout = RopeLayout::Halves;
    let folder = tempfile::tempdir().unwrap();
    file::write(folder.path(), &halves, "smollm2", &adapter).unwrap();
    let adapter = Arc::new(file::read(folder.path(), weights.spec()).unwrap());
    let rounded = Arc::new(rounded_as_next_to_blocks(&adapter));
    let all = native().chain([EngineKind::Candle]).flat_map(|kind| [(kind, &adapter), (kind, &rounded)]);
    for (kind, adapter) in all {
        let mut engine = engine::adapted(load_exact(kind, &weights, 2), Arc::clone(adapter)).unwrap();
        let found = logits(engine.as_mut(), &tokens, &[tokens.len()]);
        let mut worst = 0.0f64;
        for (row, (right, normaliser)) in found[first..].iter().zip(right.iter().zip(&normalisers)) {
            let highest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
            let sum: f64 = row.iter().map(|x| (f64::from(*x) - highest).exp()).sum();
            let pairs = columns.iter().map(|column| f64::from(row[*column as usize])).zip(right.iter().copied());
            for (found, right) in pairs.chain([(highest + sum.ln(), *normaliser)]) {
                let difference = (found - right).abs();
                worst = if difference <= worst { worst } else { difference };
            }
        }
        let how = if Arc::ptr_eq(adapter, &rounded) { "rounded" } else { "as it is" };
        println!("{kind:?}, {how}: {worst:e} from PEFT's, whose adapter changes {}", golden["largest_change"]);
        assert!(worst <= 1e-3, "{kind:?}: {worst:e}");
    }
}
