//! The three learning loops.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TargetModule;

/// The three learning loops: instant, background, deep. One that is absent, or not enabled, is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sona {
    /// The state the loops begin with, a file: what another run with the same model and settings left (`save_state`). They know nothing when absent.
    pub init: Option<String>,
    /// After every request: `micro_lora`, and a neural cache.
    pub instant: Option<SonaInstant>,
    /// In slices between the requests: a micro adapter for each kind of request.
    pub background: Option<SonaBackground>,
    /// After many requests: an adapter of the whole model.
    pub deep: Option<SonaDeep>,
    /// Requests that are kept to be learned again, a fair sample of three in four; of three in five where the deep loop
    /// runs.
    #[schemars(range(min = 1, max = 100_000))]
    pub replay_requests: u32,
    /// Requests that are kept to judge by, and never learned again, a fair sample of one in four; where the deep loop runs,
    /// at most as many of the rest besides, which its transactions are judged by and nothing is chosen by.
    #[schemars(range(min = 1, max = 100_000))]
    pub held_out_requests: u32,
    /// By how much, relative, micro adapters may raise the loss on general text that is kept for that, each of the instant
    /// and the background loop: what goes beyond is taken back.
    #[schemars(range(min = 0.0))]
    pub max_drift: f64,
}

impl Default for Sona {
    fn default() -> Self {
        Self {
            init: None,
            instant: None,
            background: None,
            deep: None,
            replay_requests: 64,
            held_out_requests: 24,
            max_drift: 0.002,
        }
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
    /// About how many of those count in a prediction: the ones whose inputs are nearest.
    #[schemars(range(min = 1, max = 4096))]
    pub cache_neighbours: u32,
    /// How alike inputs must be: a token counts by exp(θ cos).
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub cache_theta: f64,
    /// How much the neural cache counts for in a prediction where nothing is known of its worth yet: so much where the
    /// input itself is held, and less the farther the nearest is. 0 switches it off.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub cache_share: f64,
    /// How much general text counts beside requests where the worth of the neural cache is learned.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub general_weight: f64,
}

impl Default for SonaInstant {
    fn default() -> Self {
        Self {
            enabled: true,
            cache_tokens: 4096,
            cache_neighbours: 64,
            cache_theta: 12.0,
            cache_share: 0.2,
            general_weight: 16.0,
        }
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
    /// Milliseconds without a request after which it runs, too.
    #[schemars(range(min = 1))]
    pub idle_ms: Option<u64>,
    /// The rank of the adapter.
    #[schemars(range(min = 1, max = 1024))]
    pub r: u32,
    /// The numerator of its scale.
    #[schemars(range(min = 0.0))]
    pub lora_alpha: f64,
    /// The linear layers it is on; the head always, where what the other loops learned is folded into.
    pub target_modules: Vec<TargetModule>,
    /// The peak learning rate, which falls to 0 in a straight line.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// Updates of a run.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_steps: u64,
    /// Kept requests in an update.
    #[schemars(range(min = 1, max = 1024))]
    pub batch_size: u32,
    /// Sequences drawn from the state before a run, which are learned beside kept requests.
    #[schemars(range(max = 100_000))]
    pub distill_sequences: u32,
    /// λ of the pull to what mattered before (EWC on the product, Fisher information of rank 1), with λ/2.
    #[schemars(range(min = 0.0))]
    pub lambda: f64,
    /// By how much, relative, the loss on general text may rise above that of the model as it came.
    #[schemars(range(min = 0.0))]
    pub max_drift: f64,
}

impl Default for SonaDeep {
    fn default() -> Self {
        Self {
            enabled: true,
            every_requests: 200,
            idle_ms: None,
            r: 8,
            lora_alpha: 16.0,
            target_modules: vec![TargetModule::QProj, TargetModule::VProj, TargetModule::DownProj],
            learning_rate: 2.0e-3,
            max_steps: 24,
            batch_size: 4,
            distill_sequences: 8,
            lambda: 10.0,
            max_drift: 0.01,
        }
    }
}
