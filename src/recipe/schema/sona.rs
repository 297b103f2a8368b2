//! The three learning loops.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three learning loops: instant, background, deep. One that is absent, or not enabled, is off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sona {
    /// After every request: `micro_lora`, and a neural cache.
    pub instant: Option<SonaInstant>,
    /// In slices beside the requests.
    pub background: Option<SonaBackground>,
    /// After many requests, or when idle.
    pub deep: Option<SonaDeep>,
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

/// Learning in slices beside the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SonaBackground {
    /// Whether it runs.
    pub enabled: bool,
    /// Milliseconds between slices.
    #[schemars(range(min = 1))]
    pub interval_ms: u64,
}

impl Default for SonaBackground {
    fn default() -> Self {
        Self { enabled: true, interval_ms: 100 }
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
