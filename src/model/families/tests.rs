use indexmap::IndexMap;

use super::*;
use crate::model::{
    rope::RopeScaling,
    spec::ModelSpec,
    weights::{Index, Value},
};

/// Settings and tensors of a small file of four layers, E 32, two heads of 16, one key head, F 64.
struct Small {
    metadata: IndexMap<String, Value>,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Small {
    fn new(architecture: &str) -> Self {
        let mut small = Self { metadata: IndexMap::new(), tensors: Vec::new() };
        small.metadata.insert("general.architecture".to_owned(), Value::Text(architecture.to_owned()));
        for (key, count) in [
            ("block_count", 4),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            small = small.set(key, Value::Unsigned(count));
        }
        small = small.set("attention.layer_norm_rms_epsilon", Value::Float(1e-6));
        for (name, shape) in [("token_embd.weight", &[6, 32][..]), ("output_norm.weight", &[32])] {
            small = small.tensor(name, shape);
        }
        let family = find(architecture).unwrap();
        for (name, shape) in [
            ("attn_norm.weight", &[32][..]),
            ("attn_output.weight", &[32, 32]),
            ("ffn_norm.weight", &[32]),
            ("ffn_down.weight", &[32, 64]),
        ] {
            small = small.in_layers(name, shape);
        }
        if family.fused_gate_up == Part::Always {
            return small.in_layers("attn_qkv.weight", &[64, 32]).in_layers("ffn_up.weight", &[128, 32]);
        }
        for (name, shape) in [("attn_q.weight", &[32, 32]), ("attn_k.weight", &[16, 32]), ("attn_v.weight", &[16, 32])]
        {
            small = small.in_layers(name, shape);
        }
        small = small.in_layers("ffn_gate.weight", &[64, 32]).in_layers("ffn_up.weight", &[64, 32]);
        if family.attention_bias == Part::Always {
            small = small.biases();
        }
        if family.head_norms == Part::Always {
            small = small.in_layers("attn_q_norm.weight", &[16]).in_layers("attn_k_norm.weight", &[16]);
        }
        if family.post_norms == Part::Always {
            small = small.in_layers("post_attention_norm.weight", &[32]).in_layers("post_ffw_norm.weight", &[32]);
        }
        small
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        let architecture = self.metadata["general.architecture"].as_str().unwrap().to_owned();
        self.metadata.insert(format!("{architecture}.{key}"), value);
        self
    }

    fn tensor(mut self, name: &str, shape: &[usize]) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec()));
        self
    }

    fn in_layers(self, name: &str, shape: &[usize]) -> Self {
        (0..4).fold(self, |small, layer| small.tensor(&in_layer(layer, name), shape))
    }

    fn biases(self) -> Self {
        self.in_layers("attn_q.bias", &[32]).in_layers("attn_k.bias", &[16]).in_layers("attn_v.bias", &[16])
    }

    fn read(self) -> Result<ModelSpec, FamilyError> {
        let index = Index::described(self.metadata, &self.tensors);
        read(&index, &|name| Some((0..8).map(|i| if name.contains("long") { 2.0 } else { 1.0 } + i as f32).collect()))
    }
}

fn refused(small: Small, part: &str) {
    let message = small.read().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains(part), "{message:?} should say {part:?}");
}

#[test]
fn every_row_reads_its_own_file_and_refuses_what_it_does_not_know() {
    assert_eq!(FAMILIES.len(), 5);
    for family in FAMILIES {
        let architecture = family.architecture;
        let spec = Small::new(architecture).read().unwrap();
        assert_eq!((spec.layers, spec.head_dim, spec.rope.dim, spec.vocab_size), (4, 16, 16, 6), "{architecture}");
        assert!(spec.tied_embeddings && spec.windows == [None; 4] && spec.local_rope.is_none(), "{architecture}");
        assert!((spec.attention_scale - 0.25).abs() <= 1e-15, "{architecture}");
        assert_eq!(spec.activation, family.activation);
        assert_eq!(spec.attention_bias, architecture == "qwen2");
        assert_eq!(spec.head_norms, ["qwen3", "gemma3"].contains(&architecture));
        assert_eq!((spec.fused_query_key_value, spec.fused_gate_up), (architecture == "phi3", architecture == "phi3"));
        assert!((spec.embedding_scale - if architecture == "gemma3" { 32f32.sqrt() } else { 1.0 }).abs() <= 0.0);
        refused(Small::new(architecture).tensor("blk.3.attn_sinks.weight", &[2]), "attn_sinks");
        refused(Small::new(architecture).set("something.new", Value::Float(0.5)), "something.new");
        refused(Small::new(architecture).set("expert_count", Value::Unsigned(8)), "expert_count");
        Small::new(architecture).set("expert_count", Value::Unsigned(0)).read().unwrap();
        let mut missing = Small::new(architecture);
        missing.tensors.retain(|(name, _)| name != "blk.2.ffn_up.weight");
        refused(missing, "blk.2.ffn_up.weight");
        // One tensor's name is no warrant for millions of layers.
        let last = in_layer((1 << 24) - 1, family.layer.attention_norm);
        let many = Small::new(architecture).set("block_count", Value::Unsigned(1 << 24)).tensor(&last, &[32]);
        refused(many, "more than the file has tensors");
    }
    assert!(Small::new("llama").biases().read().unwrap().attention_bias);
    refused(Small::new("qwen3").biases(), "is a bias that is not computed here: qwen3 models have none");
    let output_bias = Small::new("llama").biases().tensor("blk.0.attn_output.bias", &[32]);
    refused(output_bias, "\"blk.0.attn_output.bias\" is a bias that is not computed here");
}

#[test]
fn windows_are_those_of_the_pattern() {
    let window = |architecture: &str| Small::new(architecture).set("attention.sliding_window", Value::Unsigned(8));
    assert_eq!(window("llama").read().unwrap().windows, [Some(8); 4]);
    assert_eq!(window("phi3").read().unwrap().windows, [Some(8); 4]);
    refused(window("qwen2"), "sliding_window");
    let pattern = |value| window("gemma3").set("attention.sliding_window_pattern", value).read();
    let two = pattern(Value::Unsigned(2)).unwrap();
    assert_eq!(two.windows, [Some(8), None, Some(8), None]);
    assert!((two.rope(0).theta - 1e4).abs() <= 0.0 && (two.rope(1).theta - 1e6).abs() <= 0.0);
    let flags = [true, true, false, true].map(Value::Bool).to_vec();
    assert_eq!(pattern(Value::List(flags.clone())).unwrap().windows, [Some(8), Some(8), None, Some(8)]);
    assert!(pattern(Value::List(flags[1..].to_vec())).is_err());
    let wide = Small::new("llama").set("attention.sliding_window", Value::Unsigned(64));
    assert_eq!(wide.read().unwrap().windows, [Some(64); 4]);
    let short = window("gemma3").set("context_length", Value::Unsigned(8)).read().unwrap();
    assert!((short.rope(0).theta - 1e4).abs() <= 0.0, "local layers keep their base in a short context");
}

#[test]
fn ropes_are_read_from_settings_and_tensors() {
    let kind = |architecture: &str, kind: &str| {
        Small::new(architecture).set("rope.scaling.type", Value::Text(kind.to_owned()))
    };
    let factor = |small: Small| small.set("rope.scaling.factor", Value::Float(4.0));
    let scaling = |small: Small| small.read().unwrap().rope.scaling;
    assert_eq!(scaling(factor(kind("llama", "linear"))), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(factor(Small::new("llama"))), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(factor(kind("llama", "none"))), RopeScaling::None);
    let yarn = factor(kind("qwen2", "yarn")).set("rope.scaling.original_context_length", Value::Unsigned(16));
    assert!(matches!(scaling(yarn), RopeScaling::Yarn { original_context: 16, magnitude, .. } if magnitude > 1.13));
    refused(kind("llama", "longrope"), "longrope");
    let divisors: Vec<f32> = (1..9).map(|i| i as f32).collect();
    let with_divisors = || Small::new("llama").tensor("rope_freqs.weight", &[8]);
    assert_eq!(scaling(with_divisors()), RopeScaling::Divisors { divisors: divisors.clone() });
    refused(factor(with_divisors()), "both");
    refused(Small::new("llama").tensor("rope_freqs.weight", &[4]), "shape");
    refused(Small::new("qwen2").tensor("rope_freqs.weight", &[8]), "rope_freqs.weight");
    let long = || {
        let small = Small::new("phi3").tensor("rope_factors_long.weight", &[8]);
        small.tensor("rope_factors_short.weight", &[8])
    };
    refused(long(), "original_context_length");
    let spec = long().set("rope.scaling.original_context_length", Value::Unsigned(16)).read().unwrap();
    let RopeScaling::Longrope { short, long, original_context: 16, magnitude } = spec.rope.scaling else {
        panic!("{:?}", spec.rope)
    };
    assert_eq!((short[0], long[0]), (1.0, 2.0));
    assert!((magnitude - 1.5f64.sqrt()).abs() <= 1e-12, "{magnitude}");
    let partial = Small::new("phi3").set("rope.dimension_count", Value::Unsigned(12)).read().unwrap();
    assert_eq!((partial.rope.dim, partial.head_dim), (12, 16));
}
