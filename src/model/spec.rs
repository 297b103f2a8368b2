//! The shape of a model, in plain values: all an engine must know besides the weights.
use serde::{Deserialize, Serialize};

use super::rope::Rope;

/// What the gate of a feed-forward layer goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`: GELU by its tanh approximation.
    GeluTanh,
}

/// The shape of a decoder, whatever its family.
///
/// A layer computes, with `norm(x) = x / sqrt(mean(x²) + eps) * weight`:
///
/// ```text
/// q, k, v = projections of norm(x)                     + biases, if `attention_bias`
/// q, k    = norm(q), norm(k), head by head             if `head_norms`
/// q, k    = rotated to their positions by `rope(layer)`
/// scores  = attention_scale q·k                        a tanh(scores / a) with a = `attention_softcap`
/// x       = x + norm'(projection of softmax(scores) v) over the last `windows[layer]` tokens
/// x       = x + norm'(down(activation(gate(norm(x))) * up(norm(x))))
/// ```
///
/// where norm' is a norm only if `post_norms`. Before the first layer stands
/// `embedding_scale * embedding`, after the last a norm, the head, and `logit_softcap`.
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
    /// D; H times D need not be E.
    pub head_dim: usize,
    /// V.
    pub vocab_size: usize,
    /// Tokens of context it was trained for, or is stretched to.
    pub context_length: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// How queries and keys rotate.
    pub rope: Rope,
    /// How they rotate in layers with a window, where that differs.
    pub local_rope: Option<Rope>,
    /// For each layer, how many tokens a token sees, itself and those just before it; none: all.
    pub windows: Vec<Option<usize>>,
    /// What the gate goes through.
    pub activation: Activation,
    /// What embedded tokens are multiplied by, as f32.
    pub embedding_scale: f32,
    /// What scores are multiplied by, `1 / sqrt(D)` in most families.
    pub attention_scale: f64,
    /// Scores are bent to below this.
    pub attention_softcap: Option<f64>,
    /// Logits are bent to below this.
    pub logit_softcap: Option<f64>,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
    /// Whether queries, keys and values have biases.
    pub attention_bias: bool,
    /// Whether queries and keys are normed, each head by itself, before they rotate.
    pub head_norms: bool,
    /// Whether attention and feed-forward outputs are normed before they join the stream.
    pub post_norms: bool,
    /// Whether queries, keys and values are one matrix, in that order.
    pub fused_query_key_value: bool,
    /// Whether gate and up are one matrix, in that order.
    pub fused_gate_up: bool,
}

impl ModelSpec {
    /// Returns how queries and keys rotate in a layer.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    #[must_use]
    pub fn rope(&self, layer: usize) -> &Rope {
        match (&self.local_rope, self.windows[layer]) {
            (Some(local), Some(_)) => local,
            _ => &self.rope,
        }
    }
}
