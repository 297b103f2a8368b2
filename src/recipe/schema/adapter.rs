//! Low-rank adapters, in PEFT's terms.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compose::Compose;

/// A LoRA adapter (arXiv 2106.09685): `W x + (lora_alpha / r) B A x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The kind.
    #[serde(rename = "type", default)]
    pub kind: AdapterType,
    /// The rank.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub r: u32,
    /// The numerator of the scale.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0))]
    pub lora_alpha: f64,
    /// The share of inputs dropped while training, in front of A.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lora_dropout: f64,
    /// Ranks that differ from `r`, by module: `q_proj`, or any regular expression for the end of a module's
    /// name, such as `layers.0.self_attn.q_proj`.
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, u32>,
    /// Numerators that differ from `lora_alpha`, likewise.
    #[serde(default)]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// The linear layers that get one; those of `init` where that is given.
    #[serde(default)]
    pub target_modules: Vec<TargetModule>,
    /// Scale by `lora_alpha / sqrt(r)` instead (rsLoRA, arXiv 2312.03732).
    #[serde(default)]
    pub use_rslora: bool,
    /// An adapter to start from: a PEFT directory, or a GGUF adapter of llama.cpp's. Rank, scale and
    /// matrices are its own then. Without `training`, the workloads run with it as it is.
    #[serde(default)]
    pub init: Option<String>,
    /// Several adapters as one, in place of `init`: what the workloads run with.
    #[serde(default)]
    pub compose: Option<Compose>,
}

fn default_rank() -> u32 {
    16
}

fn default_alpha() -> f64 {
    32.0
}

/// A kind of adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterType {
    /// Plain low-rank adaptation.
    #[default]
    Lora,
    /// Weight-decomposed (arXiv 2402.09353).
    Dora,
}

/// A linear layer an adapter can attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are transformers'")]
pub enum TargetModule {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
    LmHead,
}

/// An adapter of rank 1 or 2 that learns from single requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MicroLora {
    /// The rank.
    #[serde(default = "default_micro_rank")]
    #[schemars(range(min = 1, max = 2))]
    pub r: u32,
    /// The numerator of the scale.
    #[serde(default = "default_micro_alpha")]
    #[schemars(range(min = 0.0))]
    pub lora_alpha: f64,
    /// The linear layers that get one: the head, from whose own results an update is computed.
    #[serde(default = "default_micro_targets")]
    pub target_modules: Vec<TargetModule>,
    /// How an update moves it.
    #[serde(default)]
    pub optimizer: MicroOptimizer,
    /// The step size: of `newton` the share of its step that is taken; of `adagrad` about how far a token's row moves
    /// that learns for the first time, 0.15 say; of `sgd` for the mean loss of a request and inputs of size 1, 2.5
    /// say.
    #[serde(default = "default_micro_learning_rate")]
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// The share of what was learned that every request forgets.
    #[serde(default = "default_micro_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub decay: f64,
    /// The likeliest tokens of a position that get a gradient, beside the one that came.
    #[serde(default = "default_micro_top_k")]
    #[schemars(range(min = 1, max = 4096))]
    pub top_k: u32,
}

/// An optimizer of instant adaptation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MicroOptimizer {
    /// By how often a token came and how often it was expected to, so far: the gradient over the curvature.
    #[default]
    Newton,
    /// With a rate of its own for each token, which falls with its gradients so far (Duchi, Hazan and Singer 2011).
    Adagrad,
    /// Plain gradient descent.
    Sgd,
}

fn default_micro_rank() -> u32 {
    2
}

fn default_micro_alpha() -> f64 {
    4.0
}

fn default_micro_targets() -> Vec<TargetModule> {
    vec![TargetModule::LmHead]
}

fn default_micro_learning_rate() -> f64 {
    1.0
}

fn default_micro_decay() -> f64 {
    0.02
}

fn default_micro_top_k() -> u32 {
    24
}
