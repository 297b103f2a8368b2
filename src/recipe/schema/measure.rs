//! How often, in what order, and against what.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Percent;

/// How often and in what order things are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Process launches of each cell: the replicates of every statistic.
    pub launches: Launches,
    /// Repetitions at the start of each workload that do not count. A trace of `kv_pressure` runs once, without:
    /// how its cache fills is what it measures.
    #[schemars(range(max = 1000))]
    pub warmup: u32,
    /// What separates two launches.
    pub isolation: Isolation,
    /// The order of launches.
    pub order: Order,
    /// Keep the time of every generated token in `tokens.parquet`.
    pub token_trace: bool,
}

impl Default for Measure {
    fn default() -> Self {
        Self {
            launches: Launches::default(),
            warmup: 1,
            isolation: Isolation::Process,
            order: Order::Interleaved,
            token_trace: true,
        }
    }
}

/// Process launches of each cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Launches {
    /// At least this many.
    #[schemars(range(min = 1, max = 1000))]
    pub min: u32,
    /// At most this many.
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
    /// Stop between the two once the 95 % interval of every throughput is this narrow: half its
    /// width as a share of the mean.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub target_ci_half_width: f64,
}

impl Default for Launches {
    fn default() -> Self {
        Self { min: 5, max: 10, target_ci_half_width: 0.02 }
    }
}

/// What separates two launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A process each.
    #[default]
    Process,
}

/// The order of launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Rounds of one launch a cell, in random order inside each: drift hits all cells alike.
    #[default]
    Interleaved,
    /// Rounds in the order of the matrix.
    Declared,
}

/// What results are compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Baseline {
    /// The stored baseline `baseline check` takes when none is named.
    pub name: Option<String>,
    /// A cell of this very matrix to compare all others with after a run, by its axis values:
    /// `{kernels.set: reference}`. Axes that it does not name, and the seed, are those of the cell it is compared with.
    pub cell: BTreeMap<String, serde_json::Value>,
    /// Thresholds by metric; a worse change fails the gate. Without any, the metrics of the
    /// workloads are held to their default thresholds.
    pub gates: BTreeMap<String, Percent>,
    /// Limits by metric for the value itself, whatever the baseline's: at most this much, or at
    /// least where more is better. For metrics that are the same in every launch, such as
    /// `{kl_mean: 1.0e-3, top1_agreement: 0.99}`.
    pub bounds: BTreeMap<String, f64>,
}
