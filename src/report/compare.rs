//! Two sides of a comparison: whether they may be compared, and how they differ.
mod change;
mod comparability;
mod side;

use serde::Serialize;

use super::label;
use crate::metrics::{
    self, Direction, SampleRow, is_deterministic, launch_values, measured,
    stats::{CONFIDENCE, Interval, Ratio},
};

pub use comparability::{Difference, Effect};
pub use side::Side;

/// Whether launches of the two sides belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Interleaved in one session: pairs by block.
    Paired,
    /// From different sessions: advisory, because drift of the machine is part of the difference.
    Unpaired,
}

/// How one metric differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricComparison {
    /// The registered name.
    pub metric: String,
    /// The workload's label; empty for the process as a whole.
    pub workload: String,
    /// The unit of the values.
    pub unit: String,
    /// Which way is better.
    pub direction: Direction,
    /// Whether it is the same in every launch, and compared as it is.
    pub deterministic: bool,
    /// Mean over the baseline's launches; absent where it did not measure this.
    pub baseline: Option<f64>,
    /// Mean over the candidate's launches; absent where it did not measure this.
    pub candidate: Option<f64>,
    /// The baseline's launches that measured this.
    pub baseline_launches: usize,
    /// The candidate's launches that measured this.
    pub candidate_launches: usize,
    /// Whether only the baseline measured this, and the candidate says that it could not.
    pub candidate_lacks: bool,
    /// The change from baseline to candidate; absent for the reason below.
    pub ratio: Option<Ratio>,
    /// Why there is no change, or what to know about it.
    pub reason: Option<String>,
}

/// A change seen from its bad side: positive is worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worse {
    /// The relative change for the worse.
    pub estimate: f64,
    /// Its interval.
    pub interval: Option<Interval>,
}

impl MetricComparison {
    /// Returns whether the candidate reported a value that is no number.
    #[must_use]
    pub fn candidate_broke(&self) -> bool {
        self.candidate.is_none() && self.candidate_launches > 0
    }

    /// Returns the change for the worse: −change where more is better, so 10 % fewer tokens a second
    /// are 0.1; nothing for metrics that have no better.
    #[must_use]
    pub fn worse(&self) -> Option<Worse> {
        let Ratio { change, interval, n: _, method: _ } = self.ratio?;
        match self.direction {
            Direction::Lower => Some(Worse { estimate: change, interval }),
            Direction::Higher => Some(Worse {
                estimate: -change,
                interval: interval.map(|interval| Interval { low: -interval.high, high: -interval.low }),
            }),
            Direction::Neutral => None,
        }
    }
}

/// Two runs, or two arms of one, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The baseline's run.
    pub baseline_run: String,
    /// The candidate's run.
    pub candidate_run: String,
    /// What to call the baseline.
    pub baseline_label: String,
    /// What to call the candidate.
    pub candidate_label: String,
    /// The candidate's recipe.
    pub recipe: String,
    /// Whether launches are paired.
    pub pairing: Pairing,
    /// Everything that differs but the results.
    pub differences: Vec<Difference>,
    /// In the order of the registry, then of the workloads.
    pub metrics: Vec<MetricComparison>,
}

impl Comparison {
    /// Returns whether a verdict may be given at all.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        self.differences.iter().all(|difference| difference.effect != Effect::Forbids)
    }

    /// Returns whether changes of timed metrics are only a hint.
    #[must_use]
    pub fn is_advisory(&self) -> bool {
        self.differences.iter().any(|difference| difference.effect == Effect::Advisory)
    }
}

/// Returns how the candidate differs from the baseline, metric by metric.
///
/// Launches are paired by block when both sides were measured in one session: as two arms of one
/// run, or as runs of one recipe on one machine and build. Otherwise they are
/// compared unpaired, and the comparison is advisory.
#[must_use]
pub fn compare(baseline: &Side<'_>, candidate: &Side<'_>) -> Comparison {
    compare_at(baseline, candidate, CONFIDENCE)
}

/// Returns the same with intervals of another confidence, such as a confirmation wants.
#[must_use]
pub fn compare_at(baseline: &Side<'_>, candidate: &Side<'_>, confidence: f64) -> Comparison {
    let pairing = if comparability::interleaved(baseline, candidate) { Pairing::Paired } else { Pairing::Unpaired };
    let mut items = measured(candidate.samples, candidate.arm);
    for item in measured(baseline.samples, baseline.arm) {
        if !items.contains(&item) {
            items.push(item);
        }
    }
    let metrics = items
        .iter()
        .filter_map(|item| {
            let definition = metrics::find(item.metric)?;
            let mut comparison = MetricComparison {
                metric: item.metric.to_owned(),
                workload: item.workload.to_owned(),
                unit: item.unit.to_owned(),
                direction: definition.direction,
                deterministic: is_deterministic(item.metric),
                baseline: None,
                candidate: None,
                baseline_launches: 0,
                candidate_launches: 0,
                candidate_lacks: false,
                ratio: None,
                reason: None,
            };
            let values = |side: &Side<'_>| launch_values(side.samples, side.arm, item.metric, item.workload);
            let (old, new) = (values(baseline), values(candidate));
            let refused = refusal(candidate, item.metric, item.workload).is_some();
            comparison.candidate_lacks = refused && new.is_empty() && !old.is_empty();
            comparison.reason = [(baseline, &old, "baseline"), (candidate, &new, "candidate")]
                .into_iter()
                .find(|(_, values, _)| values.is_empty())
                .map(|(side, _, name)| unmeasured(side, name, item.metric, item.workload));
            change::change(&mut comparison, &old, &new, pairing, confidence);
            Some(comparison)
        })
        .collect();
    let mut labels = label::cell_labels(&[baseline.manifest, candidate.manifest]);
    let candidate_label = labels.pop().unwrap_or_default();
    let baseline_label = labels.pop().unwrap_or_default();
    Comparison {
        baseline_run: baseline.run_id().to_owned(),
        candidate_run: candidate.run_id().to_owned(),
        baseline_label,
        candidate_label,
        recipe: candidate.manifest.recipe.clone(),
        pairing,
        differences: comparability::differences(baseline, candidate, pairing),
        metrics,
    }
}

/// Returns where a side says that it could not measure something. What is not available is said of the whole launch.
fn refusal<'a>(side: &Side<'a>, metric: &str, workload: &str) -> Option<&'a SampleRow> {
    side.samples.iter().find(|row| {
        let is_of = row.workload == workload || row.workload.is_empty();
        !row.valid && row.arm == side.arm.name() && row.metric == metric && is_of
    })
}

/// Returns why a side has no value, as far as its rows tell.
fn unmeasured(side: &Side<'_>, name: &str, metric: &str, workload: &str) -> String {
    let row = refusal(side, metric, workload);
    let cause = row.and_then(|row| row.reason.as_deref()).map_or_else(String::new, |reason| format!(": {reason}"));
    format!("the {name} did not measure it{cause}")
}

#[cfg(test)]
mod tests;
