//! The verdict on one metric.
use super::{Gate, ThresholdSource, Verdict};
use crate::{
    metrics,
    report::{
        compare::{MetricComparison, Worse},
        number,
    },
};

pub(super) fn not_measured(metric: &metrics::Metric, threshold: f64, threshold_source: ThresholdSource) -> Gate {
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

pub(super) fn judge(
    change: &MetricComparison,
    threshold: f64,
    threshold_source: ThresholdSource,
    advisory: bool,
) -> Gate {
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
pub(super) fn verdict(worse: Option<Worse>, threshold: f64) -> (Verdict, Option<String>) {
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
