use super::*;
use crate::{
    adapt::train::fresh,
    engine::{Place, Target},
    model::weights::Weights,
};

/// Returns an adapter whose B are not zero, of ranks that differ by target.
fn example(spec: &ModelSpec, targets: &[Target], scale: impl Fn(usize) -> f32) -> Adapter {
    let mut adapter = Adapter::new();
    for (at, target) in targets.iter().enumerate() {
        for (place, mut part) in fresh(spec, &[*target], at + 1, f64::from(scale(at + 1)), 7 + at as u64) {
            part.b.iter_mut().enumerate().for_each(|(i, b)| *b = (i as f32 * 0.37).sin());
            adapter.insert(place, part);
        }
    }
    adapter
}

/// Returns `scale · B A` of a place.
fn product(part: &LowRank) -> Vec<f64> {
    let columns = part.a.len() / part.rank;
    let row = |b: &[f32]| -> Vec<f64> {
        let sum = |column: usize| -> f64 {
            b.iter().enumerate().map(|(r, b)| f64::from(*b) * f64::from(part.a[r * columns + column])).sum()
        };
        (0..columns).map(|column| f64::from(part.scale) * sum(column)).collect()
    };
    part.b.chunks_exact(part.rank).flat_map(row).collect()
}

fn assert_same(found: &Adapter, right: &Adapter, bound: f64) {
    assert!(found.keys().eq(right.keys()));
    for (place, part) in right {
        let (found, right) = (product(&found[place]), product(part));
        let size = right.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        for (found, right) in found.iter().zip(&right) {
            assert!((found - right).abs() <= bound * size, "{place}: {found} {right}");
        }
    }
}

#[test]
fn both_kinds_of_files_keep_an_adapter_and_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    for source in ["builtin:pico", "tests/it/golden/phi3-longrope", "tests/it/folders/qwen3"] {
        let weights = Weights::open(source).unwrap();
        let spec = weights.spec();
        let targets = if spec.tied_embeddings { &Target::ALL[..7] } else { &Target::ALL[..] };
        let mut one = Adapter::new();
        for (place, mut part) in fresh(spec, targets, 3, 2.0, 5) {
            part.b.iter_mut().enumerate().for_each(|(i, b)| *b = (i as f32 * 0.21).cos());
            one.insert(place, part);
        }
        let (peft, gguf) = (folder.path().join("peft"), folder.path().join("adapter.gguf"));
        for path in [&peft, &gguf] {
            write(path, spec, source, &one).unwrap();
            let found = read(path, spec).unwrap();
            assert_same(&found, &one, 1e-7);
            let kept = found == one;
            // Parts of a fused matrix share one A in files.
            assert_eq!(kept, !spec.fused_query_key_value, "{source}");
            assert_eq!(kept, content_hash(&found) == content_hash(&one), "{source}");
        }
        let again = read(&gguf, spec).unwrap();
        write(&gguf, spec, source, &again).unwrap();
        assert_same(&read(&gguf, spec).unwrap(), &one, 1e-6);
    }
}

#[test]
fn ranks_and_scales_that_differ_are_kept() {
    let weights = Weights::open("builtin:pico").unwrap();
    let spec = weights.spec();
    let folder = tempfile::tempdir().unwrap();
    let targets = [Target::Query, Target::Value, Target::Down];
    let scales: [&dyn Fn(usize) -> f32; 3] = [&|_| 2.0, &|rank| 8.0 / rank as f32, &|rank| 1.0 / (rank as f32).sqrt()];
    for scale in scales {
        let adapter = example(spec, &targets, scale);
        for name in ["a", "a.gguf"] {
            let path = folder.path().join(name);
            write(&path, spec, "x", &adapter).unwrap();
            assert_same(&read(&path, spec).unwrap(), &adapter, 1e-6);
        }
    }
}

#[test]
fn decomposed_changes_have_no_place_in_gguf() {
    let weights = Weights::open("builtin:pico").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut adapter = example(weights.spec(), &[Target::Query], |_| 1.0);
    let plain = content_hash(&adapter);
    adapter.values_mut().for_each(|part| part.magnitude = Some(vec![1.0; part.b.len() / part.rank]));
    assert_ne!(plain, content_hash(&adapter));
    let refused = write(&folder.path().join("a.gguf"), weights.spec(), "x", &adapter).unwrap_err().to_string();
    assert!(refused.contains("(DoRA)") && refused.contains("merge"), "{refused}");
    let path = folder.path().join("a");
    write(&path, weights.spec(), "x", &adapter).unwrap();
    assert_eq!(read(&path, weights.spec()).unwrap(), adapter);
}

#[test]
fn changes_of_content_change_the_hash() {
    let weights = Weights::open("builtin:pico").unwrap();
    let spec = weights.spec();
    let adapter = example(spec, &[Target::Query, Target::Up], |_| 1.0);
    let plain = content_hash(&adapter);
    let changed = |change: &dyn Fn(&mut Adapter)| {
        let mut other = adapter.clone();
        change(&mut other);
        content_hash(&other)
    };
    let place = Place { layer: 1, target: Target::Up };
    assert_ne!(plain, changed(&|other| other.get_mut(&place).unwrap().scale = 2.0));
    assert_ne!(plain, changed(&|other| other.get_mut(&place).unwrap().b[3] += 1.0));
    assert_ne!(plain, changed(&|other| drop(other.remove(&place))));
}

#[test]
fn files_of_another_kind_or_model_are_refused() {
    let weights = Weights::open("builtin:pico").unwrap();
    let spec = weights.spec();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let refused = |path: &Path, spec: &ModelSpec, part: &str| {
        let error = read(path, spec).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&path, spec, "cannot read the adapter");
    fs::write(&path, b"GGUF and no more").unwrap();
    refused(&path, spec, "PEFT folder");
    let adapter = example(spec, &[Target::Query], |_| 1.0);
    write(&path, spec, "x", &adapter).unwrap();
    let good = fs::read(&path).unwrap();
    let mut other = spec.clone();
    other.architecture = "qwen2".to_owned();
    refused(&path, &other, "general.architecture");
    other = spec.clone();
    other.hidden_size *= 2;
    refused(&path, &other, "where the model needs");
    let unknown = String::from_utf8_lossy(&good).into_owned();
    assert!(unknown.contains("blk.0.attn_q.weight.lora_a"));
    let mut bytes = good.clone();
    let at = bytes.windows(13).position(|part| part == b"blk.0.attn_q.").unwrap();
    bytes[at + 4] = b'9';
    fs::write(&path, &bytes).unwrap();
    refused(&path, spec, "no place for");
    for length in (0..good.len().min(2000)).step_by(7) {
        fs::write(&path, &good[..length]).unwrap();
        assert!(read(&path, spec).is_err(), "{length}");
    }
    assert!(spec.tied_embeddings);
    assert!(write(&path, spec, "x", &example(spec, &[Target::Head], |_| 1.0)).is_err());
    fs::write(&path, "{}").unwrap();
    refused(&path, spec, "adapter");
}
