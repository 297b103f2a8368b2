//! The key-value cache and what happens when it fills.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The key-value cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvCache {
    /// The type of stored keys; absent takes the engine's own.
    pub type_k: Option<KvType>,
    /// The type of stored values; absent takes the engine's own.
    pub type_v: Option<KvType>,
    /// Tokens in a page: 8, 16, 32 or 64.
    #[schemars(range(min = 8, max = 64))]
    pub page_tokens: u32,
    /// The most memory the cache may take; absent means no limit but the context length.
    pub budget: Option<Bytes>,
    /// What happens when the budget runs out.
    pub pressure: Option<Pressure>,
    /// Whether sequences share the whole pages they begin with; pages stay for those to come as long
    /// as there is room in the budget.
    pub prefix_sharing: bool,
    /// Takes keys of 4 bits on models below 3 billion parameters too, where they do much harm.
    pub force: bool,
}

impl Default for KvCache {
    fn default() -> Self {
        Self {
            type_k: None,
            type_v: None,
            page_tokens: 32,
            budget: None,
            pressure: None,
            prefix_sharing: false,
            force: false,
        }
    }
}

/// A type of cached keys or values, in llama.cpp's names, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub enum KvType {
    F32,
    F16,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    #[serde(rename = "q4_0")]
    Q4_0,
}

/// What happens when the cache's budget runs out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pressure {
    /// The policy.
    pub policy: PressurePolicy,
    /// The share of the budget at which it starts to act.
    #[serde(default = "default_high_watermark")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub high_watermark: f64,
    /// The share at which it has done enough; absent means `high_watermark`, so that no more is done
    /// than must be.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub low_watermark: Option<f64>,
    /// First tokens of a sequence that are neither evicted nor narrowed (attention sinks, arXiv
    /// 2309.17453), rounded up to whole pages.
    #[serde(default = "default_sinks")]
    pub sinks: u32,
    /// Last tokens of a sequence that are neither evicted nor narrowed.
    #[serde(default = "default_window")]
    pub window: u32,
    /// The policies of `hybrid`, in the order they are tried.
    #[serde(default)]
    pub stages: Vec<PressurePolicy>,
    /// The types of `quantize` by age, youngest first; absent means all that is older than the window
    /// goes to `q8_0`.
    #[serde(default)]
    pub tiers: Vec<CacheTier>,
    /// The most room of the file of `spill`.
    #[serde(default = "default_spill_limit")]
    pub spill_limit: Bytes,
}

/// The types of cached tokens up to an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheTier {
    /// How many tokens it holds; only the last tier has no number, and holds the rest.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub tokens: Option<u32>,
    /// The type of keys.
    pub type_k: KvType,
    /// The type of values.
    pub type_v: KvType,
}

fn default_high_watermark() -> f64 {
    0.8
}

fn default_sinks() -> u32 {
    4
}

fn default_window() -> u32 {
    256
}

fn default_spill_limit() -> Bytes {
    Bytes(1 << 30)
}

impl Pressure {
    /// Returns whether sequences lose tokens, and so may outgrow the context.
    #[must_use]
    pub fn evicts(&self) -> bool {
        self.steps().iter().any(|step| matches!(step, PressurePolicy::Evict | PressurePolicy::H2o))
    }

    /// Returns the tokens a context needs for what is never evicted, and for what is.
    #[must_use]
    pub fn kept(&self, page_tokens: u32) -> u32 {
        self.sinks.saturating_add(self.window).saturating_add(2 * page_tokens)
    }

    /// Returns what is done, in order: the stages of `hybrid`, or the policy itself.
    #[must_use]
    pub fn steps(&self) -> &[PressurePolicy] {
        if self.policy == PressurePolicy::Hybrid { &self.stages } else { std::slice::from_ref(&self.policy) }
    }
}

/// A policy for a full cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PressurePolicy {
    /// Drops tokens between the sinks and the recent window.
    Evict,
    /// Drops the pages that attention used least (H2O, arXiv 2306.14048).
    H2o,
    /// Stores cold pages in a narrower type.
    Quantize,
    /// Refuses new sequences that could not finish; in a `hybrid`, all new ones above the watermark.
    Reject,
    /// Moves pages of sequences that are not in the coming step to a file.
    Spill,
    /// Several of these, one after the other.
    Hybrid,
}
