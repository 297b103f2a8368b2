use super::*;

fn pico() -> Weights {
    Weights::open("builtin:pico").unwrap()
}

fn to(scheme: impl Into<Scheme>) -> Conversion {
    let (scheme, overrides) = (scheme.into(), Vec::new());
    Conversion { scheme, overrides, output: None, token_embedding: None, importance: None, threads: 2 }
}

fn pattern(text: &str) -> NamePattern {
    NamePattern::new(text).unwrap()
}

#[test]
fn patterns_are_parts_of_names_or_globs() {
    for (text, name, fits) in [
        ("ffn_down", "blk.0.ffn_down.weight", true),
        ("ffn_down", "blk.0.ffn_up.weight", false),
        ("blk.1.", "blk.1.ffn_up.weight", true),
        ("blk.1.", "blk.11.ffn_up.weight", false),
        ("blk.?.ffn_up.weight", "blk.7.ffn_up.weight", true),
        ("blk.?.ffn_up.weight", "blk.17.ffn_up.weight", false),
        ("*ffn*", "blk.7.ffn_up.weight", true),
        ("ffn*", "blk.7.ffn_up.weight", false),
        ("*.weight", "blk.7.attn_q.weight", true),
        ("*.weight", "blk.7.attn_q.bias", false),
        ("b*.*n_*t", "blk.7.ffn_up.weight", true),
        ("*a*b*c", "aaaaabbbbb", false),
        ("*", "", true),
        ("?", "", false),
    ] {
        assert_eq!(pattern(text).fits(name), fits, "{text} {name}");
    }
    assert!(NamePattern::new("").is_none());
    // No pattern takes long, however its stars are set.
    assert!(!pattern(&"*a".repeat(200)).fits(&"b".repeat(4000)));
}

#[test]
fn a_file_of_every_type_is_read_back_as_what_requantising_gives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let weights = pico();
    for kind in TensorType::all() {
        let conversion = to(kind);
        let converter = weights.converter(&conversion).unwrap();
        let mut seen = 0;
        converter.write(&path, |_| seen += 1).unwrap();
        assert_eq!(seen, weights.index().tensors.len());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), converter.size());
        let file = Weights::open(&path.to_string_lossy()).unwrap();
        let expected = weights.requantized(kind).unwrap();
        assert_eq!(file.spec(), expected.spec());
        assert_eq!(file.index().metadata["general.file_type"], Value::Unsigned(kind.file_type().into()));
        assert_eq!(file.index().metadata["general.quantization_version"], Value::Unsigned(2));
        let fallbacks: Vec<_> = converter.targets().iter().filter_map(Target::fallback).collect();
        assert_eq!(fallbacks, weights.outline(Some(kind)).fallbacks, "{kind}");
        for (target, (name, info)) in converter.targets().iter().zip(&file.index().tensors) {
            assert_eq!((&target.name, target.kind, target.bytes), (name, info.kind, info.bytes() as u64), "{kind}");
            assert!(file.tensor_bytes(name).unwrap() == expected.tensor_bytes(name).unwrap(), "{kind}: {name}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn some_tensors_may_be_of_other_types() {
    let weights = pico();
    let mut conversion = to(TensorType::Q4_0);
    conversion.overrides = vec![
        (pattern("blk.0.ffn_down.weight"), TensorType::F16),
        (pattern("ffn_down"), TensorType::Q8_0),
        (pattern("*_norm.weight"), TensorType::Q8_0),
    ];
    let error = weights.converter(&conversion).err().unwrap();
    assert!(matches!(error, ConversionError::NoMatch { pattern } if pattern == "*_norm.weight"));
    conversion.overrides.pop();
    conversion.token_embedding = Some(TensorType::Q6K);
    let converter = weights.converter(&conversion).unwrap();
    let target = |name: &str| converter.targets().iter().find(|target| target.name == name).unwrap();
    assert_eq!(target("blk.0.ffn_down.weight").kind, TensorType::F16);
    assert_eq!(target("blk.1.ffn_down.weight").kind, TensorType::Q8_0);
    assert_eq!(target("blk.1.ffn_up.weight").kind, TensorType::Q4_0);
    assert_eq!(target("output_norm.weight").kind, TensorType::F32);
    assert_eq!(target("token_embd.weight").wanted, TensorType::Q6K);
    conversion.output = Some(TensorType::Q8_0);
    let tied = weights.spec().tied_embeddings;
    assert_eq!(matches!(weights.converter(&conversion), Err(ConversionError::TiedOutput)), tied);
}

#[test]
fn a_mixture_is_written_as_its_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let weights = pico();
    let tied = weights.spec().tied_embeddings;
    let mut alike = std::collections::BTreeMap::new();
    for mixture in Mixture::all() {
        let path = folder.path().join(mixture.name());
        let mut conversion = to(Scheme::Mixed(mixture));
        conversion.overrides = vec![(pattern("ffn_gate"), TensorType::Q8_0)];
        weights.converter(&conversion).unwrap().write(&path, |_| {}).unwrap();
        let file = Weights::open(&path.to_string_lossy()).unwrap();
        assert_eq!(file.index().metadata["general.file_type"], Value::Unsigned(mixture.file_type().into()));
        for (name, info) in file.index().tensors.iter().filter(|(_, info)| info.shape.len() == 2) {
            let usual = mixture.tensor_type(name, weights.spec().layers, tied).fitting(info.columns());
            let expected = if name.contains("ffn_gate") { TensorType::Q8_0 } else { usual };
            assert_eq!(info.kind, expected, "{mixture:?} {name}");
            let again = alike.entry(expected).or_insert_with(|| weights.requantized(expected).unwrap());
            assert!(file.tensor_bytes(name).unwrap() == again.tensor_bytes(name).unwrap(), "{mixture:?} {name}");
        }
    }
}

/// Returns an importance matrix in the older format.
fn importance(entries: &[(&str, usize)]) -> Importance {
    let mut file = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, columns) in entries {
        file.extend((name.len() as i32).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(1i32.to_le_bytes());
        file.extend((*columns as i32).to_le_bytes());
        file.extend((0..*columns).flat_map(|i| (1.0 + (i % 5) as f32 * 20.0).to_le_bytes()));
    }
    Importance::parse(&file).unwrap()
}

#[test]
fn an_importance_matrix_changes_what_it_knows_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let weights = pico();
    let columns = weights.spec().hidden_size;
    let known = "blk.0.attn_q.weight";
    let write = |name: &str, conversion: &Conversion| {
        let path = folder.path().join(name);
        weights.converter(conversion).unwrap().write(&path, |_| {}).unwrap();
        Weights::open(&path.to_string_lossy()).unwrap()
    };
    let plain = write("plain.gguf", &to(TensorType::Q4_0));
    let mut conversion = to(TensorType::Q4_0);
    conversion.importance = Some((importance(&[(known, columns), ("token_embd.weight", 3)]), "some.dat".to_owned()));
    let weighed = write("weighed.gguf", &conversion);
    assert_eq!(weighed.index().metadata["quantize.imatrix.file"], Value::Text("some.dat".to_owned()));
    for name in plain.index().tensors.keys() {
        let same = plain.tensor_bytes(name).unwrap() == weighed.tensor_bytes(name).unwrap();
        assert_eq!(same, name != known, "{name}");
    }
    let marked: Vec<String> = weights
        .converter(&conversion)
        .unwrap()
        .targets()
        .iter()
        .filter(|target| target.weighed)
        .map(|target| target.name.clone())
        .collect();
    assert_eq!(marked, [known]);
    conversion.importance = Some((importance(&[(known, columns + 1)]), "other.dat".to_owned()));
    assert!(matches!(weights.converter(&conversion), Err(ConversionError::Importance { .. })));
}
