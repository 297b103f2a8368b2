use super::{super::Index, *};

fn metadata() -> IndexMap<String, Value> {
    let texts = ["a", "ä", ""].map(|text| Value::Text(text.to_owned()));
    [
        ("general.architecture", Value::Text("llama".to_owned())),
        ("general.alignment", Value::Unsigned(64)),
        ("llama.block_count", Value::Unsigned(2)),
        ("a.large", Value::Unsigned(1 << 40)),
        ("a.negative", Value::Signed(-3)),
        ("a.large.negative", Value::Signed(-(1 << 40))),
        ("llama.rope.freq_base", Value::Float(10_000.0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.tokens", Value::List(texts.to_vec())),
        ("tokenizer.ggml.scores", Value::List(vec![Value::Float(-0.5), Value::Float(0.25)])),
        ("tokenizer.ggml.token_type", Value::List(vec![Value::Signed(1), Value::Signed(3)])),
        ("tokenizer.ggml.merges", Value::List(Vec::new())),
        ("split.count", Value::Unsigned(1)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

fn planned(name: &str, kind: TensorType, shape: &[usize]) -> Planned {
    Planned { name: name.to_owned(), kind, shape: shape.to_vec() }
}

fn tensors() -> Vec<Planned> {
    vec![
        planned("m", TensorType::Q4K, &[3, 512]),
        planned("v", TensorType::F32, &[5]),
        planned("h", TensorType::F16, &[2, 3, 7]),
    ]
}

fn fill(tensor: &Planned, sink: &mut TensorSink<'_>) -> Result<(), WriteError> {
    let bytes: Vec<u8> = (0..tensor.bytes().unwrap()).map(|i| (i * 7 + tensor.name.len() as u64) as u8).collect();
    // In pieces that are no multiple of anything.
    bytes.chunks(13).try_for_each(|piece| sink.push(piece))
}

fn file() -> Vec<u8> {
    let mut file = Vec::new();
    Layout::new(&metadata(), tensors()).unwrap().write(&mut file, fill).unwrap();
    file
}

#[test]
fn what_is_written_is_read_back() {
    let file = file();
    let index = Index::parse(&file).unwrap();
    assert_eq!((index.version, index.tensors.len()), (3, 3));
    assert_eq!(index.metadata, metadata());
    assert_eq!(file.len() as u64, Layout::new(&metadata(), tensors()).unwrap().size());
    for tensor in tensors() {
        let info = &index.tensors[&tensor.name];
        assert_eq!((info.kind, &info.shape), (tensor.kind, &tensor.shape));
        let bytes = &file[info.range.clone()];
        assert_eq!(bytes.len() as u64, tensor.bytes().unwrap());
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == (i * 7 + tensor.name.len()) as u8));
        assert_eq!(info.range.start % 64, 0);
    }
}

/// candle's reader keeps the types apart that ours does not.
#[test]
fn values_are_in_the_types_llama_cpp_reads() {
    use candle_core::quantized::gguf_file::{Content, Value as Typed};
    let content = Content::read(&mut io::Cursor::new(file())).unwrap();
    let value = |key: &str| &content.metadata[key];
    assert!(matches!(value("llama.block_count"), Typed::U32(2)));
    assert!(matches!(value("a.large"), Typed::U64(_)));
    assert!(matches!(value("a.negative"), Typed::I32(-3)));
    assert!(matches!(value("a.large.negative"), Typed::I64(_)));
    assert!(matches!(value("llama.rope.freq_base"), Typed::F32(_)));
    assert!(matches!(value("split.count"), Typed::U16(1)));
    let element = |key: &str| value(key).to_vec().unwrap()[0].clone();
    assert!(matches!(element("tokenizer.ggml.scores"), Typed::F32(_)));
    assert!(matches!(element("tokenizer.ggml.token_type"), Typed::I32(1)));
    assert!(matches!(element("tokenizer.ggml.tokens"), Typed::String(_)));
}

#[test]
fn a_tensor_of_another_length_is_refused_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let layout = Layout::new(&metadata(), tensors()).unwrap();
    for length in [0, 431, 433] {
        let error = layout.write_file(&path, |tensor, sink| match tensor.name.as_str() {
            "m" => sink.push(&vec![0; length]),
            _ => fill(tensor, sink),
        });
        assert!(matches!(error, Err(WriteError::Length { .. })), "{length}: {error:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    layout.write_file(&path, fill).unwrap();
    assert_eq!(fs::read(&path).unwrap(), file());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_killed_writers_left_goes_and_a_living_writer_keeps_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let others =
        [".a.gguf.backup.tmp", ".a.gguf.x.12-0123456789abcdef.tmp", ".b.gguf.12-0123456789abcdef.tmp", "a.gguf"];
    for name in [&others[..], &[".a.gguf.12-0123456789abcdef.tmp"]].concat() {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let layout = Layout::new(&metadata(), tensors()).unwrap();
    let mut is_alone = true;
    // Another writer comes and goes while this one is at its first tensor.
    let written = layout.write_file::<WriteError>(&path, |tensor, sink| {
        if std::mem::take(&mut is_alone) {
            layout.write_file(&path, fill)?;
        }
        fill(tensor, sink)
    });
    written.unwrap();
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, others);
    assert_eq!(fs::read(&path).unwrap(), file());
}

#[test]
fn an_abandoned_file_is_gone_before_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    fs::write(folder.path().join(".a.gguf.12-0123456789abcdef.tmp"), "x").unwrap();
    let layout = Layout::new(&metadata(), tensors()).unwrap();
    let error = layout.write_file::<WriteError>(&path, |tensor, sink| {
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "its own, and no leftover");
        abandon(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&path, "what was there").unwrap();
        fill(tensor, sink)?;
        Err(WriteError::Twice { name: tensor.name.clone() })
    });
    assert!(matches!(error, Err(WriteError::Twice { .. })), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
}

#[test]
fn room_is_checked_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&metadata(), vec![planned("t", TensorType::F32, &[1 << 30, 1 << 30])]).unwrap();
    let error = layout.write_file(&folder.path().join("a.gguf"), fill).unwrap_err();
    assert!(matches!(error, WriteError::Space { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let with = |key: &str, value: Value| {
        let mut metadata = metadata();
        metadata.insert(key.to_owned(), value);
        Layout::new(&metadata, tensors()).unwrap_err()
    };
    let mixed = Value::List(vec![Value::Bool(true), Value::Unsigned(1)]);
    assert!(matches!(with("x", mixed), WriteError::List { .. }));
    assert!(matches!(with("x", Value::List(vec![Value::List(Vec::new())])), WriteError::List { .. }));
    assert!(matches!(with("general.alignment", Value::Unsigned(48)), WriteError::Alignment(_)));
    for (kind, shape) in [(TensorType::Q4K, &[2, 128][..]), (TensorType::F32, &[]), (TensorType::F32, &[1, 1, 1, 1, 1])]
    {
        let error = Layout::new(&metadata(), vec![planned("t", kind, shape)]).unwrap_err();
        assert!(matches!(error, WriteError::Shape { .. }), "{shape:?}");
    }
    let twice = [tensors(), tensors()].concat();
    assert!(matches!(Layout::new(&metadata(), twice), Err(WriteError::Twice { .. })));
}
