use super::*;

/// A small file of the llama family, written by hand.
#[derive(Clone)]
struct Small {
    metadata: Vec<(String, u32, Vec<u8>)>,
    /// Name, shape as files list it (columns first), type, bytes.
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

const F32: u32 = 0;
const E: u64 = 32;

impl Small {
    fn new() -> Self {
        let number = |n: u32| n.to_le_bytes().to_vec();
        let mut small = Self { metadata: Vec::new(), tensors: Vec::new() };
        small.set("general.architecture", 8, text("llama"));
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", E as u32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("rope.dimension_count", 8),
        ] {
            small.set(&format!("llama.{key}"), 4, number(value));
        }
        small.set("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec());
        let list = [number(8), 2u64.to_le_bytes().to_vec(), text("a"), text("b")].concat();
        small.set("tokenizer.ggml.tokens", 9, list);
        for (name, shape) in [
            ("token_embd.weight", vec![E, 6]),
            ("output_norm.weight", vec![E]),
            ("blk.0.attn_norm.weight", vec![E]),
            ("blk.0.attn_q.weight", vec![E, E]),
            ("blk.0.attn_k.weight", vec![E, 16]),
            ("blk.0.attn_v.weight", vec![E, 16]),
            ("blk.0.attn_output.weight", vec![E, E]),
            ("blk.0.ffn_norm.weight", vec![E]),
            ("blk.0.ffn_gate.weight", vec![E, 64]),
            ("blk.0.ffn_up.weight", vec![E, 64]),
            ("blk.0.ffn_down.weight", vec![64, E]),
        ] {
            small.add(name, &shape);
        }
        small
    }

    fn set(&mut self, key: &str, kind: u32, bytes: Vec<u8>) -> &mut Self {
        self.metadata.retain(|entry| entry.0 != key);
        self.metadata.push((key.to_owned(), kind, bytes));
        self
    }

    fn add(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        let count = shape.iter().product::<u64>();
        let bytes = (0..count).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), shape.to_vec(), F32, bytes));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, bytes) in &self.metadata {
            file.extend([text(key), kind.to_le_bytes().to_vec(), bytes.clone()].concat());
        }
        let mut data = Vec::new();
        for (name, shape, kind, bytes) in &self.tensors {
            file.extend([text(name), (shape.len() as u32).to_le_bytes().to_vec()].concat());
            file.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend_from_slice(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }

    fn open(&self) -> Result<Weights, WeightsError> {
        Weights::from_bytes("small", Bytes::Owned(self.bytes()))
    }
}

fn refused(change: impl FnOnce(&mut Small), part: &str) {
    let mut small = Small::new();
    change(&mut small);
    let message = small.open().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains(part), "{message:?} should say {part:?}");
}

#[test]
fn a_good_file_opens_with_its_shape() {
    let weights = Small::new().open().unwrap();
    let spec = weights.spec();
    assert_eq!((spec.layers, spec.hidden_size, spec.heads, spec.kv_heads, spec.head_dim), (1, 32, 4, 2, 8));
    assert_eq!((spec.vocab_size, spec.tied_embeddings, spec.rope.theta), (6, true, 10_000.0));
    assert_eq!(weights.total_bytes(), weights.parameters() * 4);
    assert_eq!(weights.tensor("blk.0.attn_k.weight").unwrap().shape().dims(), [16, 32]);
    assert!(weights.tensor("blk.1.attn_k.weight").is_err());
}

#[test]
fn no_truncation_and_no_flipped_bit_panics() {
    let bytes = Small::new().bytes();
    let data = Index::parse(&bytes).unwrap().tensors.values().map(|info| info.range.start).min().unwrap();
    for length in 0..bytes.len() {
        assert!(Index::parse(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    let mut refused = 0;
    for bit in 0..data * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match Weights::from_bytes("flipped", Bytes::Owned(flipped)) {
            Ok(weights) => {
                for name in weights.index().tensors.keys() {
                    weights.tensor(name).unwrap();
                }
            }
            Err(error) => refused += usize::from(!error.to_string().is_empty()),
        }
    }
    // Text, padding and numbers that mean something else are no damage a parser can see.
    assert!(refused > data * 4, "only {refused} of {} flips were refused", data * 8);
}

#[test]
fn huge_counts_are_refused_before_anything_is_reserved() {
    let mut bytes = Small::new().bytes();
    for at in [8, 16] {
        let mut huge = bytes.clone();
        huge[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(Index::parse(&huge), Err(GgufError::OutOfRange { .. })));
    }
    bytes[4] = 1;
    assert_eq!(Index::parse(&bytes), Err(GgufError::Version(1)));
    assert!(matches!(Index::parse(b"PK\x03\x04"), Err(GgufError::Magic { .. })));
}

#[test]
fn lists_have_the_elements_that_the_file_has_bytes_for() {
    let list = |count: u64, bytes: u64| {
        [0u32.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), vec![0; bytes as usize]].concat()
    };
    let mut small = Small::new();
    for key in ["a", "b"] {
        small.set(key, 9, list(1 << 21, 1 << 21));
    }
    // Two are in the file from the start.
    assert!(matches!(Index::parse(&small.bytes()), Err(GgufError::OutOfRange { found: 2_097_152, .. })));
    small.set("b", 9, list((1 << 21) - 2, (1 << 21) - 2));
    Index::parse(&small.bytes()).unwrap();
    // The bytes there would do for numbers of one byte, and not for texts.
    small.set("b", 9, [8u32.to_le_bytes().to_vec(), 2000u64.to_le_bytes().to_vec()].concat());
    small.metadata.retain(|entry| entry.0 != "a");
    small.tensors.truncate(1);
    assert!(matches!(Index::parse(&small.bytes()), Err(GgufError::Truncated { what, .. }) if what == "b"));
}

#[test]
fn tensors_share_no_bytes() {
    let good = Small::new().bytes();
    let offset = |name: &str| {
        let name = text(name);
        let at = good.windows(name.len()).position(|window| window == name).unwrap();
        // Two dimensions follow, and the type.
        at + name.len() + 4 + 2 * 8 + 4
    };
    let (key, value) = (offset("blk.0.attn_k.weight"), offset("blk.0.attn_v.weight"));
    for further in [0, 32] {
        let mut bytes = good.clone();
        let of_key = u64::from_le_bytes(good[key..key + 8].try_into().unwrap());
        bytes[value..value + 8].copy_from_slice(&(of_key + further).to_le_bytes());
        let error = Index::parse(&bytes).unwrap_err();
        assert!(
            matches!(&error, GgufError::Overlap { first, second }
            if first == "blk.0.attn_k.weight" && second == "blk.0.attn_v.weight"),
            "{error}"
        );
    }
}

#[test]
fn what_would_run_wrong_is_refused_with_its_reason() {
    refused(|file| _ = file.set("general.architecture", 8, text("mamba")), "supported: llama");
    refused(|file| _ = file.set("llama.rope.scaling.type", 8, text("longrope")), "cannot have here");
    refused(|file| _ = file.set("llama.unheard_of", 4, 1u32.to_le_bytes().to_vec()), "not known here");
    refused(|file| _ = file.set("llama.expert_count", 4, 8u32.to_le_bytes().to_vec()), "expert_count");
    refused(|file| _ = file.set("llama.rope.dimension_count", 4, 16u32.to_le_bytes().to_vec()), "head width");
    refused(|file| _ = file.set("llama.attention.head_count_kv", 4, 3u32.to_le_bytes().to_vec()), "no multiple");
    refused(|file| _ = file.set("llama.block_count", 4, 2u32.to_le_bytes().to_vec()), "blk.1.attn_norm.weight");
    refused(|file| _ = file.set("llama.feed_forward_length", 4, 96u32.to_le_bytes().to_vec()), "ffn_gate");
    // The first value is 0, which divides nothing.
    refused(|file| _ = file.add("rope_freqs.weight", &[4]), "above 0");
    refused(|file| _ = file.add("blk.0.attn_q.bias", &[E]), "attn_k.bias");
    refused(|file| _ = file.add("blk.0.attn_qkv.weight", &[E, 64]), "attn_qkv.weight");
    refused(|file| _ = file.add("output_norm.weight", &[E]), "twice");
    refused(|file| file.tensors[3].2 = 20, "iq4_nl");
    refused(|file| file.tensors[3].2 = 12, "cannot be stored as q4_k");
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    refused(|file| _ = file.set("list.of.lists", 9, nested), "list.of.lists");
}

#[test]
fn sources_that_are_no_file_say_what_is_possible() {
    for (source, part) in [
        ("hf:owner/repo", "download"),
        ("synthetic:llama-7b:q4_0", "ruvlab download"),
        ("builtin:nano", "builtin:pico"),
        ("/no/such/model.gguf", "/no/such/model.gguf"),
        ("/", "no config.json"),
        ("model.safetensors", "name its folder"),
    ] {
        let message = Weights::open(source).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{source}: {message}");
    }
}

#[test]
fn requantised_weights_are_what_the_outline_says() {
    let pico = Weights::open("builtin:pico").unwrap();
    assert_eq!(pico.outline(None).tensor_bytes, pico.total_bytes());
    for kind in TensorType::all() {
        let (outline, weights) = (pico.outline(Some(kind)), pico.requantized(kind).unwrap());
        assert_eq!(outline.tensor_bytes, weights.total_bytes(), "{kind}");
        assert_eq!(outline.common_format, weights.common_format(), "{kind}");
        assert_eq!(weights.spec(), pico.spec());
        assert_eq!(weights.index().metadata, pico.index().metadata);
        let differs = |info: &TensorInfo| info.shape.len() == 2 && info.kind != kind;
        let tensors = &weights.index().tensors;
        let other: Vec<_> = tensors.iter().filter(|(_, info)| differs(info)).map(|(name, _)| name).collect();
        let named: Vec<_> = outline.fallbacks.iter().map(|fallback| &fallback.tensor).collect();
        assert_eq!(other, named, "{kind}");
    }
    // Where nothing changes nothing is copied.
    let same = pico.requantized(pico.common_format()).unwrap();
    let name = "token_embd.weight";
    assert_eq!(same.tensor_bytes(name).unwrap().as_ptr(), pico.tensor_bytes(name).unwrap().as_ptr());
}

#[test]
fn k_quants_of_short_rows_fall_back_and_norms_stay() {
    let small = Small::new().open().unwrap();
    let weights = small.requantized(TensorType::Q4K).unwrap();
    assert_eq!(weights.common_format(), TensorType::Q5_0);
    let fallbacks = small.outline(Some(TensorType::Q4K)).fallbacks;
    assert_eq!((fallbacks.len(), fallbacks[0].wanted, fallbacks[0].used), (8, TensorType::Q4K, TensorType::Q5_0));
    for (name, info) in weights.index().tensors.iter().filter(|(_, info)| info.shape.len() == 1) {
        assert_eq!(info.kind, TensorType::F32);
        assert_eq!(weights.tensor_bytes(name).unwrap(), small.tensor_bytes(name).unwrap());
    }
}

#[test]
fn the_image_is_a_file_with_the_same_tensors() {
    use io::{Read, Seek, SeekFrom};
    let weights = Weights::open("builtin:pico").unwrap().requantized(TensorType::Q5_1).unwrap();
    let mut image = weights.image().unwrap();
    let mut file = Vec::new();
    image.read_to_end(&mut file).unwrap();
    let again = Weights::from_bytes("image", Bytes::Owned(file.clone())).unwrap();
    assert_eq!(again.index().metadata, weights.index().metadata);
    assert_eq!(again.index().tensors.len(), weights.index().tensors.len());
    for (name, info) in &weights.index().tensors {
        let theirs = &again.index().tensors[name];
        assert_eq!((theirs.kind, &theirs.shape), (info.kind, &info.shape), "{name}");
        assert!(again.tensor_bytes(name).unwrap() == weights.tensor_bytes(name).unwrap(), "{name}");
    }
    // Anywhere, in pieces of any size, it is what it is as a whole.
    for (at, length) in [(0, 3), (5, 64), (file.len() - 7, 100), (file.len() / 2, 1 << 16), (file.len() + 5, 10)] {
        assert_eq!(image.seek(SeekFrom::Start(at as u64)).unwrap(), at as u64);
        let mut piece = Vec::new();
        image.by_ref().take(length).read_to_end(&mut piece).unwrap();
        let end = (at + length as usize).min(file.len());
        assert!(piece == file[at.min(end)..end], "{length} bytes at {at}");
    }
    assert_eq!(image.seek(SeekFrom::End(0)).unwrap(), file.len() as u64);
    assert!(image.seek(SeekFrom::Current(-(file.len() as i64) - 1)).is_err());
}

#[test]
fn candle_reads_the_same_image() {
    let weights = Weights::open("builtin:pico").unwrap().requantized(TensorType::Q5_1).unwrap();
    let mut image = weights.image().unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut image).unwrap();
    assert_eq!(content.tensor_infos.len(), weights.index().tensors.len());
    for (name, info) in &weights.index().tensors {
        let theirs = content.tensor(&mut image, name, &Device::Cpu).unwrap();
        assert_eq!((theirs.shape().dims(), theirs.dtype()), (&info.shape[..], info.kind.candle()), "{name}");
        assert!(theirs.data().unwrap() == weights.tensor_bytes(name).unwrap(), "{name}");
    }
}

/// Writes a model as parts of these numbers of tensors and returns the paths.
fn split(folder: &std::path::Path, small: &Small, sizes: &[usize], tensors: i32) -> Vec<std::path::PathBuf> {
    let mut rest = small.tensors.clone();
    let mut paths = Vec::new();
    for (part, size) in sizes.iter().enumerate() {
        let mut piece = Small { metadata: Vec::new(), tensors: rest.drain(..*size).collect() };
        if part == 0 {
            piece.metadata.clone_from(&small.metadata);
        }
        piece.set("split.no", 2, (part as u16).to_le_bytes().to_vec());
        piece.set("split.count", 2, (sizes.len() as u16).to_le_bytes().to_vec());
        piece.set("split.tensors.count", 5, tensors.to_le_bytes().to_vec());
        paths.push(folder.join(format!("small-{:05}-of-{:05}.gguf", part + 1, sizes.len())));
        std::fs::write(&paths[part], piece.bytes()).unwrap();
    }
    assert!(rest.is_empty());
    paths
}

#[test]
fn a_split_file_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::new();
    let whole = small.open().unwrap();
    let paths = split(folder.path(), &small, &[4, 0, 7], 11);
    let weights = Weights::open(&paths[0].to_string_lossy()).unwrap();
    assert_eq!(weights.spec(), whole.spec());
    assert_eq!(weights.index().metadata, whole.index().metadata);
    assert_ne!(weights.content_hash(), whole.content_hash());
    for name in whole.index().tensors.keys() {
        assert!(weights.tensor_bytes(name).unwrap() == whole.tensor_bytes(name).unwrap(), "{name}");
    }
    let mut file = Vec::new();
    io::Read::read_to_end(&mut weights.image().unwrap(), &mut file).unwrap();
    let image = Weights::from_bytes("image", Bytes::Owned(file)).unwrap();
    assert_eq!((image.spec(), &image.index().metadata), (whole.spec(), &whole.index().metadata));
    let changed = weights.requantized(TensorType::Q8_0).unwrap();
    assert_eq!(changed.tensor_bytes("output_norm.weight").unwrap(), whole.tensor_bytes("output_norm.weight").unwrap());
    assert_eq!(changed.common_format(), TensorType::Q8_0);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let refused = |at: usize, change: &dyn Fn(&[std::path::PathBuf]), part: &str| {
        let folder = tempfile::tempdir().unwrap();
        let paths = split(folder.path(), &Small::new(), &[4, 3, 4], 11);
        change(&paths);
        let message =
            Weights::open(&paths[at].to_string_lossy()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{message:?} should say {part:?}");
    };
    refused(1, &|_| {}, "name the first: ");
    refused(0, &|paths| std::fs::remove_file(&paths[2]).unwrap(), "1 of its 3 parts are missing");
    refused(0, &|paths| std::fs::remove_file(&paths[2]).unwrap(), "small-00003-of-00003.gguf");
    refused(0, &|paths| _ = std::fs::copy(&paths[2], &paths[1]).unwrap(), "by its name it is another");
    refused(0, &|paths| std::fs::write(&paths[1], b"GGUF").unwrap(), "ends inside");
    refused(0, &|paths| _ = split(paths[0].parent().unwrap(), &Small::new(), &[4, 3, 4], 12), "it says 12");
    let renamed = |paths: &[std::path::PathBuf]| _ = std::fs::copy(&paths[1], &paths[0]).unwrap();
    refused(0, &renamed, "its name must end in -00002-of-00003.gguf");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    std::fs::write(&path, Small::new().set("split.count", 2, 3u16.to_le_bytes().to_vec()).bytes()).unwrap();
    let message = Weights::open(&path.to_string_lossy()).err().unwrap().to_string();
    assert!(message.contains("must end in"), "{message}");
}
