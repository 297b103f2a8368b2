//! `summary.json`: each metric of a run in one line, for people and scripts without Parquet.
use serde::{Deserialize, Serialize};

use super::{
    layout::FORMAT_VERSION,
    record::{RunRecord, RunState},
};
use crate::{
    event::Arm,
    metrics::{METRICS, launch_values, median},
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
    /// Every metric that was measured: the candidate's before the baseline's, in the registry's
    /// order, workloads in the order they ran.
    pub metrics: Vec<MetricSummary>,
}

/// A metric of one workload: statistics over the medians of the launches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are what they are called, in the metric's unit")]
pub struct MetricSummary {
    pub arm: Arm,
    pub metric: String,
    /// The workload's label; empty for the process.
    pub workload: String,
    pub unit: String,
    /// Launches that measured it.
    pub launches: usize,
    pub median: f64,
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// Returns the summary of a run.
    #[must_use]
    pub fn of(record: &RunRecord) -> Self {
        let mut workloads: Vec<&str> = Vec::new();
        for row in &record.samples {
            if !workloads.contains(&row.workload.as_str()) {
                workloads.push(&row.workload);
            }
        }
        let mut metrics = Vec::new();
        for arm in [Arm::Candidate, Arm::Baseline] {
            for metric in METRICS {
                for workload in &workloads {
                    let values = launch_values(&record.samples, arm, metric.name, workload);
                    let values: Vec<f64> = values.into_iter().map(|(_, _, value)| value).collect();
                    let Some(median) = median(&values) else { continue };
                    metrics.push(MetricSummary {
                        arm,
                        metric: metric.name.to_owned(),
                        workload: (*workload).to_owned(),
                        unit: metric.unit.to_owned(),
                        launches: values.len(),
                        median,
                        mean: mean(&values),
                        min: values.iter().copied().fold(f64::INFINITY, f64::min),
                        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    });
                }
            }
        }
        let manifest = &record.manifest;
        Self {
            format_version: FORMAT_VERSION,
            run_id: manifest.run_id.clone(),
            recipe: manifest.recipe.clone(),
            cell_hash: manifest.cell_hash.clone(),
            state: manifest.state,
            metrics,
        }
    }
}

/// Returns the mean, each value divided first so that large ones do not overflow.
fn mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    values.iter().map(|value| value / count).sum()
}
