//! Model classes of transformers: what their tensors are called in GGUF (llama.cpp's
//! `gguf-py/gguf/tensor_mapping.py`), and how they differ there.

/// A model class of transformers, and what it becomes.
#[derive(Debug)]
pub(super) struct Origin {
    /// In `architectures` of config.json.
    pub(super) class: &'static str,
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Whether query and key rows go from two halves to pairs.
    pub(super) interleaved: bool,
    /// Whether its norms multiply by 1 + weight.
    pub(super) norm_plus_one: bool,
    /// Whether the head is the token embedding where config.json does not say.
    pub(super) tied: bool,
    /// The key of the activation in config.json, and the one that can be run.
    pub(super) activation: (&'static str, &'static str),
    /// `head_dim` where config.json does not say; none if it is the model's width over the heads.
    pub(super) head_dim: Option<u64>,
    /// Names of a layer's tensors, after `model.layers.N.` and after `blk.N.`.
    pub(super) layer: &'static [(&'static str, &'static str)],
}

/// Names of the tensors outside the layers, there and here.
pub(super) const MODEL: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    (HEAD, "output.weight"),
];

/// The head, absent where it is the token embedding.
pub(super) const HEAD: &str = "lm_head.weight";

/// What some files hold and nothing needs: tables that are computed.
pub(super) const COMPUTED: &[&str] = &[".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"];

const LLAMA: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
];

const QWEN3: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
];

const PHI3: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.qkv_proj.weight", "attn_qkv.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
];

const GEMMA3: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "post_attention_norm.weight"),
    ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
];

const SILU: (&str, &str) = ("hidden_act", "silu");

/// Every class there is.
pub(super) const ORIGINS: &[Origin] = &[
    Origin {
        class: "LlamaForCausalLM",
        architecture: "llama",
        interleaved: true,
        norm_plus_one: false,
        tied: false,
        activation: SILU,
        head_dim: None,
        layer: LLAMA,
    },
    Origin {
        class: "MistralForCausalLM",
        architecture: "llama",
        interleaved: true,
        norm_plus_one: false,
        tied: false,
        activation: SILU,
        head_dim: None,
        layer: LLAMA,
    },
    Origin {
        class: "Qwen2ForCausalLM",
        architecture: "qwen2",
        interleaved: false,
        norm_plus_one: false,
        tied: false,
        activation: SILU,
        head_dim: None,
        layer: LLAMA,
    },
    Origin {
        class: "Qwen3ForCausalLM",
        architecture: "qwen3",
        interleaved: false,
        norm_plus_one: false,
        tied: false,
        activation: SILU,
        head_dim: Some(128),
        layer: QWEN3,
    },
    Origin {
        class: "Phi3ForCausalLM",
        architecture: "phi3",
        interleaved: false,
        norm_plus_one: false,
        tied: false,
        activation: SILU,
        head_dim: None,
        layer: PHI3,
    },
    Origin {
        class: "Gemma3ForCausalLM",
        architecture: "gemma3",
        interleaved: false,
        norm_plus_one: true,
        tied: true,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        head_dim: Some(256),
        layer: GEMMA3,
    },
];

impl Origin {
    /// Returns a tensor's name in GGUF, and a key that sorts tensors by layer and table; none if
    /// the class has no such tensor.
    pub(super) fn rename(&self, name: &str) -> Option<((u64, usize), String)> {
        if let Some(row) = MODEL.iter().position(|row| row.0 == name) {
            let section = if row == 0 { 0 } else { u64::MAX };
            return Some(((section, row), MODEL[row].1.to_owned()));
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        // One way only to write each number.
        let number = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
        let row = self.layer.iter().position(|row| row.0 == rest)?;
        Some(((u64::from(number) + 1, row), format!("blk.{number}.{}", self.layer[row].1)))
    }
}
