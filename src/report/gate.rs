//! The gate: three verdicts, so that noise is never sold as a result.
//!
//! A change is a *regression* when its interval excludes zero on the bad side and the estimate reaches
//! the threshold, a *pass* when the interval's bad end stays under the threshold, and *inconclusive*
//! otherwise. A regression of a timed metric counts once a second set of launches confirms it.
use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    compare::{Comparison, Effect, MetricComparison, Worse},
    number,
};
use crate::{
    metrics::{self, Direction, stats::Ratio},
    units::Percent,
};

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

/// Where a threshold comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// The recipe's `baseline.gates`.
    Recipe,
    /// The metric registry.
    Default,
    /// Twice the calibrated noise, which is more than what was asked for.
    Noise,
}

/// What gates are held to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// The recipe's `baseline.gates`: when there are any, only these metrics are gated.
    pub gates: BTreeMap<String, Percent>,
    /// Calibrated A/A noise by metric, as a ratio: no threshold goes below twice this.
    pub noise: BTreeMap<String, f64>,
}

impl Thresholds {
    /// Returns the metrics that are gated, in the order of the registry.
    fn gated(&self) -> Result<Vec<(&'static metrics::Metric, f64, ThresholdSource)>, GateError> {
        for metric in self.gates.keys() {
            match metrics::find(metric) {
                None => return Err(GateError::UnknownMetric { metric: metric.clone() }),
                Some(known) if known.direction == Direction::Neutral => {
                    return Err(GateError::NoBetter { metric: metric.clone() });
                }
                Some(_) => {}
            }
        }
        let asked = metrics::METRICS.iter().filter_map(|metric| {
            if self.gates.is_empty() {
                Some((metric, metric.gate?, ThresholdSource::Default))
            } else {
                Some((metric, self.gates.get(metric.name)?.0, ThresholdSource::Recipe))
            }
        });
        let raised = asked.map(|(metric, threshold, source)| match self.noise.get(metric.name) {
            Some(noise) if 2.0 * noise > threshold => (metric, 2.0 * noise, ThresholdSource::Noise),
            _ => (metric, threshold, source),
        });
        Ok(raised.collect())
    }
}

/// Why no gate can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// No such metric.
    #[error("gate on unknown metric `{metric}`")]
    UnknownMetric {
        /// Its name.
        metric: String,
    },
    /// A metric that has no better and worse.
    #[error("metric `{metric}` cannot be gated: it has no better and worse")]
    NoBetter {
        /// Its name.
        metric: String,
    },
}

/// What the second set of launches said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confirmation {
    /// Its change.
    pub ratio: Option<Ratio>,
    /// Its verdict.
    pub verdict: Verdict,
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
    /// The relative change for the worse that fails.
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
        gates.extend(measured.map(|change| judge(change, threshold, source, comparison.is_advisory())));
        if gates.len() == before && source != ThresholdSource::Default && thresholds.gates.contains_key(metric.name) {
            gates.push(not_measured(metric, threshold, source));
        }
    }
    let outcome = outcome_of(&comparison, &gates);
    Ok(GateReport { comparison, gates, outcome })
}

fn not_measured(metric: &metrics::Metric, threshold: f64, threshold_source: ThresholdSource) -> Gate {
    Gate {
        metric: metric.name.to_owned(),
        workload: String::new(),
        unit: metric.unit.to_owned(),
        direction: metric.direction,
        threshold,
        threshold_source,
        baseline: None,
        candidate: None,
        ratio: None,
        worse: None,
        verdict: Verdict::Inconclusive,
        advisory: false,
        needs_confirmation: false,
        confirmation: None,
        reason: Some("neither side measured it".to_owned()),
    }
}

fn judge(change: &MetricComparison, threshold: f64, threshold_source: ThresholdSource, advisory: bool) -> Gate {
    let worse = change.worse();
    let (verdict, why) =
        if change.deterministic { exact_verdict(change, worse, threshold) } else { verdict(worse, threshold) };
    let advisory = advisory && !change.deterministic;
    Gate {
        metric: change.metric.clone(),
        workload: change.workload.clone(),
        unit: change.unit.clone(),
        direction: change.direction,
        threshold,
        threshold_source,
        baseline: change.baseline,
        candidate: change.candidate,
        ratio: change.ratio,
        worse,
        verdict,
        advisory,
        needs_confirmation: verdict == Verdict::Regression && !change.deterministic && !advisory,
        confirmation: None,
        reason: change.reason.clone().or(why),
    }
}

/// Returns the verdict on a timed metric. Whatever is NaN is neither over nor under anything.
fn verdict(worse: Option<Worse>, threshold: f64) -> (Verdict, Option<String>) {
    let Some(Worse { estimate, interval }) = worse else {
        return (Verdict::Inconclusive, None);
    };
    let Some(interval) = interval else {
        return (Verdict::Inconclusive, Some("one pair of launches has no interval".to_owned()));
    };
    if interval.low > 0.0 && estimate >= threshold {
        (Verdict::Regression, None)
    } else if interval.high < threshold {
        (Verdict::Pass, None)
    } else {
        (
            Verdict::Inconclusive,
            Some(format!("the interval reaches {} worse", number::percent(interval.high).trim_start_matches('+'))),
        )
    }
}

/// Returns the verdict on a metric that does not vary: the values as they are.
fn exact_verdict(change: &MetricComparison, worse: Option<Worse>, threshold: f64) -> (Verdict, Option<String>) {
    match worse {
        Some(Worse { estimate, .. }) if estimate > 0.0 && estimate >= threshold => (Verdict::Regression, None),
        Some(Worse { estimate, .. }) if estimate.is_finite() => (Verdict::Pass, None),
        // The candidate was measured, and its value is no number: it broke.
        _ if change.baseline.is_some() && change.candidate.is_none() && change.candidate_launches > 0 => {
            (Verdict::Regression, Some("the candidate's value is not finite".to_owned()))
        }
        _ => (Verdict::Inconclusive, None),
    }
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

/// Returns the first gates with the regressions among them confirmed, or not, by a second set of
/// launches: a regression only if both say so, otherwise what the second says. This keeps the layout
/// and placement luck of one set of processes from failing a build.
#[must_use]
pub fn confirm(first: &[Gate], second: &[Gate]) -> Vec<Gate> {
    first
        .iter()
        .map(|gate| {
            if !gate.needs_confirmation {
                return gate.clone();
            }
            let again = second.iter().find(|again| again.metric == gate.metric && again.workload == gate.workload);
            let verdict = again.map_or(Verdict::Inconclusive, |again| again.verdict);
            let reason = match (again, verdict) {
                (None, _) => "not confirmed: the second set of launches did not measure it",
                (_, Verdict::Regression) => "confirmed by a second set of launches",
                (_, Verdict::Pass | Verdict::Inconclusive) => "not confirmed by a second set of launches",
            };
            Gate {
                verdict,
                needs_confirmation: false,
                confirmation: again.map(|again| Confirmation { ratio: again.ratio, verdict: again.verdict }),
                reason: Some(reason.to_owned()),
                ..gate.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
