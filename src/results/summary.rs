//! `summary.json`: each metric of a run in one line, for people and scripts without Parquet.
use serde::{Deserialize, Serialize};

use super::{
    layout::FORMAT_VERSION,
    record::{RunRecord, RunState},
};
use crate::{
    event::Arm,
    metrics::{self, MetricSummary, Problem},
};

/// `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the run directory's layout.
    pub format_version: u32,
    /// The run.
    pub run_id: String,
    /// The recipe's name.
    pub recipe: String,
    /// The cell's content hash.
    pub cell_hash: String,
    /// How it ended.
    pub state: RunState,
    /// What the cell itself measured, in the registry's order.
    pub metrics: Vec<MetricSummary>,
    /// What its baseline measured, in a comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baseline: Vec<MetricSummary>,
    /// What has no summary, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Summary {
    /// Returns the summary of a run.
    #[must_use]
    pub fn of(record: &RunRecord) -> Self {
        let (metrics, mut problems) = metrics::summarize(&record.samples, Arm::Candidate);
        let (baseline, more) = metrics::summarize(&record.samples, Arm::Baseline);
        problems.extend(more);
        let manifest = &record.manifest;
        Self {
            format_version: FORMAT_VERSION,
            run_id: manifest.run_id.clone(),
            recipe: manifest.recipe.clone(),
            cell_hash: manifest.cell_hash.clone(),
            state: manifest.state,
            metrics,
            baseline,
            problems,
        }
    }
}
