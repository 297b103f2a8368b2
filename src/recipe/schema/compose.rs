//! Several adapters as one.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Adapters of one model that the workloads run with together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compose {
    /// PEFT directories, or GGUF adapters of llama.cpp's; relative to the recipe's folder.
    pub adapters: Vec<String>,
    /// What each counts for; 1 each when empty.
    #[serde(default)]
    pub weights: Vec<f64>,
    /// How they become one.
    #[serde(default)]
    pub method: ComposeMethod,
    /// The rank of the result, of all methods but `cat`, `linear` and `arrow`; the largest rank given when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: Option<u32>,
    /// The share of each ΔW that is kept, of `ties`, `dare_linear`, `dare_ties` and `magnitude_prune`.
    #[serde(default = "default_density")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub density: f64,
    /// How many adapters a token takes at a matrix, of `arrow`.
    #[serde(default = "default_top_k")]
    #[schemars(range(min = 1, max = 32))]
    pub top_k: u32,
    /// What scores are divided by before their softmax, of `arrow`.
    #[serde(default = "default_temperature")]
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
}

/// A way to make one adapter of several, in PEFT's names (`add_weighted_adapter`); on ΔW where it says nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComposeMethod {
    /// The weighted sum, exactly: factors side by side.
    #[default]
    Cat,
    /// The weighted sum, brought to a rank.
    Svd,
    /// Weighted sums of factors, which are no sum of changes.
    Linear,
    /// The largest changes that agree in sign, averaged (arXiv 2306.01708).
    Ties,
    /// Changes dropped at random and enlarged, summed (arXiv 2311.03099).
    DareLinear,
    /// The same, elected as in `ties`.
    DareTies,
    /// The largest changes, summed.
    MagnitudePrune,
    /// Every token takes at every matrix what answers most to its input (arXiv 2405.11157).
    Arrow,
}

impl Compose {
    /// Returns what each adapter counts for.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        if self.weights.is_empty() { vec![1.0; self.adapters.len()] } else { self.weights.clone() }
    }
}

fn default_density() -> f64 {
    0.5
}

fn default_top_k() -> u32 {
    3
}

fn default_temperature() -> f64 {
    1.0
}
