//! What one run measured, in one value per metric.
use indexmap::IndexMap;
use serde::Serialize;

use crate::{
    event::Arm,
    metrics::{self, MetricSummary, Problem},
    plan::ModelIdentity,
    recipe::schema::KernelSet,
    results::{RunKind, RunRecord, RunState},
};

/// What one run measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run_id: String,
    /// The recipe's name.
    pub recipe: String,
    /// The cell.
    pub cell_hash: String,
    /// The cell's matrix values.
    pub axes: IndexMap<String, serde_json::Value>,
    /// The random seed.
    pub seed: u64,
    /// Why the run was made.
    pub kind: RunKind,
    /// Where it stands.
    pub state: RunState,
    /// Why it failed or is invalid.
    pub reason: Option<String>,
    /// Which arm this is about.
    pub arm: Arm,
    /// The kernel set that ran.
    pub kernel_set: KernelSet,
    /// Worker threads.
    pub threads: u16,
    /// The weights.
    pub model: ModelIdentity,
    /// The machine.
    pub host_id: String,
    /// Its processor.
    pub cpu: String,
    /// `ruvlab`'s version and commit.
    pub build: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC; absent while running.
    pub ended_at: Option<String>,
    /// Launches that finished well.
    pub launches_complete: u32,
    /// Launches that did not.
    pub launches_failed: u32,
    /// In the order of the registry, then of the workloads.
    pub metrics: Vec<MetricSummary>,
    /// What was measured and cannot be summarised.
    pub problems: Vec<Problem>,
}

impl RunSummary {
    /// Returns the summary of a metric of a workload.
    #[must_use]
    pub fn find(&self, metric: &str, workload: &str) -> Option<&MetricSummary> {
        self.metrics.iter().find(|summary| summary.metric == metric && summary.workload == workload)
    }

    /// Returns the summaries of a metric, one a workload.
    pub fn all(&self, metric: &str) -> impl Iterator<Item = &MetricSummary> {
        self.metrics.iter().filter(move |summary| summary.metric == metric)
    }
}

/// Returns what an arm of a run measured.
#[must_use]
pub fn summarize(record: &RunRecord, arm: Arm) -> RunSummary {
    let (metrics, problems) = metrics::summarize(&record.samples, arm);
    let manifest = record.manifest.clone();
    RunSummary {
        run_id: manifest.run_id,
        recipe: manifest.recipe,
        cell_hash: manifest.cell_hash,
        axes: manifest.axes,
        seed: manifest.seed,
        kind: manifest.kind,
        state: manifest.state,
        reason: manifest.reason,
        arm,
        kernel_set: manifest.kernel_set,
        threads: manifest.threads,
        model: manifest.model,
        build: manifest.host.build(),
        host_id: manifest.host.host_id,
        cpu: manifest.host.cpu,
        started_at: manifest.started_at,
        ended_at: manifest.ended_at,
        launches_complete: manifest.launches_complete,
        launches_failed: manifest.launches_failed,
        metrics,
        problems,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{SampleRow, testing::row},
        report::testing::record,
    };

    #[test]
    fn launches_are_the_replicates() {
        let rows: Vec<SampleRow> = [(0, 10.0), (1, 12.0), (2, 14.0)]
            .into_iter()
            .flat_map(|(launch, value)| (0..5).map(move |rep| row("decode_tok_s", "d", launch, launch, rep, value)))
            .collect();
        let summary = summarize(&record(rows), Arm::Candidate);
        let decode = summary.find("decode_tok_s", "d").unwrap();
        assert_eq!((decode.n, decode.mean, decode.median, decode.min, decode.max), (3, 12.0, 12.0, 10.0, 14.0));
        // 12 ± t(0.975, 2) · 2 / √3
        assert!((decode.interval.unwrap().half_width() - 4.302_652_73 * 2.0 / 3f64.sqrt()).abs() <= 1e-6);
    }

    #[test]
    fn deterministic_metrics_have_no_interval() {
        let rows = (0..3).map(|launch| row("perplexity", "p", launch, launch, 0, 7.5)).collect();
        let summary = summarize(&record(rows), Arm::Candidate);
        let perplexity = summary.find("perplexity", "p").unwrap();
        assert_eq!((perplexity.mean, perplexity.interval, perplexity.deterministic), (7.5, None, true));
    }

    #[test]
    fn nan_is_a_problem_and_not_a_mean() {
        let rows = vec![row("perplexity", "p", 0, 0, 0, f64::NAN), row("decode_tok_s", "d", 0, 0, 0, 3.0)];
        let summary = summarize(&record(rows), Arm::Candidate);
        assert!(summary.find("perplexity", "p").is_none());
        assert!(summary.find("decode_tok_s", "d").is_some());
        assert_eq!(summary.problems.len(), 1);
        assert!(summary.problems[0].reason.contains("not finite"));
    }

    #[test]
    fn metrics_come_in_the_order_of_the_registry() {
        let rows = vec![row("perplexity", "p", 0, 0, 0, 3.0), row("prefill_tok_s", "d", 0, 0, 0, 3.0)];
        let summary = summarize(&record(rows), Arm::Candidate);
        assert_eq!(
            summary.metrics.iter().map(|m| m.metric.as_str()).collect::<Vec<_>>(),
            ["prefill_tok_s", "perplexity"]
        );
    }
}
