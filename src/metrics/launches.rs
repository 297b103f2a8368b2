//! Launch values: what statistics are over.
use std::collections::BTreeMap;

use super::{METRICS, Replication, SampleRow, find, stats};
use crate::event::Arm;

/// Returns (block, launch, value) of every launch of an arm, in order: the median over the launch's
/// valid repetitions that are no warm-up. A repetition that is NaN makes its launch NaN.
///
/// A row with a step is one position inside a workload (a window of a text, a training step), not a
/// repetition of it, and is left out.
#[must_use]
pub fn launch_values(rows: &[SampleRow], arm: Arm, metric: &str, workload: &str) -> Vec<(u32, u32, f64)> {
    let mut launches: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for row in rows {
        let counts = row.valid && !row.warmup && row.step.is_none();
        if counts && row.arm == arm.name() && row.metric == metric && row.workload == workload {
            launches.entry((row.block, row.launch)).or_default().push(row.value);
        }
    }
    launches
        .into_iter()
        .map(|((block, launch), values)| (block, launch, stats::median(&values).unwrap_or(f64::NAN)))
        .collect()
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
    for row in rows.iter().filter(|row| row.arm == arm.name() && row.valid && !row.warmup && row.step.is_none()) {
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
    for row in rows.iter().filter(|row| row.arm == arm.name() && row.valid && !row.workload.is_empty()) {
        if !found.contains(&row.workload.as_str()) {
            found.push(&row.workload);
        }
    }
    found
}

/// Returns whether a metric is the same in every launch.
#[must_use]
pub fn is_deterministic(metric: &str) -> bool {
    find(metric).is_some_and(|metric| metric.replication == Replication::Deterministic)
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
    fn one_nan_repetition_is_not_hidden() {
        let rows = [row("ttft_ms", "d", 0, 0, 0, f64::NAN), row("ttft_ms", "d", 0, 0, 1, 3.0)];
        assert!(launch_values(&rows, Arm::Candidate, "ttft_ms", "d")[0].2.is_nan());
    }
}
