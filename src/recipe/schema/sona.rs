//! The three learning loops.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three learning loops: instant, background, deep. One that is absent, or not enabled, is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sona {
    /// After every request: `micro_lora`, and a neural cache.
    pub instant: Option<SonaInstant>,
    /// In slices between the requests: a micro adapter for each kind of request.
    pub background: Option<SonaBackground>,
    /// After many requests, or when idle.
    pub deep: Option<SonaDeep>,
    /// Requests that are kept to be learned again, a fair sample of three in four.
    #[schemars(range(min = 1, max = 100_000))]
    pub replay_requests: u32,
    /// Requests that are kept to judge by, and never learned again, a fair sample of the others.
    #[schemars(range(min = 1, max = 100_000))]
    pub held_out_requests: u32,
}

impl Default for Sona {
    fn default() -> Self {
        Self { instant: None, background: None, deep: None, replay_requests: 64, held_out_requests: 24 }
    }
}

/// Learning after every request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SonaInstant {
    /// Whether it runs.
    pub enabled: bool,
    /// Tokens the neural cache holds.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cache_tokens: u32,
    /// How much the neural cache counts for in a prediction.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub cache_share: f64,
}

impl Default for SonaInstant {
    fn default() -> Self {
        Self { enabled: true, cache_tokens: 1536, cache_share: 0.1 }
    }
}

/// Learning in slices between the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SonaBackground {
    /// Whether it runs.
    pub enabled: bool,
    /// Milliseconds from one slice to the next at least, where time is measured.
    #[schemars(range(min = 1))]
    pub interval_ms: u64,
    /// The longest a slice may take, where time is measured.
    #[schemars(range(min = 1))]
    pub slice_ms: u64,
    /// Steps after every request, where results must not depend on time.
    #[schemars(range(max = 1000))]
    pub steps_per_request: u32,
    /// The most kinds of requests.
    #[schemars(range(min = 1, max = 64))]
    pub patterns: u32,
    /// Kept requests behind one step.
    #[schemars(range(min = 1, max = 64))]
    pub batch_size: u32,
    /// Held-out requests of the same kind that a step must not make worse.
    #[schemars(range(min = 1, max = 64))]
    pub judges: u32,
    /// The least cosine to a kind at which a request is served with what was learned of it.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub similarity: f64,
    /// Kept requests between two searches for kinds, and before the first.
    #[schemars(range(min = 1))]
    pub extract_every: u64,
}

impl Default for SonaBackground {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_ms: 100,
            slice_ms: 100,
            steps_per_request: 1,
            patterns: 8,
            batch_size: 2,
            judges: 2,
            similarity: 0.2,
            extract_every: 16,
        }
    }
}

/// Learning after many requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SonaDeep {
    /// Whether it runs.
    pub enabled: bool,
    /// Requests between two runs.
    #[schemars(range(min = 1))]
    pub every_requests: u64,
}

impl Default for SonaDeep {
    fn default() -> Self {
        Self { enabled: true, every_requests: 200 }
    }
}
