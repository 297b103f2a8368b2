//! What one run measured, in one value per metric.
use serde::{Deserialize, Serialize};

use super::{
    SampleRow, is_deterministic, launch_values, measured,
    stats::{self, CONFIDENCE, Interval, StatsError},
    window_values,
};
use crate::event::Arm;

/// A metric of a workload, over the launches of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// The registered name.
    pub metric: String,
    /// The workload's label; empty for the process as a whole.
    pub workload: String,
    /// The unit of all values here.
    pub unit: String,
    /// Launches behind it.
    pub n: usize,
    /// Mean over launches.
    pub mean: f64,
    /// Student's t interval of the mean, 95 %: over launches, or, where a deterministic metric has
    /// values of single windows of a text, over windows; absent for one launch or window, and for
    /// all other deterministic metrics.
    pub interval: Option<Interval>,
    /// Median over launches.
    pub median: f64,
    /// Least over launches.
    pub min: f64,
    /// Greatest over launches.
    pub max: f64,
    /// Whether it should be the same in every launch.
    pub deterministic: bool,
}

/// A metric that has no summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The registered name.
    pub metric: String,
    /// The workload's label.
    pub workload: String,
    /// Why.
    pub reason: String,
}

/// Returns what an arm measured, one value a metric and workload, and which have none and why.
#[must_use]
pub fn summarize(rows: &[SampleRow], arm: Arm) -> (Vec<MetricSummary>, Vec<Problem>) {
    let (mut metrics, mut problems) = (Vec::new(), Vec::new());
    for item in measured(rows, arm) {
        let values: Vec<f64> =
            launch_values(rows, arm, item.metric, item.workload).into_iter().map(|(_, _, value)| value).collect();
        match summarize_values(item.metric, item.workload, item.unit, &values) {
            Ok(summary) if summary.deterministic => {
                let windows = window_values(rows, arm, item.metric, item.workload);
                let interval = stats::mean_interval(&windows, CONFIDENCE).ok().flatten();
                metrics.push(MetricSummary { interval, ..summary });
            }
            Ok(summary) => metrics.push(summary),
            Err(error) => problems.push(Problem {
                metric: item.metric.to_owned(),
                workload: item.workload.to_owned(),
                reason: error.to_string(),
            }),
        }
    }
    (metrics, problems)
}

fn summarize_values(metric: &str, workload: &str, unit: &str, values: &[f64]) -> Result<MetricSummary, StatsError> {
    let deterministic = is_deterministic(metric);
    Ok(MetricSummary {
        metric: metric.to_owned(),
        workload: workload.to_owned(),
        unit: unit.to_owned(),
        n: values.len(),
        mean: stats::mean(values)?,
        interval: if deterministic { None } else { stats::mean_interval(values, CONFIDENCE)? },
        median: stats::median(values)?,
        min: stats::quantile(values, 0.0)?,
        max: stats::quantile(values, 1.0)?,
        deterministic,
    })
}
