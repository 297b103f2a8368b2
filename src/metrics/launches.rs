//! Launch values: what statistics are over.
use std::collections::BTreeMap;

use super::{METRICS, Replication, SampleRow, find, stats};
use crate::event::Arm;

/// Returns (block, launch, value) of every launch of an arm, in order: the median over the launch's
/// valid repetitions that are no warm-up. A repetition that is no number ([`SampleRow::is_broken`])
/// makes its launch NaN: what broke must not look like what was never measured.
///
/// A row with a step is one position inside a workload (a window of a text, a training step), not a
/// repetition of it, and is left out.
#[must_use]
pub fn launch_values(rows: &[SampleRow], arm: Arm, metric: &str, workload: &str) -> Vec<(u32, u32, f64)> {
    let mut launches: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for row in rows {
        if counts(row, arm) && row.metric == metric && row.workload == workload {
            let value = if row.is_broken() { f64::NAN } else { row.value };
            launches.entry((row.block, row.launch)).or_default().push(value);
        }
    }
    launches
        .into_iter()
        .map(|((block, launch), values)| (block, launch, stats::median(&values).unwrap_or(f64::NAN)))
        .collect()
}

/// Returns whether a row is a value of a launch of this arm, broken ones included.
fn counts(row: &SampleRow, arm: Arm) -> bool {
    (row.valid || row.is_broken()) && !row.warmup && row.step.is_none() && row.arm == arm.name()
}

/// Returns the values of single windows of a text, in order, those of the last launch that has any.
///
/// They are the replicates of a metric that is the same in every launch: another text would have
/// given other windows. What has a course has none: the steps of a training do not repeat it.
#[must_use]
pub fn window_values(rows: &[SampleRow], arm: Arm, metric: &str, workload: &str) -> Vec<f64> {
    let has_course = find(metric).is_some_and(|metric| metric.replication == Replication::Course);
    let of_windows = |row: &&SampleRow| {
        !has_course
            && row.valid
            && row.step.is_some()
            && row.arm == arm.name()
            && row.metric == metric
            && row.workload == workload
    };
    let last = rows.iter().filter(of_windows).map(|row| row.launch).max();
    rows.iter().filter(of_windows).filter(|row| Some(row.launch) == last).map(|row| row.value).collect()
}

/// Something that was measured: a metric of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured<'a> {
    /// The registered name.
    pub metric: &'a str,
    /// The workload's label; empty for the process as a whole.
    pub workload: &'a str,
    /// The unit of its values.
    pub unit: &'a str,
}

/// Returns what an arm measured: metrics in the order of the registry, workloads in the order they
/// ran. Metrics this build does not know come last.
#[must_use]
pub fn measured(rows: &[SampleRow], arm: Arm) -> Vec<Measured<'_>> {
    let mut found: Vec<Measured<'_>> = Vec::new();
    for row in rows.iter().filter(|row| counts(row, arm)) {
        let item = Measured { metric: &row.metric, workload: &row.workload, unit: &row.unit };
        if !found.contains(&item) {
            found.push(item);
        }
    }
    let place =
        |item: &Measured<'_>| METRICS.iter().position(|metric| metric.name == item.metric).unwrap_or(METRICS.len());
    found.sort_by_key(place);
    found
}

/// Returns the labels of the workloads an arm ran, in order.
#[must_use]
pub fn workloads(rows: &[SampleRow], arm: Arm) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for row in
        rows.iter().filter(|row| row.arm == arm.name() && (row.valid || row.is_broken()) && !row.workload.is_empty())
    {
        if !found.contains(&row.workload.as_str()) {
            found.push(&row.workload);
        }
    }
    found
}

/// Returns whether a metric is the same in every launch.
#[must_use]
pub fn is_deterministic(metric: &str) -> bool {
    find(metric).is_some_and(|metric| metric.replication != Replication::Launch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::testing::row;

    #[test]
    fn a_launch_counts_once_by_the_median_of_its_valid_repetitions() {
        let mut rows = vec![
            row("decode_tok_s", "decode(p8,n8)", 0, 0, 0, 1.0),
            row("decode_tok_s", "decode(p8,n8)", 0, 0, 1, 10.0),
            row("decode_tok_s", "decode(p8,n8)", 0, 0, 2, 20.0),
            row("decode_tok_s", "decode(p8,n8)", 0, 0, 3, 900.0),
            row("decode_tok_s", "decode(p8,n8)", 1, 1, 0, 12.0),
            row("decode_tok_s", "decode(p9,n9)", 1, 1, 0, 77.0),
        ];
        rows[0].warmup = true;
        rows[3].valid = false;
        let values = launch_values(&rows, Arm::Candidate, "decode_tok_s", "decode(p8,n8)");
        assert_eq!(values, [(0, 0, 15.0), (1, 1, 12.0)]);
        assert!(launch_values(&rows, Arm::Baseline, "decode_tok_s", "decode(p8,n8)").is_empty());
    }

    #[test]
    fn values_of_single_windows_are_no_launch_values() {
        let mut window = row("nll", "perplexity(heldout,c512)", 0, 0, 0, 9.0);
        window.step = Some(0);
        let rows = [window, row("nll", "perplexity(heldout,c512)", 0, 0, 0, 3.0)];
        assert_eq!(launch_values(&rows, Arm::Candidate, "nll", "perplexity(heldout,c512)"), [(0, 0, 3.0)]);
    }

    #[test]
    fn windows_are_those_of_one_launch() {
        let window = |launch: u32, step: u64, value: f64| {
            let mut row = row("kl_mean", "k", 0, launch, 0, value);
            row.step = Some(step);
            row
        };
        let rows = [window(0, 0, 9.0), window(3, 0, 1.0), window(3, 1, 2.0), row("kl_mean", "k", 0, 3, 0, 1.5)];
        assert_eq!(window_values(&rows, Arm::Candidate, "kl_mean", "k"), [1.0, 2.0]);
        assert!(window_values(&rows, Arm::Baseline, "kl_mean", "k").is_empty());
        let course = |step| SampleRow { step: Some(step), ..row("train_loss", "t", 0, 0, 0, 5.0 - step as f64) };
        let rows: Vec<SampleRow> = (0..4).map(course).collect();
        assert!(is_deterministic("train_loss") && window_values(&rows, Arm::Candidate, "train_loss", "t").is_empty());
    }

    #[test]
    fn a_value_that_broke_counts_and_one_that_was_not_measured_does_not() {
        let mut broken = row("perplexity", "p", 0, 0, 0, f64::NAN);
        (broken.valid, broken.reason) = (false, Some("value is NaN".to_owned()));
        let mut absent = row("energy_j", "", 0, 0, 0, f64::NAN);
        (absent.valid, absent.reason) = (false, Some("not measured: no counters".to_owned()));
        let mut failed = row("ttft_ms", "d", 0, 1, 0, 3.0);
        (failed.valid, failed.reason) = (false, Some("launch failed: out of memory".to_owned()));
        let rows = [broken, absent, failed];
        let found: Vec<&str> = measured(&rows, Arm::Candidate).iter().map(|item| item.metric).collect();
        assert_eq!(found, ["perplexity"]);
        assert!(launch_values(&rows, Arm::Candidate, "perplexity", "p")[0].2.is_nan());
        assert!(launch_values(&rows, Arm::Candidate, "ttft_ms", "d").is_empty());
    }

    #[test]
    fn one_nan_repetition_is_not_hidden() {
        let rows = [row("ttft_ms", "d", 0, 0, 0, f64::NAN), row("ttft_ms", "d", 0, 0, 1, 3.0)];
        assert!(launch_values(&rows, Arm::Candidate, "ttft_ms", "d")[0].2.is_nan());
    }
}
