//! Metrics: each registered once, with unit, direction, definition and version; the statistics on
//! them; and how an event stream becomes rows.
mod registry;
pub mod stats;

use serde::{Deserialize, Serialize};

pub use registry::{Direction, METRIC_SCHEMA_VERSION, METRICS, Metric, Replication, find};

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
