use std::collections::BTreeMap;

use super::{judge::verdict, *};
use crate::{
    event::Arm,
    metrics::{stats::Interval, testing::row},
    recipe::schema::Launches,
    report::{
        compare::{Side, compare},
        testing::{Truth, check, manifest},
    },
    results::RunRecord,
    units::Percent,
};

fn worse(estimate: f64, low: f64, high: f64) -> Option<Worse> {
    Some(Worse { estimate, interval: Some(Interval { low, high }) })
}

fn judge_run(run: &RunRecord, thresholds: &Thresholds) -> GateReport {
    let stored = manifest();
    gate(compare(&Side::rerun(&stored, run), &Side::of(run)), thresholds).unwrap()
}

fn find<'a>(report: &'a GateReport, metric: &str) -> &'a Gate {
    report.gates.iter().find(|gate| gate.metric == metric).unwrap()
}

#[test]
fn the_verdict_has_three_values() {
    use Verdict::{Inconclusive, Pass, Regression};
    for (case, threshold, expected) in [
        (worse(0.10, 0.08, 0.12), 0.03, Regression),
        (worse(0.00, -0.01, 0.01), 0.03, Pass),
        (worse(0.02, -0.02, 0.06), 0.03, Inconclusive),
        // Surely worse, surely by less than the threshold.
        (worse(0.01, 0.005, 0.015), 0.03, Pass),
        // Surely worse, and perhaps by the threshold.
        (worse(0.02, 0.005, 0.035), 0.03, Inconclusive),
        // Far, but perhaps nothing.
        (worse(0.10, -0.01, 0.21), 0.03, Inconclusive),
        // Better.
        (worse(-0.10, -0.12, -0.08), 0.03, Pass),
        // An interval that touches zero does not exclude it.
        (worse(0.04, 0.0, 0.08), 0.03, Inconclusive),
        // An estimate at the threshold reaches it.
        (worse(0.03, 0.01, 0.05), 0.03, Regression),
        // A bad end at the threshold does not stay under it.
        (worse(0.01, -0.01, 0.03), 0.03, Inconclusive),
        // NaN is never good enough.
        (worse(f64::NAN, f64::NAN, f64::NAN), 0.03, Inconclusive),
        (worse(0.10, 0.08, 0.12), f64::NAN, Inconclusive),
        (worse(0.0, -0.01, f64::NAN), 0.03, Inconclusive),
        (Some(Worse { estimate: 0.5, interval: None }), 0.03, Inconclusive),
        (None, 0.03, Inconclusive),
    ] {
        assert_eq!(verdict(case, threshold).0, expected, "{case:?} at {threshold}");
    }
}

#[test]
fn a_slowdown_of_ten_percent_is_found() {
    let slow = Truth { decode_tok_s: 45.0, ..Truth::default() };
    let found = (0..100)
        .filter(|&seed| {
            let report = judge_run(&check(Truth::default(), slow, seed), &Thresholds::default());
            let decode = find(&report, "decode_tok_s");
            decode.verdict == Verdict::Regression && decode.needs_confirmation && report.outcome == Outcome::Regression
        })
        .count();
    assert!(found >= 98, "{found} of 100");
}

#[test]
fn equal_arms_are_alarming_rarely_and_confirmed_hardly_ever() {
    let mut alarms = 0;
    let mut confirmed = 0;
    for seed in 0..300 {
        let run = |seed| judge_run(&check(Truth::default(), Truth::default(), seed), &Thresholds::default());
        let first = run(seed);
        alarms += usize::from(first.outcome == Outcome::Regression);
        if first.outcome == Outcome::Regression {
            let second = run(seed + 10_000);
            let gates = confirm(&first.gates, &second.gates);
            confirmed += usize::from(first.with_gates(gates).outcome == Outcome::Regression);
        }
    }
    // Four noisy gates, each with a chance of 2.5 % to exclude zero and less to reach its threshold.
    assert!(alarms <= 24, "{alarms} of 300 first sets");
    assert!(confirmed <= 1, "{confirmed} of 300 after confirmation");
}

#[test]
fn lower_is_better_for_latencies() {
    let quick = Truth { prefill_tok_s: 800.0, ..Truth::default() };
    let report = judge_run(&check(quick, Truth::default(), 3), &Thresholds::default());
    assert_eq!(find(&report, "ttft_ms").verdict, Verdict::Regression);
    assert!(find(&report, "ttft_ms").ratio.unwrap().change > 0.9);
    let report = judge_run(&check(Truth::default(), quick, 3), &Thresholds::default());
    assert_eq!(find(&report, "ttft_ms").verdict, Verdict::Pass);
}

#[test]
fn perplexity_is_gated_as_it_is_and_needs_no_confirmation() {
    let at = |perplexity: f64| {
        let candidate = Truth { perplexity: Some(perplexity), ..Truth::default() };
        let report = judge_run(&check(Truth::default(), candidate, 5), &Thresholds::default());
        find(&report, "perplexity").clone()
    };
    assert_eq!(at(7.5).verdict, Verdict::Pass);
    assert_eq!(at(7.53).verdict, Verdict::Pass);
    assert_eq!(at(7.0).verdict, Verdict::Pass);
    let worse = at(7.54);
    assert_eq!((worse.verdict, worse.needs_confirmation, worse.advisory), (Verdict::Regression, false, false));
    let broken = at(f64::NAN);
    assert_eq!(broken.verdict, Verdict::Regression);
    assert_eq!(broken.reason.as_deref(), Some("value NaN is not finite"));
}

#[test]
fn exact_metrics_pass_a_threshold_of_zero_only_when_equal() {
    let thresholds = Thresholds { gates: [("perplexity".to_owned(), Percent(0.0))].into(), ..Thresholds::default() };
    let equal = judge_run(&check(Truth::default(), Truth::default(), 5), &thresholds);
    assert_eq!((equal.outcome, equal.gates.len()), (Outcome::Pass, 1));
    let a_hair_worse = Truth { perplexity: Some(7.500_001), ..Truth::default() };
    assert_eq!(judge_run(&check(Truth::default(), a_hair_worse, 5), &thresholds).outcome, Outcome::Regression);
}

#[test]
fn gates_of_the_recipe_replace_the_defaults_and_noise_raises_them() {
    let thresholds = Thresholds {
        gates: [("decode_tok_s".to_owned(), Percent(0.07)), ("ttft_ms".to_owned(), Percent(0.05))].into(),
        bounds: BTreeMap::new(),
        noise: [("ttft_ms".to_owned(), 0.04)].into(),
    };
    let report = judge_run(&check(Truth::default(), Truth::default(), 5), &thresholds);
    let held: Vec<_> = report.gates.iter().map(|g| (g.metric.as_str(), g.threshold, g.threshold_source)).collect();
    assert_eq!(held, [("decode_tok_s", 0.07, ThresholdSource::Recipe), ("ttft_ms", 0.08, ThresholdSource::Noise)]);
}

#[test]
fn gates_on_nonsense_are_errors() {
    let run = check(Truth::default(), Truth::default(), 5);
    let stored = manifest();
    for (metric, message) in [
        ("decode_toks", "gate on unknown metric `decode_toks`"),
        ("tokens_digest", "metric `tokens_digest` cannot be gated: it has no better and worse"),
    ] {
        let thresholds = Thresholds { gates: [(metric.to_owned(), Percent(0.1))].into(), ..Thresholds::default() };
        let error = gate(compare(&Side::rerun(&stored, &run), &Side::of(&run)), &thresholds).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_gated_metric_nobody_measured_is_not_passed_over() {
    let thresholds = Thresholds { gates: [("energy_j".to_owned(), Percent(0.1))].into(), ..Thresholds::default() };
    let report = judge_run(&check(Truth::default(), Truth::default(), 5), &thresholds);
    assert_eq!(find(&report, "energy_j").verdict, Verdict::Inconclusive);
    assert_eq!(report.outcome, Outcome::Inconclusive);
}

#[test]
fn what_is_not_comparable_gets_no_gates() {
    let mut run = check(Truth::default(), Truth::default(), 5);
    run.samples.retain(|row| !(row.arm == Arm::Candidate.name() && row.workload.starts_with("decode")));
    let report = judge_run(&run, &Thresholds::default());
    assert_eq!((report.outcome, report.gates.len()), (Outcome::NotComparable, 0));
    assert_eq!(report.outcome.exit(false), GateExit::NotComparable);
}

#[test]
fn an_advisory_regression_never_fails_but_is_not_passed_either() {
    let fast = Truth::default().record(1);
    let mut slow = Truth { decode_tok_s: 40.0, ..Truth::default() }.record(2);
    slow.manifest.run_id = "0190bbbb".to_owned();
    slow.manifest.host.host_id = "another".to_owned();
    slow.samples.iter_mut().for_each(|row| row.run_id = "0190bbbb".to_owned());
    let report = gate(compare(&Side::of(&fast), &Side::of(&slow)), &Thresholds::default()).unwrap();
    let decode = find(&report, "decode_tok_s");
    assert_eq!((decode.verdict, decode.advisory, decode.needs_confirmation), (Verdict::Regression, true, false));
    assert_eq!(report.outcome, Outcome::Inconclusive);
    assert_eq!((report.outcome.exit(false), report.outcome.exit(true)), (GateExit::Ok, GateExit::Inconclusive));
    let worse_text = Truth { perplexity: Some(9.0), ..Truth::default() }.record(2);
    let mut other = worse_text;
    other.manifest.host.host_id = "another".to_owned();
    let report = gate(compare(&Side::of(&fast), &Side::of(&other)), &Thresholds::default()).unwrap();
    assert_eq!(report.outcome, Outcome::Regression, "quality does not depend on the machine");
}

#[test]
fn a_regression_needs_both_sets_of_launches() {
    let slow = Truth { decode_tok_s: 42.0, ..Truth::default() };
    let gates = |candidate: Truth, seed| judge_run(&check(Truth::default(), candidate, seed), &Thresholds::default());
    let (bad, again, good) = (gates(slow, 1), gates(slow, 2), gates(Truth { noise: 0.001, ..Truth::default() }, 3));
    let decode = |gates: &[Gate]| gates.iter().find(|gate| gate.metric == "decode_tok_s").unwrap().clone();

    let confirmed = decode(&confirm(&bad.gates, &again.gates));
    assert_eq!((confirmed.verdict, confirmed.needs_confirmation), (Verdict::Regression, false));
    assert_eq!(confirmed.confirmation.unwrap().verdict, Verdict::Regression);

    let refuted = decode(&confirm(&bad.gates, &good.gates));
    assert_ne!(refuted.verdict, Verdict::Regression);
    assert_eq!(refuted.reason.as_deref(), Some("not confirmed by a second set of launches"));

    let missing = decode(&confirm(&bad.gates, &[]));
    assert_eq!(missing.verdict, Verdict::Inconclusive);
    assert_eq!(missing.confirmation, Some(Confirmation { ratio: None, verdict: Verdict::Inconclusive }));
}

#[test]
fn a_set_has_the_rounds_that_the_recipe_says_and_three_at_least() {
    for (min, max, least, most) in [(5, 5, 5, 15), (5, 20, 5, 20), (3, 4, 3, 9), (2, 8, 3, 9), (1, 1, 3, 9)] {
        let launches = Launches { min, max, ..Launches::default() };
        assert_eq!(SetSize::of(&launches), SetSize { least, most }, "{min} to {max}");
    }
}

/// Returns a report whose gates pass, but for these.
fn report_with(others: &[(&str, Verdict)]) -> GateReport {
    let report = judge_run(&check(Truth::default(), Truth::default(), 5), &Thresholds::default());
    let mut gates = report.gates.clone();
    for gate in &mut gates {
        let other = others.iter().find(|(metric, _)| *metric == gate.metric);
        gate.verdict = other.map_or(Verdict::Pass, |(_, verdict)| *verdict);
        gate.needs_confirmation = gate.verdict == Verdict::Regression;
    }
    report.with_gates(gates)
}

fn confirmed_by(first: &GateReport, second: &GateReport) -> GateReport {
    first.clone().with_gates(confirm(&first.gates, &second.gates))
}

#[test]
fn sampling_goes_on_after_a_regression_that_a_second_set_clears() {
    let size = SetSize { least: 3, most: 5 };
    let first = report_with(&[("decode_tok_s", Verdict::Regression), ("ttft_ms", Verdict::Inconclusive)]);
    assert_eq!(size.next(&first, 3), Next::Confirm);
    let cleared = confirmed_by(&first, &report_with(&[]));
    assert_eq!((cleared.outcome, cleared.is_undecided()), (Outcome::Inconclusive, true));
    assert_eq!(size.next(&cleared, 3), Next::Sample);
    assert_eq!(size.next(&cleared, 5), Next::Conclude, "no rounds are left");

    // All rounds together say again what the second set did not confirm: that is settled, the other gate is not.
    let again = cleared.rejudged(first.clone());
    assert_eq!(find(&again, "decode_tok_s"), find(&cleared, "decode_tok_s"));
    assert_eq!((again.outcome, size.next(&again, 4)), (Outcome::Inconclusive, Next::Sample));
    let passed = again.rejudged(report_with(&[]));
    assert_eq!((passed.outcome, size.next(&passed, 4)), (Outcome::Pass, Next::Conclude));
    let worse = again.rejudged(report_with(&[("ttft_ms", Verdict::Regression)]));
    assert_eq!((worse.outcome, size.next(&worse, 4)), (Outcome::Regression, Next::Confirm));
}

#[test]
fn sampling_ends_with_what_is_sure_and_with_what_a_second_set_left_open() {
    let size = SetSize { least: 3, most: 5 };
    let first = report_with(&[("decode_tok_s", Verdict::Regression), ("ttft_ms", Verdict::Inconclusive)]);
    let sure = confirmed_by(&first, &first);
    assert_eq!((sure.outcome, size.next(&sure, 3)), (Outcome::Regression, Next::Conclude));
    let alone = report_with(&[("decode_tok_s", Verdict::Regression)]);
    for second in [report_with(&[("decode_tok_s", Verdict::Inconclusive)]), alone.clone().with_gates(Vec::new())] {
        let open = confirmed_by(&alone, &second);
        assert_eq!((open.outcome, size.next(&open, 3)), (Outcome::Inconclusive, Next::Conclude));
    }
    let undecided = report_with(&[("ttft_ms", Verdict::Inconclusive)]);
    assert_eq!((size.next(&undecided, 4), size.next(&undecided, 5)), (Next::Sample, Next::Conclude));
    assert_eq!(size.next(&report_with(&[]), 3), Next::Conclude);
}

#[test]
fn confirmation_leaves_what_it_need_not_ask() {
    let candidate = Truth { perplexity: Some(9.0), ..Truth::default() };
    let first = judge_run(&check(Truth::default(), candidate, 1), &Thresholds::default());
    let perplexity = confirm(&first.gates, &[]).into_iter().find(|gate| gate.metric == "perplexity").unwrap();
    assert_eq!(perplexity.verdict, Verdict::Regression);
}

#[test]
fn one_pair_is_inconclusive() {
    let candidate = Truth { decode_tok_s: 25.0, launches: 1, ..Truth::default() };
    let run = check(Truth { launches: 1, ..Truth::default() }, candidate, 1);
    let report = judge_run(&run, &Thresholds::default());
    let decode = find(&report, "decode_tok_s");
    assert_eq!(decode.verdict, Verdict::Inconclusive);
    assert_eq!(decode.reason.as_deref(), Some("one pair of launches has no interval"));
}

#[test]
fn the_gravest_outcome_of_several_counts() {
    let of = |outcome: Outcome| {
        let run = check(Truth::default(), Truth::default(), 5);
        GateReport { outcome, ..judge_run(&run, &Thresholds::default()) }
    };
    use Outcome::{Inconclusive, NotComparable, Pass, Regression};
    assert_eq!(overall(&[of(Pass), of(Inconclusive), of(Pass)]), Inconclusive);
    assert_eq!(overall(&[of(NotComparable), of(Regression)]), Regression);
    assert_eq!(overall(&[of(NotComparable), of(Inconclusive)]), NotComparable);
    assert_eq!(overall(&[of(Pass)]), Pass);
    assert_eq!(overall(&[]), NotComparable);
    assert_eq!(Regression.exit(false), GateExit::Regression);
    assert_eq!(Pass.exit(true), GateExit::Ok);
}

#[test]
fn the_json_names_its_fields() {
    let report = judge_run(&check(Truth::default(), Truth::default(), 5), &Thresholds::default());
    let json = serde_json::to_value(&report).unwrap();
    let gate = &json["gates"][0];
    for field in ["metric", "workload", "threshold", "ratio", "verdict", "needs_confirmation", "advisory", "reason"] {
        assert!(gate.get(field).is_some(), "{field}");
    }
    assert!(json["outcome"].is_string());
    assert!(json["comparison"]["differences"].is_array());
}

fn with_kl(run: &mut RunRecord, arm: Arm, mean: f64, agreement: f64) {
    for (metric, value) in [("kl_mean", mean), ("top1_agreement", agreement)] {
        let mut found = row(metric, "kl_divergence(heldout,c256,vs f32)", 0, 90, 0, value);
        arm.name().clone_into(&mut found.arm);
        if !value.is_finite() {
            (found.valid, found.reason) = (false, Some(format!("value is {value}")));
        }
        run.samples.push(found);
    }
}

#[test]
fn bounds_hold_the_candidates_own_value() {
    let bounds = [("kl_mean".to_owned(), 1.0e-3), ("top1_agreement".to_owned(), 0.99)];
    let gates: BTreeMap<String, Percent> = [("perplexity".to_owned(), Percent(0.01))].into();
    let thresholds = Thresholds { gates, bounds: bounds.into(), ..Thresholds::default() };
    let at = |mean: f64, agreement: f64| {
        let mut run = check(Truth::default(), Truth::default(), 5);
        with_kl(&mut run, Arm::Baseline, 0.5, 0.2);
        with_kl(&mut run, Arm::Candidate, mean, agreement);
        judge_run(&run, &thresholds)
    };
    let good = at(1.0e-3, 0.99);
    let names: Vec<&str> = good.gates.iter().map(|gate| gate.metric.as_str()).collect();
    assert_eq!((good.outcome, names), (Outcome::Pass, vec!["perplexity", "kl_mean", "top1_agreement"]));
    assert_eq!(good.gates[1].limit(), "> 0.001 nats");
    assert_eq!(good.gates[2].limit(), "< 0.99");
    assert_eq!(at(1.01e-3, 1.0).outcome, Outcome::Regression, "far better than the baseline, and over its bound");
    assert_eq!(at(0.0, 0.98).outcome, Outcome::Regression);
    assert_eq!(at(f64::NAN, 1.0).outcome, Outcome::Regression);
    let lacking = judge_run(&check(Truth::default(), Truth::default(), 5), &thresholds);
    assert_eq!(lacking.outcome, Outcome::Inconclusive);
}

#[test]
fn from_nothing_and_to_nothing_are_changes() {
    let gates: BTreeMap<String, Percent> =
        [("kl_mean".to_owned(), Percent(0.05)), ("top1_agreement".to_owned(), Percent(0.05))].into();
    let thresholds = Thresholds { gates, ..Thresholds::default() };
    let at = |baseline: [f64; 2], candidate: [f64; 2]| {
        let mut run = check(Truth::default(), Truth::default(), 5);
        with_kl(&mut run, Arm::Baseline, baseline[0], baseline[1]);
        with_kl(&mut run, Arm::Candidate, candidate[0], candidate[1]);
        let report = judge_run(&run, &thresholds);
        ["kl_mean", "top1_agreement"].map(|metric| find(&report, metric).verdict)
    };
    use Verdict::{Pass, Regression};
    assert_eq!(at([0.0, 0.9], [0.05, 0.0]), [Regression, Regression]);
    assert_eq!(at([0.05, 0.0], [0.0, 0.9]), [Pass, Pass]);
    assert_eq!(at([0.0, 0.0], [0.0, 0.0]), [Pass, Pass]);
}

/// Adds launches of both arms that count something.
fn with_dropped(run: &mut RunRecord, counts: [f64; 2]) {
    for (arm, count) in [Arm::Baseline, Arm::Candidate].into_iter().zip(counts) {
        for block in 0..3 {
            let mut found = row("kv_dropped", "kv_pressure(r4,p8,n8,heldout,c64,b2)", block, 80 + block, 0, count);
            arm.name().clone_into(&mut found.arm);
            run.samples.push(found);
        }
    }
}

#[test]
fn what_is_counted_may_come_from_nothing_and_go_to_nothing() {
    let gates = [("kv_dropped".to_owned(), Percent(0.05))].into();
    let thresholds = Thresholds { gates, ..Thresholds::default() };
    let at = |counts: [f64; 2]| {
        let mut run = check(Truth::default(), Truth::default(), 5);
        with_dropped(&mut run, counts);
        let report = judge_run(&run, &thresholds);
        let gate = find(&report, "kv_dropped");
        (gate.verdict, gate.needs_confirmation)
    };
    assert_eq!(at([0.0, 8.0]), (Verdict::Regression, true));
    assert_eq!(at([3.0, 0.0]), (Verdict::Pass, false));
    assert_eq!(at([0.0, 0.0]), (Verdict::Pass, false));
}

#[test]
fn what_the_candidate_cannot_measure_any_more_fails_its_gate() {
    let mut run = check(Truth::default(), Truth::default(), 5);
    let is_candidates = |row: &crate::metrics::SampleRow| row.arm == Arm::Candidate.name();
    let mut refusal =
        run.samples.iter().find(|row| is_candidates(row) && row.metric == "decode_tok_s").unwrap().clone();
    run.samples.retain(|row| !(is_candidates(row) && row.metric == "decode_tok_s"));
    // Of a launch that was stopped before it came to that nothing can be said.
    let report = judge_run(&run, &Thresholds::default());
    assert_eq!(find(&report, "decode_tok_s").verdict, Verdict::Inconclusive);
    (refusal.valid, refusal.workload) = (false, String::new());
    refusal.reason = Some("requests were given up".to_owned());
    run.samples.push(refusal);
    let report = judge_run(&run, &Thresholds::default());
    let gate = find(&report, "decode_tok_s");
    assert_eq!((gate.verdict, gate.needs_confirmation), (Verdict::Regression, false));
    assert!(gate.reason.as_ref().is_some_and(|reason| reason.contains("requests were given up")), "{gate:?}");
    assert_eq!(report.outcome, Outcome::Regression);
}

#[test]
fn a_bound_on_what_varies_by_nature_is_refused() {
    let thresholds = Thresholds { bounds: [("tokens_digest".to_owned(), 1.0)].into(), ..Thresholds::default() };
    let run = check(Truth::default(), Truth::default(), 5);
    let stored = manifest();
    assert!(gate(compare(&Side::rerun(&stored, &run), &Side::of(&run)), &thresholds).is_err());
}

/// What a journal says of a value that is no number, from event to verdict.
#[test]
fn a_value_that_is_no_number_never_passes() {
    for (metric, arm) in
        [("perplexity", Arm::Candidate), ("decode_tok_s", Arm::Candidate), ("perplexity", Arm::Baseline)]
    {
        let mut run = check(Truth::default(), Truth::default(), 5);
        let broken = run.samples.iter_mut().rfind(|row| row.metric == metric && row.arm == arm.name()).unwrap();
        (broken.value, broken.valid, broken.reason) = (f64::NAN, false, Some("value is NaN".to_owned()));
        let report = judge_run(&run, &Thresholds::default());
        let gate = report.gates.iter().find(|gate| gate.metric == metric).unwrap();
        let expected = if arm == Arm::Candidate { Verdict::Regression } else { Verdict::Inconclusive };
        assert_eq!((gate.verdict, gate.needs_confirmation, gate.advisory), (expected, false, false), "{metric}");
        assert!(gate.reason.as_ref().is_some_and(|reason| reason.contains("not finite")), "{:?}", gate.reason);
        assert_ne!(report.outcome, Outcome::Pass);
    }
}
