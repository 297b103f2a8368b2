//! The three learning loops.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three learning loops: instant, background, deep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sona {
    /// After every request.
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
}

impl Default for SonaInstant {
    fn default() -> Self {
        Self { enabled: true }
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
