//! Metrics: each registered once, with unit, direction, definition and version; the statistics on
//! them; and how an event stream becomes rows.
mod collect;
mod launches;
mod registry;
pub mod stats;
mod summary;
#[cfg(test)]
pub(crate) mod testing;

use serde::{Deserialize, Serialize};

pub use collect::{Collector, LaunchRecord, collect, collect_tokens};
pub use launches::{Measured, is_deterministic, launch_values, measured, window_values, workloads};
pub use registry::{Direction, METRIC_SCHEMA_VERSION, METRICS, Metric, Replication, find};
pub use summary::{MetricSummary, Problem, summarize};

/// One observation: a row of `samples.parquet`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of design.md section 5")]
pub struct SampleRow {
    pub run_id: String,
    pub cell_hash: String,
    pub arm: String,
    pub block: u32,
    pub slot: u32,
    pub launch: u32,
    pub rep: u32,
    pub warmup: bool,
    pub phase: String,
    pub workload: String,
    pub step: Option<u64>,
    pub task: Option<String>,
    pub trained_through: Option<u32>,
    pub metric: String,
    pub value: f64,
    pub unit: String,
    pub n: u64,
    pub t_ns: u64,
    pub valid: bool,
    pub reason: Option<String>,
}

/// How the reason of a row begins that stands for a metric that could not be measured.
const NOT_MEASURED: &str = "not measured: ";

impl SampleRow {
    /// Returns whether a value was reported that is no number. Such a row is not valid, and still
    /// says something: the measurement broke, where a metric that cannot be measured here does not.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let is_absent = self.reason.as_deref().is_some_and(|reason| reason.starts_with(NOT_MEASURED));
        !self.value.is_finite() && !is_absent
    }
}

/// One token that was generated or scored: a row of `tokens.parquet`.
///
/// For a scored token, `request` is its window, `t_ns` the time from the beginning of the launch to
/// the end of that window, and the last four are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of design.md section 5")]
pub struct TokenRow {
    pub run_id: String,
    pub arm: String,
    pub launch: u32,
    pub workload: String,
    pub rep: u32,
    pub warmup: bool,
    pub request: u32,
    pub position: u32,
    pub token_id: u32,
    pub t_ns: u64,
    /// Gap to the token before; absent for the first.
    pub itl_ns: Option<u64>,
    /// Negative log-likelihood, nats.
    pub nll: Option<f64>,
    /// Negative log-likelihood by the reference, nats.
    pub reference_nll: Option<f64>,
    /// KL(reference || candidate) of the predictions at its position, nats.
    pub kl_divergence: Option<f64>,
    /// Whether both hold the same token to be the likeliest.
    pub top1_equal: Option<bool>,
}
