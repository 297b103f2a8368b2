//! The verdict on one metric.
use super::{Gate, ThresholdSource, Verdict};
use crate::{
    metrics::{self, Direction},
    report::{
        compare::{MetricComparison, Worse},
        number,
    },
};

/// Why a value that is no number fails its gate.
const BROKE: &str = "the candidate's value is not finite";

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
    // What broke is worse than anything slow, on any machine and at any time.
    let broke = change.candidate_broke() || change.candidate_lacks;
    let (verdict, reason) = if change.candidate_lacks {
        (Verdict::Regression, change.reason.clone())
    } else if broke {
        (Verdict::Regression, change.reason.clone().or_else(|| Some(BROKE.to_owned())))
    } else if let Some(of_nothing) = of_nothing(change) {
        of_nothing
    } else {
        let (verdict, why) =
            if change.deterministic { exact_verdict(worse, threshold) } else { verdict(worse, threshold) };
        (verdict, change.reason.clone().or(why))
    };
    let varies = !change.deterministic && !broke;
    let advisory = advisory && varies;
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
        needs_confirmation: verdict == Verdict::Regression && varies && !advisory,
        confirmation: None,
        reason,
    }
}

/// Returns the verdict on what was nothing before, or is now: no threshold is a share of that.
fn of_nothing(change: &MetricComparison) -> Option<(Verdict, Option<String>)> {
    let (old, new) = (change.baseline?, change.candidate?);
    if change.ratio.is_some() || old.min(new).abs() > 0.0 || old.is_nan() || new.is_nan() {
        return None;
    }
    let is_worse = match change.direction {
        Direction::Lower => new > old,
        Direction::Higher => new < old,
        Direction::Neutral => return None,
    };
    let verdict = if is_worse { Verdict::Regression } else { Verdict::Pass };
    let side = if old.abs() > 0.0 { "candidate" } else { "baseline" };
    Some((verdict, (old.max(new) > 0.0).then(|| format!("the {side}'s value is 0"))))
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
fn exact_verdict(worse: Option<Worse>, threshold: f64) -> (Verdict, Option<String>) {
    match worse {
        Some(Worse { estimate, .. }) if estimate > 0.0 && estimate >= threshold => (Verdict::Regression, None),
        Some(Worse { estimate, .. }) if estimate.is_finite() => (Verdict::Pass, None),
        _ => (Verdict::Inconclusive, None),
    }
}

/// Returns the gate of a bound: the candidate's own value, whatever the baseline's.
pub(super) fn judge_bound(change: &MetricComparison, bound: f64) -> Gate {
    let keeps = |value: f64| if change.direction == Direction::Higher { value >= bound } else { value <= bound };
    let (verdict, why) = match change.candidate {
        // Written so that NaN keeps no bound.
        Some(value) if keeps(value) => (Verdict::Pass, None),
        Some(_) => (Verdict::Regression, None),
        None if change.candidate_broke() => (Verdict::Regression, Some(BROKE.to_owned())),
        None if change.candidate_lacks => (Verdict::Regression, change.reason.clone()),
        None => (Verdict::Inconclusive, Some("the candidate did not measure it".to_owned())),
    };
    let exact = judge(change, 0.0, ThresholdSource::Bound, false);
    Gate { threshold: bound, verdict, reason: why, needs_confirmation: false, ..exact }
}
