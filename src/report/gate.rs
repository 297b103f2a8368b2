//! The gate: three verdicts, so that noise is never sold as a result.
//!
//! A change is a *regression* when its interval excludes zero on the bad side and the estimate reaches
//! the threshold, a *pass* when the interval's bad end stays under the threshold, and *inconclusive*
//! otherwise. A regression of a timed metric counts once a second set of launches confirms it.
mod confirm;
mod judge;
mod rounds;
mod thresholds;

use serde::Serialize;

use super::{
    compare::{Comparison, Effect, Worse},
    number,
};
use crate::metrics::{Direction, stats::Ratio};

pub use confirm::{Confirmation, confirm};
pub use rounds::{Next, SetSize};
pub use thresholds::{GateError, ThresholdSource, Thresholds};

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Truly worse, by the threshold or more.
    Regression,
    /// Surely not worse by the threshold.
    Pass,
    /// The interval is too wide to say.
    Inconclusive,
}

/// One metric of one workload, held to its threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// The registered name.
    pub metric: String,
    /// The workload's label; empty for the process as a whole.
    pub workload: String,
    /// The unit of the values.
    pub unit: String,
    /// Which way is better.
    pub direction: Direction,
    /// The relative change for the worse that fails; of a bound, the value the candidate must not
    /// pass.
    pub threshold: f64,
    /// Where the threshold comes from.
    pub threshold_source: ThresholdSource,
    /// Mean over the baseline's launches.
    pub baseline: Option<f64>,
    /// Mean over the candidate's launches.
    pub candidate: Option<f64>,
    /// The change from baseline to candidate.
    pub ratio: Option<Ratio>,
    /// The same, positive for the worse.
    pub worse: Option<Worse>,
    /// What it says.
    pub verdict: Verdict,
    /// Whether it is a hint only: timed, and not measured side by side on one machine and build.
    pub advisory: bool,
    /// Whether it is a regression that a second set of launches has yet to confirm.
    pub needs_confirmation: bool,
    /// What the second set of launches said.
    pub confirmation: Option<Confirmation>,
    /// Why it says so, where the numbers do not speak for themselves.
    pub reason: Option<String>,
}

/// What all gates of a comparison say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Something got worse.
    Regression,
    /// The two sides cannot be compared.
    NotComparable,
    /// No regression, but not everything is sure. Advisory regressions end here.
    Inconclusive,
    /// Every gate passes.
    Pass,
}

/// How a gate ends a process; `cli` knows the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateExit {
    /// 0.
    Ok,
    /// 5.
    NotComparable,
    /// 10.
    Regression,
    /// 11, with `--strict` only.
    Inconclusive,
}

impl Outcome {
    /// Returns how to end the process.
    #[must_use]
    pub fn exit(self, strict: bool) -> GateExit {
        match self {
            Self::Regression => GateExit::Regression,
            Self::NotComparable => GateExit::NotComparable,
            Self::Inconclusive if strict => GateExit::Inconclusive,
            Self::Inconclusive | Self::Pass => GateExit::Ok,
        }
    }
}

/// A comparison held to its thresholds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// What was compared.
    pub comparison: Comparison,
    /// One a metric and workload, in the order of the registry; empty when not comparable.
    pub gates: Vec<Gate>,
    /// What they say together.
    pub outcome: Outcome,
}

impl Gate {
    /// Returns at what the gate fails, as text: `+3 %` for the worse, `> 0.001` for a bound.
    #[must_use]
    pub fn limit(&self) -> String {
        let is_higher = self.direction == Direction::Higher;
        if self.threshold_source == ThresholdSource::Bound {
            let (unit, scale) = number::shown_unit(&self.unit);
            let value = number::short(self.threshold / scale);
            return format!("{} {value} {unit}", if is_higher { "<" } else { ">" }).trim_end().to_owned();
        }
        format!("{}{}", if is_higher { "-" } else { "+" }, number::threshold(self.threshold))
    }
}

impl GateReport {
    /// Returns it with confirmed gates in place of its own.
    #[must_use]
    pub fn with_gates(mut self, gates: Vec<Gate>) -> Self {
        self.outcome = outcome_of(&self.comparison, &gates);
        self.gates = gates;
        self
    }
}

/// Returns the comparison held to its thresholds.
///
/// # Errors
///
/// If a threshold names a metric that does not exist or has no better and worse.
pub fn gate(comparison: Comparison, thresholds: &Thresholds) -> Result<GateReport, GateError> {
    let mut gates = Vec::new();
    for (metric, threshold, source) in thresholds.gated()? {
        if !comparison.is_comparable() {
            break;
        }
        let before = gates.len();
        let measured = comparison.metrics.iter().filter(|change| change.metric == metric.name);
        gates.extend(measured.map(|change| judge::judge(change, threshold, source, comparison.is_advisory())));
        if gates.len() == before && source != ThresholdSource::Default && thresholds.gates.contains_key(metric.name) {
            gates.push(judge::not_measured(metric, threshold, source));
        }
    }
    for (metric, bound) in thresholds.bounded().filter(|_| comparison.is_comparable()) {
        let before = gates.len();
        let measured = comparison.metrics.iter().filter(|change| change.metric == metric.name);
        gates.extend(measured.map(|change| judge::judge_bound(change, bound)));
        if gates.len() == before {
            gates.push(judge::not_measured(metric, bound, ThresholdSource::Bound));
        }
    }
    let outcome = outcome_of(&comparison, &gates);
    Ok(GateReport { comparison, gates, outcome })
}

fn outcome_of(comparison: &Comparison, gates: &[Gate]) -> Outcome {
    let forbidden = comparison.differences.iter().any(|difference| difference.effect == Effect::Forbids);
    if forbidden || gates.is_empty() {
        return Outcome::NotComparable;
    }
    let any = |wanted: Verdict| gates.iter().any(|gate| gate.verdict == wanted);
    if gates.iter().any(|gate| gate.verdict == Verdict::Regression && !gate.advisory) {
        Outcome::Regression
    } else if any(Verdict::Regression) || any(Verdict::Inconclusive) {
        Outcome::Inconclusive
    } else {
        Outcome::Pass
    }
}

/// Returns the outcome of several comparisons: the gravest, a regression before all.
#[must_use]
pub fn overall(reports: &[GateReport]) -> Outcome {
    let gravest = [Outcome::Regression, Outcome::NotComparable, Outcome::Inconclusive];
    gravest
        .into_iter()
        .find(|outcome| reports.iter().any(|report| report.outcome == *outcome))
        .unwrap_or(if reports.is_empty() { Outcome::NotComparable } else { Outcome::Pass })
}

#[cfg(test)]
mod tests;
