//! How one metric changed between two sides.
use std::collections::BTreeMap;

use super::{MetricComparison, Pairing};
use crate::metrics::{
    Direction,
    stats::{self, CONFIDENCE, IntervalMethod, Ratio, StatsError},
};

/// Block, launch and value.
pub(super) type LaunchValue = (u32, u32, f64);

fn values_of(launches: &[LaunchValue]) -> Vec<f64> {
    launches.iter().map(|&(_, _, value)| value).collect()
}

/// Returns pairs of the blocks both sides have; a block with several launches counts by their median.
fn pairs(baseline: &[LaunchValue], candidate: &[LaunchValue]) -> Vec<(f64, f64)> {
    let by_block = |launches: &[LaunchValue]| {
        let mut blocks: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for &(block, _, value) in launches {
            blocks.entry(block).or_default().push(value);
        }
        blocks
    };
    let median = |values: &[f64]| stats::median(values).unwrap_or(f64::NAN);
    let candidate = by_block(candidate);
    by_block(baseline)
        .iter()
        .filter_map(|(block, values)| Some((median(values), median(candidate.get(block)?))))
        .collect()
}

/// Fills in values and change.
pub(super) fn change(
    into: &mut MetricComparison,
    baseline: &[LaunchValue],
    candidate: &[LaunchValue],
    pairing: Pairing,
    confidence: f64,
) {
    let (old, new) = (values_of(baseline), values_of(candidate));
    (into.baseline_launches, into.candidate_launches) = (old.len(), new.len());
    into.baseline = stats::mean(&old).ok();
    into.candidate = stats::mean(&new).ok();
    if old.is_empty() || new.is_empty() || into.direction == Direction::Neutral {
        return;
    }
    let ratio = if into.deterministic {
        for (side, values) in [("baseline", &old), ("candidate", &new)] {
            if values.iter().any(|value| value.to_bits() != values[0].to_bits()) {
                into.reason = Some(format!("varies between launches of the {side}, where it should not"));
            }
        }
        exact(&old, &new)
    } else if pairing == Pairing::Paired {
        stats::paired_log_ratio(&pairs(baseline, candidate), confidence)
    } else {
        stats::welch_log_ratio(&old, &new, confidence)
    };
    match ratio {
        Ok(ratio) => into.ratio = Some(ratio),
        Err(StatsError::Empty) => into.reason = Some("no block has launches of both sides".to_owned()),
        Err(error) => into.reason = Some(error.to_string()),
    }
}

/// Returns the change of a value that does not vary. Two equal values have none, zeros included; of what is not
/// positive it is the difference in parts of what it was.
pub(super) fn exact(baseline: &[f64], candidate: &[f64]) -> Result<Ratio, StatsError> {
    let (old, new) = (stats::median(baseline)?, stats::median(candidate)?);
    let n = baseline.len().min(candidate.len());
    if old.to_bits() == new.to_bits() {
        return Ok(Ratio { change: 0.0, interval: None, n, method: IntervalMethod::Exact });
    }
    if old.abs() > 0.0 && old.min(new) <= 0.0 {
        let change = (new - old) / old.abs();
        return Ok(Ratio { change, interval: None, n, method: IntervalMethod::Exact });
    }
    let ratio = stats::paired_log_ratio(&[(old, new)], CONFIDENCE)?;
    Ok(Ratio { n, method: IntervalMethod::Exact, ..ratio })
}
