//! The shape of a model, in plain values.
use serde::{Deserialize, Serialize};

/// How rotary pairs are laid out in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeLayout {
    /// Pairs `(2i, 2i+1)`: llama-family GGUF files.
    Interleaved,
    /// Pairs `(i, i + D/2)`: GPT-NeoX and transformers.
    Halves,
}

/// The shape of a decoder, whatever its family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The architecture, in the file's term (`llama`).
    pub architecture: String,
    /// The model's own name for itself.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// E.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// V.
    pub vocab_size: usize,
    /// Tokens of context it was trained for.
    pub context_length: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many of a head's D values rotate.
    pub rope_dim: usize,
    /// How rotary pairs are laid out.
    pub rope_layout: RopeLayout,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
}
