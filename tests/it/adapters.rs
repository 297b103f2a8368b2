//! Adapters of the engines against matrices they are merged into, and against each other.
mod batches;
mod choices;

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use ruvlab::{
    engine::{self, Adapter, Chunk, EngineError, EngineKind, LanguageModel, LogitRows, LowRank, Place, Target},
    model::{
        spec::ModelSpec,
        weights::{TensorType, Weights},
    },
};

use super::logits::{heldout, load_exact, logits, native, pico};

/// The engines that have adapters.
fn capable() -> impl Iterator<Item = EngineKind> {
    native().chain([EngineKind::Candle])
}

/// Numbers between -1 and 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn low_rank(seed: u64, rank: usize, outputs: usize, inputs: usize) -> LowRank {
    let small = |seed: u64, count: usize, size: f32| numbers(seed, count).into_iter().map(|x| x * size).collect();
    let (a, b) = (small(2 * seed, rank * inputs, 0.05), small(2 * seed + 1, outputs * rank, 0.05));
    LowRank { rank, scale: 1.5, a, b, magnitude: None }
}

/// An adapter of every matrix, of ranks that are no multiple of anything.
pub(crate) fn adapter(spec: &ModelSpec, seed: u64, rank: usize) -> Adapter {
    let ranks = [0, 1, 0, 2, 0, 3, 0, 0];
    let addition = |place: Place| {
        let which = place.target as usize;
        let seed = seed * 1000 + place.layer as u64 * 10 + which as u64;
        let (outputs, inputs) = place.target.shape(spec);
        (place, low_rank(seed, rank + ranks[which], outputs, inputs))
    };
    Place::all(spec, &Target::ALL).into_iter().map(addition).collect()
}

/// Where a matrix stands in the file: its tensor's name and its first row in it.
fn stored(spec: &ModelSpec, Place { layer, target }: Place) -> (String, usize) {
    let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let (name, row) = match target {
        Target::Query if spec.fused_query_key_value => ("attn_qkv", 0),
        Target::Key if spec.fused_query_key_value => ("attn_qkv", queries),
        Target::Value if spec.fused_query_key_value => ("attn_qkv", queries + keys),
        Target::Query => ("attn_q", 0),
        Target::Key => ("attn_k", 0),
        Target::Value => ("attn_v", 0),
        Target::Output => ("attn_output", 0),
        Target::Gate if spec.fused_gate_up => ("ffn_up", 0),
        Target::Up if spec.fused_gate_up => ("ffn_up", spec.intermediate_size),
        Target::Gate => ("ffn_gate", 0),
        Target::Up => ("ffn_up", 0),
        Target::Down => ("ffn_down", 0),
        Target::Head => {
            assert!(!spec.tied_embeddings, "the embedding would change with it");
            return ("output.weight".to_owned(), 0);
        }
    };
    (format!("blk.{layer}.{name}.weight"), row)
}

/// Returns `W + scale · B A` for some rows of a tensor of f32, brought to their magnitudes where there are any.
fn merge(values: &mut [f32], first_row: usize, LowRank { rank, scale, a, b, magnitude }: &LowRank) {
    let columns = a.len() / rank;
    for (row, b) in b.chunks_exact(*rank).enumerate() {
        let values = &mut values[(first_row + row) * columns..][..columns];
        for (b, a) in b.iter().zip(a.chunks_exact(columns)) {
            values.iter_mut().zip(a).for_each(|(value, a)| *value += scale * b * a);
        }
        if let Some(magnitude) = magnitude {
            let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
            values.iter_mut().for_each(|value| *value *= magnitude[row] / norm);
        }
    }
}

/// Writes a model in f32 with an adapter merged into it.
fn merged(weights: &Weights, adapter: &Adapter, path: &Path) -> Weights {
    let mut file = Vec::new();
    io::copy(&mut weights.image().unwrap(), &mut file).unwrap();
    let mut additions: BTreeMap<String, Vec<(usize, &LowRank)>> = BTreeMap::new();
    for (place, part) in adapter {
        let (name, row) = stored(weights.spec(), *place);
        additions.entry(name).or_default().push((row, part));
    }
    for (name, parts) in additions {
        let stored = weights.tensor_bytes(&name).unwrap().into_owned();
        let at = file.windows(stored.len()).position(|window| window == stored).unwrap();
        let mut values: Vec<f32> = stored.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        parts.into_iter().for_each(|(row, part)| merge(&mut values, row, part));
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    fs::write(path, file).unwrap();
    Weights::open(path.to_str().unwrap()).unwrap()
}

fn with_adapter(
    engine: &mut dyn LanguageModel,
    adapter: Option<&Arc<Adapter>>,
    tokens: &[u32],
    sizes: &[usize],
) -> Vec<Vec<f32>> {
    let sequence = engine.open().unwrap();
    engine.attach(sequence, adapter.cloned()).unwrap();
    let (mut rows, mut rest) = (Vec::new(), tokens);
    for size in sizes {
        let (tokens, tail) = rest.split_at(*size);
        let output = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }]).unwrap();
        rows.extend((0..*size).map(|row| output[0].row(row).to_vec()));
        rest = tail;
    }
    engine.close(sequence);
    rows
}

/// Returns the largest difference, relative to the largest logit of its row.
fn relative(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let size = a.iter().fold(0.0f32, |size, x| size.max(x.abs()));
        let worst = a.iter().zip(b).fold(0.0f32, |worst, (a, b)| {
            let difference = (a - b).abs();
            if difference <= worst { worst } else { difference }
        });
        worst / size
    };
    a.iter().zip(b).map(row).fold(0.0, |worst, x| if x <= worst { worst } else { x })
}

#[test]
fn an_adapter_is_the_matrix_it_would_be_merged_into() {
    is_the_merged_matrix(|_| None);
}

#[test]
fn so_is_a_decomposed_one() {
    is_the_merged_matrix(|rows| Some(numbers(77, rows).into_iter().map(|x| 1.0 + 0.4 * x).collect()));
}

fn is_the_merged_matrix(magnitude: impl Fn(usize) -> Option<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    for (i, source) in
        ["builtin:pico", "tests/it/golden/phi3-longrope", "tests/it/folders/qwen3"].into_iter().enumerate()
    {
        let dense = Weights::open(source).unwrap().requantized(TensorType::F32).unwrap();
        let mut adapter = adapter(dense.spec(), i as u64 + 1, 5);
        for (place, part) in &mut adapter {
            part.magnitude = magnitude(place.target.shape(dense.spec()).0);
        }
        if dense.spec().tied_embeddings {
            adapter.retain(|place, _| place.target != Target::Head);
        }
        if i == 2 {
            // As most adapters are: some matrices of a group, not all.
            adapter.retain(|place, _| ![Target::Key, Target::Gate, Target::Down].contains(&place.target));
        }
        let merged = merged(&dense, &adapter, &folder.path().join(format!("{i}.gguf")));
        let adapter = Arc::new(adapter);
        let tokens: Vec<u32> = (0..30).map(|i| i * 37 % dense.spec().vocab_size as u32).collect();
        for kind in capable() {
            let right = logits(load_exact(kind, &merged, 2).as_mut(), &tokens, &[30]);
            let plain = logits(load_exact(kind, &dense, 2).as_mut(), &tokens, &[30]);
            let mut engine = load_exact(kind, &dense, 2);
            let many = with_adapter(engine.as_mut(), Some(&adapter), &tokens, &[30]);
            let few = with_adapter(engine.as_mut(), Some(&adapter), &tokens, &[20, 3, 1, 1, 5]);
            let (found, change) = (relative(&right, &many), relative(&right, &plain));
            assert!(change >= 0.01, "{source} {kind:?}: the adapter changes next to nothing: {change:e}");
            assert!(found <= 1e-4, "{source} {kind:?}: {found:e}");
            assert!(relative(&right, &few) <= 1e-4, "{source} {kind:?}, few rows at a time");
        }
    }
}

/// The head's addition, where the head is the embedding: against what its definition makes of it.
#[test]
fn an_adapter_of_a_tied_head_leaves_the_embedding_alone() {
    let dense = pico().requantized(TensorType::F32).unwrap();
    assert!(dense.spec().tied_embeddings);
    let spec = dense.spec();
    let tokens = &heldout(&dense)[..12];
    let zero = |outputs: usize| LowRank {
        rank: 1,
        scale: 1.0,
        a: vec![1.0; spec.hidden_size],
        b: vec![0.0; outputs],
        magnitude: None,
    };
    let mut head = zero(spec.vocab_size);
    head.b[7] = 3.0;
    let place = Place { layer: spec.layers, target: Target::Head };
    let adapter = Arc::new(Adapter::from([(place, head)]));
    for kind in capable() {
        let mut engine = load_exact(kind, &dense, 2);
        let plain = with_adapter(engine.as_mut(), None, tokens, &[11, 1]);
        let found = with_adapter(engine.as_mut(), Some(&adapter), tokens, &[11, 1]);
        for (plain, found) in plain.iter().zip(&found) {
            let changed: Vec<usize> = (0..plain.len()).filter(|i| plain[*i].to_bits() != found[*i].to_bits()).collect();
            assert_eq!(changed, [7], "{kind:?}");
        }
    }
}

/// A model that gives every sequence its adapter is one whose sequences are given it.
#[test]
fn a_model_with_an_adapter_is_driven_like_one_without() {
    let weights = pico();
    let adapter = Arc::new(adapter(weights.spec(), 6, 3));
    let tokens = &heldout(&weights)[..24];
    for kind in capable() {
        let mut engine = load_exact(kind, &weights, 2);
        let right = with_adapter(engine.as_mut(), Some(&adapter), tokens, &[20, 1, 3]);
        let mut adapted = engine::adapted(engine, Arc::clone(&adapter)).unwrap();
        assert!(logits(adapted.as_mut(), tokens, &[20, 1, 3]) == right, "{kind:?}");
        let admitted = adapted.admit(&tokens[..20], 24).unwrap();
        let chunk = Chunk { sequence: admitted.sequence, tokens: &tokens[..20], logits: LogitRows::All };
        assert_eq!(adapted.step(&[chunk]).unwrap()[0].row(19), right[19], "{kind:?}");
        adapted.attach(admitted.sequence, None).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let weights = pico();
    let spec = weights.spec();
    let good = adapter(spec, 5, 2);
    let mut engines: Vec<_> = capable().map(|kind| load_exact(kind, &weights, 1)).collect();
    for engine in &mut engines {
        let sequence = engine.open().unwrap();
        let mut refuse = |change: &dyn Fn(&mut Adapter), part: &str| {
            let mut bad = good.clone();
            change(&mut bad);
            let error = engine.attach(sequence, Some(Arc::new(bad))).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let at = |layer, target| Place { layer, target };
        let extra = at(spec.layers, Target::Down);
        let head = at(spec.layers, Target::Head);
        refuse(&|bad| _ = bad.insert(extra, bad[&head].clone()), "in a model of");
        refuse(&|bad| bad.get_mut(&at(1, Target::Down)).unwrap().rank = 0, "down of layer 1: rank 0");
        refuse(&|bad| _ = bad.get_mut(&at(0, Target::Key)).unwrap().b.pop(), "key of layer 0: rank 3");
        refuse(&|bad| bad.get_mut(&head).unwrap().rank = usize::MAX, "head: rank");
        assert!(matches!(engine.attach(99, None), Err(EngineError::UnknownSequence(99))));
        let tokens = &heldout(&weights)[..4];
        let found = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }]).unwrap();
        let never = logits(engine.as_mut(), tokens, &[4]);
        assert!(found[0].row(0) == never[3]);
    }
    assert!(!EngineKind::Reference.has_adapters());
    let mut engine = engine::load(EngineKind::Reference, &weights, None).unwrap();
    let sequence = engine.open().unwrap();
    engine.attach(sequence, None).unwrap();
    let error = engine.attach(sequence, Some(Arc::new(good.clone()))).unwrap_err();
    assert!(matches!(error, EngineError::Unsupported { .. }), "{error}");
    assert!(engine::adapted(engine, Arc::new(good)).is_err());
}
