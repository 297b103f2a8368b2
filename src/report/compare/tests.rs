use indexmap::IndexMap;

use super::{change::exact, *};
use crate::{
    metrics::{METRIC_SCHEMA_VERSION, stats::IntervalMethod, testing::row},
    report::testing::{DECODE, PERPLEXITY, Truth, check, manifest},
    results::{Manifest, RunRecord, RunState},
};

fn effect_of(comparison: &Comparison, what: &str) -> Option<Effect> {
    comparison.differences.iter().find(|difference| difference.what == what).map(|difference| difference.effect)
}

fn find<'a>(comparison: &'a Comparison, metric: &str) -> &'a MetricComparison {
    comparison.metrics.iter().find(|change| change.metric == metric).unwrap()
}

fn elsewhen(mut record: RunRecord) -> RunRecord {
    record.manifest.run_id = "0190bbbb-0000-7000-8000-000000000002".to_owned();
    record.manifest.sessions = vec!["another".to_owned()];
    record.manifest.started_at = "2026-11-23T10:00:00.000Z".to_owned();
    record.manifest.ended_at = Some("2026-11-23T10:10:00.000Z".to_owned());
    for row in &mut record.samples {
        record.manifest.run_id.clone_into(&mut row.run_id);
    }
    record
}

#[test]
fn arms_of_one_check_run_are_paired_by_block() {
    let slow = Truth { decode_tok_s: 45.0, ..Truth::default() };
    let run = check(Truth::default(), slow, 1);
    let stored = manifest();
    let comparison = compare(&Side::rerun(&stored, &run), &Side::of(&run));
    assert_eq!(comparison.pairing, Pairing::Paired);
    assert!(comparison.differences.is_empty(), "{:?}", comparison.differences);
    let decode = find(&comparison, "decode_tok_s");
    let ratio = decode.ratio.unwrap();
    assert_eq!((ratio.n, ratio.method), (5, IntervalMethod::PairedT));
    assert!((ratio.change + 0.1).abs() <= 0.03, "{ratio:?}");
}

#[test]
fn more_is_better_turns_the_interval_around() {
    let ratio = Ratio {
        change: -0.1,
        interval: Some(Interval { low: -0.12, high: -0.07 }),
        n: 5,
        method: IntervalMethod::PairedT,
    };
    let run = check(Truth::default(), Truth::default(), 1);
    let comparison = compare(&Side::of(&run), &Side::of(&run));
    let of = |metric: &str| MetricComparison { ratio: Some(ratio), ..find(&comparison, metric).clone() };
    let slower = of("decode_tok_s").worse().unwrap();
    assert_eq!((slower.estimate, slower.interval), (0.1, Some(Interval { low: 0.07, high: 0.12 })));
    let quicker = of("ttft_ms").worse().unwrap();
    assert_eq!((quicker.estimate, quicker.interval), (-0.1, ratio.interval));
}

#[test]
fn runs_of_different_days_are_unpaired_and_advisory() {
    let (a, b) = (Truth::default().record(1), elsewhen(Truth::default().record(2)));
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    assert_eq!(comparison.pairing, Pairing::Unpaired);
    assert_eq!(effect_of(&comparison, "not interleaved"), Some(Effect::Advisory));
    assert!(comparison.is_comparable() && comparison.is_advisory());
    assert_eq!(find(&comparison, "decode_tok_s").ratio.unwrap().method, IntervalMethod::Welch);
}

#[test]
fn cells_of_one_session_are_paired() {
    let a = Truth::default().record(1);
    let mut b = elsewhen(Truth::default().record(2));
    b.manifest.sessions.clone_from(&a.manifest.sessions);
    assert_eq!(compare(&Side::of(&a), &Side::of(&b)).pairing, Pairing::Paired);
    b.manifest.host.host_id = "another".to_owned();
    assert_eq!(compare(&Side::of(&a), &Side::of(&b)).pairing, Pairing::Unpaired);
}

#[test]
fn two_sessions_at_one_time_are_not_paired() {
    let sessions = |a: &[&str], b: &[&str]| {
        let (mut x, mut y) = (Truth::default().record(1), elsewhen(Truth::default().record(2)));
        let times = |from: &Manifest| (from.started_at.clone(), from.ended_at.clone());
        (y.manifest.started_at, y.manifest.ended_at) = times(&x.manifest);
        x.manifest.sessions = a.iter().map(|name| (*name).to_owned()).collect();
        y.manifest.sessions = b.iter().map(|name| (*name).to_owned()).collect();
        compare(&Side::of(&x), &Side::of(&y)).pairing
    };
    assert_eq!(sessions(&["s"], &["t"]), Pairing::Unpaired);
    assert_eq!(sessions(&["s", "t"], &["t"]), Pairing::Paired);
    assert_eq!(sessions(&["s", "t"], &["r", "t"]), Pairing::Unpaired, "the rounds of r and s may have equal numbers");
    assert_eq!(sessions(&["s"], &[]), Pairing::Unpaired);
    assert_eq!(sessions(&[], &[]), Pairing::Paired, "runs of before there were sessions go by their times");
}

#[test]
fn another_machine_or_build_is_advisory() {
    let a = Truth::default().record(1);
    let mut b = elsewhen(Truth::default().record(2));
    b.manifest.host.host_id = "another".to_owned();
    b.manifest.host.commit = "fedcba".to_owned();
    b.manifest.host.profile = "debug".to_owned();
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    for what in ["machine", "build", "profile"] {
        assert_eq!(effect_of(&comparison, what), Some(Effect::Advisory), "{what}");
    }
    assert!(comparison.is_comparable());
}

#[test]
fn a_stored_baseline_measured_again_here_differs_in_no_machine() {
    let mut stored = manifest();
    stored.host.host_id = "far away".to_owned();
    let run = check(Truth::default(), Truth::default(), 1);
    assert!(!compare(&Side::rerun(&stored, &run), &Side::of(&run)).is_advisory());
}

#[test]
fn another_workload_forbids_a_verdict() {
    let a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    for row in b.samples.iter_mut().filter(|row| row.workload == DECODE) {
        row.workload = "decode(p128,n128)".to_owned();
    }
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    assert!(!comparison.is_comparable());
    assert_eq!(comparison.differences[0].effect, Effect::Forbids);
    assert_eq!(comparison.differences[0].baseline, DECODE);
}

#[test]
fn a_workload_more_than_the_baseline_is_only_a_note() {
    let a = Truth { perplexity: None, ..Truth::default() }.record(1);
    let b = Truth::default().record(2);
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    assert!(comparison.is_comparable());
    assert_eq!(effect_of(&comparison, "workload"), Some(Effect::Note));
    let perplexity = find(&comparison, "perplexity");
    assert_eq!((perplexity.baseline, perplexity.candidate, perplexity.ratio), (None, Some(7.5), None));
    assert_eq!(perplexity.reason.as_deref(), Some("the baseline did not measure it"));
}

#[test]
fn other_texts_and_other_metric_definitions_forbid_a_verdict() {
    let (a, b) = (Truth::default().record(1), Truth::default().record(2));
    let texts = |hash: &str| IndexMap::from([("builtin:heldout".to_owned(), hash.to_owned())]);
    let (old, new) = (texts("aaaa"), texts("bbbb"));
    let comparison = compare(&Side::of(&a).with_texts(&old), &Side::of(&b).with_texts(&new));
    assert_eq!(effect_of(&comparison, "text builtin:heldout"), Some(Effect::Forbids));
    let same = compare(&Side::of(&a).with_texts(&old), &Side::of(&b).with_texts(&old));
    assert!(same.is_comparable());
    let version = Side::of(&a).with_metric_schema_version(METRIC_SCHEMA_VERSION + 1);
    let comparison = compare(&version, &Side::of(&b));
    assert_eq!(effect_of(&comparison, "metric definitions"), Some(Effect::Forbids));
}

#[test]
fn the_texts_of_stored_runs_are_compared_and_those_of_a_check_are_one_arms() {
    let (mut a, mut b) = (Truth::default().record(1), elsewhen(Truth::default().record(2)));
    let texts = |hash: &str| IndexMap::from([(format!("perplexity.text of {PERPLEXITY}"), hash.to_owned())]);
    (a.texts, b.texts) = (Some(texts("aaaa")), Some(texts("bbbb")));
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    let what = format!("text perplexity.text of {PERPLEXITY}");
    assert_eq!(effect_of(&comparison, &what), Some(Effect::Forbids));
    b.texts.clone_from(&a.texts);
    assert!(compare(&Side::of(&a), &Side::of(&b)).is_comparable());
    let (stored, mut run) = (manifest(), check(Truth::default(), Truth::default(), 1));
    run.texts = Some(texts("cccc"));
    assert_eq!(Side::rerun(&stored, &run).texts, None);
}

#[test]
fn a_run_with_wrong_numbers_is_not_compared() {
    let a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    b.manifest.state = RunState::Invalid;
    b.manifest.reason = Some("nmse 0.2 > 0.0005".to_owned());
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    assert_eq!(effect_of(&comparison, "kernel check"), Some(Effect::Forbids));
}

#[test]
fn what_the_axes_say_is_the_subject_and_said_once() {
    let mut a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    a.manifest.axes.insert("quantization.format".to_owned(), "q8_0".into());
    b.manifest.axes.insert("quantization.format".to_owned(), "q4_0".into());
    b.manifest.model.weights_hash = "other".to_owned();
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    assert_eq!(effect_of(&comparison, "quantization.format"), Some(Effect::Subject));
    assert_eq!(effect_of(&comparison, "weights"), None);
    assert_eq!((comparison.baseline_label.as_str(), comparison.candidate_label.as_str()), ("q8_0", "q4_0"));
    b.manifest.axes.insert("quantization.format".to_owned(), "q8_0".into());
    assert_eq!(effect_of(&compare(&Side::of(&a), &Side::of(&b)), "weights"), Some(Effect::Subject));
}

#[test]
fn deterministic_values_are_compared_as_they_are() {
    let a = Truth::default().record(1);
    let b = Truth { perplexity: Some(7.575), ..Truth::default() }.record(2);
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    let ratio = find(&comparison, "perplexity").ratio.unwrap();
    assert!((ratio.change - 0.01).abs() <= 1e-12);
    assert_eq!((ratio.interval, ratio.method), (None, IntervalMethod::Exact));
}

#[test]
fn zeros_that_are_equal_do_not_differ() {
    assert_eq!(exact(&[0.0], &[0.0]).unwrap().change.to_bits(), 0.0f64.to_bits());
    assert!(exact(&[0.0], &[1.0]).is_err());
}

#[test]
fn a_deterministic_value_that_varies_is_told() {
    let a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    b.samples.push(row("perplexity", PERPLEXITY, 1, 91, 0, 7.6));
    let reason = find(&compare(&Side::of(&a), &Side::of(&b)), "perplexity").reason.clone().unwrap();
    assert!(reason.contains("varies between launches of the candidate"), "{reason}");
}

#[test]
fn nan_gives_no_change_and_a_reason() {
    let a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    b.samples.iter_mut().find(|row| row.metric == "decode_tok_s").unwrap().value = f64::NAN;
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    let decode = find(&comparison, "decode_tok_s");
    assert_eq!(decode.ratio, None);
    assert!(decode.reason.as_deref().unwrap().contains("not finite"));
}

#[test]
fn what_was_not_measured_says_why_as_far_as_is_known() {
    let a = Truth::default().record(1);
    let mut b = Truth::default().record(2);
    for row in b.samples.iter_mut().filter(|row| row.metric == "ttft_ms") {
        row.valid = false;
        row.reason = Some("launch 3 failed".to_owned());
    }
    let comparison = compare(&Side::of(&a), &Side::of(&b));
    let ttft = find(&comparison, "ttft_ms");
    assert_eq!((ttft.candidate, ttft.baseline_launches, ttft.candidate_launches), (None, 5, 0));
    assert_eq!(ttft.reason.as_deref(), Some("the candidate did not measure it: launch 3 failed"));
}
