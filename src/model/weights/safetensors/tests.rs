use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;

/// Models that `scripts/golden-folders` made, beside what llama.cpp's converter made of them.
const FOLDERS: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3"];

fn folder(name: &str) -> PathBuf {
    Path::new("tests/it/folders").join(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    super::super::parts::widen(TensorType::F32, bytes).collect()
}

#[test]
fn folders_are_what_llama_cpp_converts_them_to() {
    for name in FOLDERS {
        let ours = open(&folder(name)).unwrap();
        let file = fs::read(folder(name).join("expected.gguf")).unwrap();
        let theirs = Index::parse(&file).unwrap();
        assert_eq!(ours.index.tensors.len(), theirs.tensors.len(), "{name}");
        for (tensor, expected) in &theirs.tensors {
            let info = &ours.index.tensors[tensor];
            assert_eq!((info.kind, &info.shape), (expected.kind, &expected.shape), "{name}: {tensor}");
            let (found, bytes) = (ours.tensor(info), &file[expected.range.clone()]);
            if tensor == "rope_freqs.weight" {
                // Computed with another library's power function.
                for (found, expected) in floats(&found).into_iter().zip(floats(bytes)) {
                    assert!((found / expected - 1.0).abs() <= 1e-5, "{found} is not {expected}");
                }
            } else {
                assert!(*found == *bytes, "{name}: {tensor}");
            }
        }
        let architecture = theirs.metadata["general.architecture"].as_str().unwrap();
        let told = |key: &str| {
            key.starts_with(architecture)
                || ["general.architecture", "general.type", "general.file_type", "general.quantization_version"]
                    .contains(&key)
        };
        let of = |index: &Index| -> std::collections::BTreeMap<String, Value> {
            index
                .metadata
                .iter()
                .filter(|(key, _)| told(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let mut found = of(&ours.index);
        if name == "mistral" {
            // llama.cpp's converter drops it; the model was trained with it.
            assert_eq!(found.remove("llama.attention.sliding_window"), Some(Value::Unsigned(16)));
        }
        assert_eq!(found, of(&theirs), "{name}");
        assert!(found.len() > 10, "{name}: only {} settings were compared", found.len());
    }
}

#[test]
fn what_does_not_change_is_not_copied() {
    let parts = open(&folder("llama")).unwrap();
    let copied = |name: &str| matches!(parts.tensor(&parts.index.tensors[name]), std::borrow::Cow::Owned(_));
    for name in ["token_embd.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"] {
        assert!(!copied(name), "{name}");
    }
    for name in ["blk.0.attn_q.weight", "blk.1.attn_k.bias", "output_norm.weight"] {
        assert!(copied(name), "{name}");
    }
    // Some rows are the same rows as all of them.
    for (name, info) in &parts.index.tensors {
        let all = parts.tensor(info);
        let middle = parts.rows(info, 3..9.min(info.shape[0]));
        assert!(all[3 * info.row_bytes()..].starts_with(&middle), "{name}");
    }
}

/// Returns a safetensors file of these tensors, all zero.
fn file(tensors: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let size = shape.iter().product::<usize>() * if *dtype == "F32" { 4 } else { 2 };
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}));
        at += size;
    }
    raw(&Json::Object(header).to_string(), at)
}

fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn no_truncation_and_no_flipped_bit_of_a_header_panics() {
    let bytes = fs::read(folder("gemma3").join("model.safetensors")).unwrap();
    assert_eq!(header::parse(&bytes).unwrap().len(), 15);
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for end in (0..length + 64).chain([bytes.len() - 1]) {
        assert!(header::parse(&bytes[..end]).is_err(), "{end}");
    }
    let mut refused = 0;
    for bit in 0..length * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match header::parse(&flipped) {
            Ok(tensors) => assert!(tensors.iter().all(|(_, stored)| stored.range.end <= flipped.len())),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > length * 4, "only {refused} of {} flips were refused", length * 8);
}

#[test]
fn hostile_headers_are_refused_with_their_reason() {
    let entry = |shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"F16","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    for (bytes, part) in [
        (Vec::new(), "shorter"),
        (u64::MAX.to_le_bytes().to_vec(), "header would have"),
        (raw("[]", 0), "no map"),
        (raw(r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2],"x":1}}"#, 2), "no map"),
        (raw(&format!("{{\"a\":{}}}", "[".repeat(100_000)), 0), "no map"),
        (raw(&format!("{{\"a\":{}}}", entry("[1]", 0, 4)), 4), "cannot take"),
        (raw(&format!("{{\"a\":{}}}", entry("[18446744073709551615,2]", 0, 4)), 4), "cannot take"),
        (raw(&format!("{{\"a\":{}}}", entry("[1]", 2, 0)), 4), "lies at"),
        (raw(&format!("{{\"a\":{}}}", entry("[2]", 0, 4)), 2), "lies at"),
        (raw(&format!("{{\"a\":{}}}", entry("[1,1,1,1,1]", 0, 2)), 2), "dimensions"),
        (raw(&format!("{{\"a\":{0},\"a\":{0}}}", entry("[1]", 0, 2)), 2), "twice"),
        (raw(&format!("{{\"a\":{},\"b\":{}}}", entry("[2]", 0, 4), entry("[1]", 2, 4)), 4), "begins at"),
        (raw(&format!("{{\"a\":{}}}", entry("[1]", 2, 4)), 4), "begins at"),
        (raw(&format!("{{\"a\":{}}}", entry("[1]", 0, 2)), 4), "belong to no tensor"),
    ] {
        let message = header::parse(&bytes).unwrap_err();
        assert!(message.contains(part), "{message:?} should say {part:?}");
    }
}

/// A folder of one layer of the llama family.
struct Small {
    config: Json,
    tensors: Vec<(&'static str, &'static str, Vec<usize>)>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Small {
    fn new() -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
        });
        let mut tensors = vec![
            ("model.embed_tokens.weight", "BF16", vec![6, 8]),
            ("model.norm.weight", "BF16", vec![8]),
            ("lm_head.weight", "BF16", vec![6, 8]),
        ];
        for (name, shape) in [
            ("model.layers.0.input_layernorm.weight", vec![8]),
            ("model.layers.0.self_attn.q_proj.weight", vec![8, 8]),
            ("model.layers.0.self_attn.k_proj.weight", vec![8, 8]),
            ("model.layers.0.self_attn.v_proj.weight", vec![8, 8]),
            ("model.layers.0.self_attn.o_proj.weight", vec![8, 8]),
            ("model.layers.0.post_attention_layernorm.weight", vec![8]),
            ("model.layers.0.mlp.gate_proj.weight", vec![12, 8]),
            ("model.layers.0.mlp.up_proj.weight", vec![12, 8]),
            ("model.layers.0.mlp.down_proj.weight", vec![8, 12]),
        ] {
            tensors.push((name, "F16", shape));
        }
        Self { config, tensors, files: Vec::new() }
    }

    fn open(&self) -> (tempfile::TempDir, Result<super::super::Weights, WeightsError>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let tensors: Vec<_> =
            self.tensors.iter().map(|(name, dtype, shape)| (*name, *dtype, shape.as_slice())).collect();
        fs::write(folder.path().join("model.safetensors"), file(&tensors)).unwrap();
        for (name, bytes) in &self.files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let opened = super::super::Weights::open(&folder.path().to_string_lossy());
        (folder, opened)
    }
}

#[test]
fn a_folder_opens_by_its_path_and_by_its_index() {
    let small = Small::new();
    let (folder, weights) = small.open();
    let weights = weights.unwrap();
    let spec = weights.spec();
    assert_eq!((spec.layers, spec.hidden_size, spec.heads, spec.kv_heads, spec.head_dim), (1, 8, 2, 2, 4));
    assert!(!spec.tied_embeddings);
    let names: Vec<&String> = weights.index().tensors.keys().collect();
    assert_eq!((names[0].as_str(), names[1].as_str()), ("token_embd.weight", "blk.0.attn_norm.weight"));
    let first = weights.content_hash().to_owned();
    let map = json!({"metadata": {}, "weight_map": {"model.norm.weight": "model.safetensors"}});
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, map.to_string()).unwrap();
    let again = super::super::Weights::open(&index.to_string_lossy()).unwrap();
    assert_eq!(again.content_hash(), first);
    // Every file counts: the settings, too.
    let mut config = small.config.clone();
    config["rms_norm_eps"] = json!(1e-6);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let other = super::super::Weights::open(&folder.path().to_string_lossy()).unwrap();
    assert_ne!(other.content_hash(), first);
}

#[test]
fn a_tied_head_is_left_out_even_where_it_is_stored() {
    let mut small = Small::new();
    small.config["tie_word_embeddings"] = json!(true);
    let weights = small.open().1.unwrap();
    assert!(weights.spec().tied_embeddings);
    assert!(weights.tensor("output.weight").is_err());
}

#[test]
fn what_would_run_wrong_is_refused_with_its_reason() {
    let refused = |change: &dyn Fn(&mut Small), part: &str| {
        let mut small = Small::new();
        change(&mut small);
        let message = small.open().1.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{message:?} should say {part:?}");
    };
    let set = |key: &'static str, value: Json| move |small: &mut Small| small.config[key] = value.clone();
    refused(&set("architectures", json!(["MambaForCausalLM"])), "MambaForCausalLM, which is not supported");
    refused(&set("architectures", json!([])), "names no model class");
    refused(&set("hidden_act", json!("relu")), "only \"silu\"");
    refused(&set("num_hidden_layers", json!(-1)), "not a count");
    refused(&set("hidden_size", json!(null)), "\"hidden_size\" in config.json is missing");
    refused(&set("quantization_config", json!({"bits": 4})), "quantization_config");
    refused(&set("num_attention_heads", json!(3)), "no multiple");
    refused(&set("num_attention_heads", json!(8)), "heads of an even width");
    refused(&set("rope_scaling", json!({"rope_type": "dynamic", "factor": 2})), "dynamic");
    refused(&set("rope_scaling", json!({"type": "linear"})), "\"rope_scaling.factor\" in config.json is missing");
    refused(&|small| small.tensors.push(("model.layers.0.mlp.down_proj.bias", "F16", vec![8])), "down_proj.bias");
    refused(&|small| small.tensors.push(("model.layers.00.mlp.up_proj.weight", "F16", vec![8])), "layers.00");
    refused(&|small| small.tensors[4].1 = "I16", "stored as I16");
    refused(&|small| small.tensors[4].2 = vec![8, 0], "has the shape");
    refused(&|small| _ = small.tensors.remove(2), "lm_head.weight");
    refused(&|small| _ = small.tensors.remove(4), "blk.0.attn_q.weight");
    let index = |files: Json| {
        move |small: &mut Small| {
            small.files.push(("model.safetensors.index.json", json!({"weight_map": files}).to_string().into_bytes()));
        }
    };
    refused(&index(json!({"a": "../model.safetensors"})), "no plain file name");
    refused(&index(json!({"a": "/etc/passwd"})), "no plain file name");
    refused(&index(json!({"a": "a.safetensors", "b": "b.safetensors"})), "no a.safetensors, b.safetensors");
    refused(&index(json!({})), "names 0 files");
    refused(
        &|small| {
            index(json!({"a": "model.safetensors", "b": "other.safetensors"}))(small);
            small.files.push(("other.safetensors", file(&[("model.norm.weight", "F16", &[8])])));
        },
        "in another file, too",
    );
    let empty = tempfile::tempdir().unwrap();
    let message = super::super::Weights::open(&empty.path().to_string_lossy()).err().unwrap().to_string();
    assert!(message.contains("no config.json"), "{message}");
}
