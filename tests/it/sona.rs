//! The learning loops on streams of requests.
use ruvlab::{
    event::{Event, LearningRequest, LearningStep},
    plan::{LaunchSpec, LaunchTask},
};
use serde_json::{Value, json};

use super::launches::{launch_spec, run, samples};

const DOMAINS: [&str; 3] = ["kjv.test", "python.test", "german.test"];

fn streaming(task: LaunchTask, stream: &Value, sona: &Value) -> LaunchSpec {
    let mut stream = stream.clone();
    stream["domains"] = DOMAINS.map(|name| format!("builtin:{name}")).to_vec().into();
    let mut spec = launch_spec(task, "builtin:pico", "scalar", "as_is", &json!([{"sona": stream}]));
    spec.cell.recipe.sona = Some(serde_json::from_value(sona.clone()).unwrap());
    spec
}

/// Returns the values of a metric at single requests of the whole stream.
fn at_requests(events: &[Event], metric: &str) -> Vec<f64> {
    let found = samples(events, metric).into_iter();
    found.filter(|sample| sample.step.is_some() && !sample.workload.contains('/')).map(|sample| sample.value).collect()
}

fn whole(events: &[Event], metric: &str) -> Vec<f64> {
    let found = samples(events, metric).into_iter();
    found.filter(|sample| sample.step.is_none() && !sample.workload.contains('/')).map(|sample| sample.value).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn steps(events: &[Event]) -> Vec<&LearningStep> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::LearningStep { step, .. } => Some(step),
            _ => None,
        })
        .collect()
}

fn requests(events: &[Event]) -> Vec<&LearningRequest> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::LearningRequest { request, .. } => Some(request),
            _ => None,
        })
        .collect()
}

fn short(order: &str, control: &str) -> Value {
    json!({"requests": 6, "test_requests": 2, "prompt_tokens": 8, "output_tokens": 24, "order": order, "control": control})
}

#[test]
fn without_a_loop_the_model_is_as_it_came_and_with_one_it_is_not() {
    let off = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &json!({}))).unwrap();
    let still = at_requests(&off, "sona_nll_static");
    assert_eq!(still.len(), 18);
    assert_eq!(bits(&at_requests(&off, "sona_nll")), bits(&still));
    assert!(steps(&off).is_empty());
    let instant = json!({"instant": {"enabled": true}});
    let on = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &instant)).unwrap();
    assert_eq!(bits(&at_requests(&on, "sona_nll_static")), bits(&still));
    // Scored before it is learned from: nothing is known of the first.
    let served = at_requests(&on, "sona_nll");
    let same: Vec<bool> = served.iter().zip(&still).map(|(a, b)| a.to_bits() == b.to_bits()).collect();
    // Nor after a first reward, which there is nothing to hold against.
    assert!(same[0] && same.iter().filter(|same| **same).count() <= 3, "{same:?}");
    let again = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &instant)).unwrap();
    assert_eq!(bits(&at_requests(&again, "sona_nll")), bits(&served));
    let disabled = json!({"instant": {"enabled": false}});
    let disabled = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &disabled)).unwrap();
    assert_eq!(bits(&at_requests(&disabled, "sona_nll")), bits(&still));
    let changes = at_requests(&on, "sona_change");
    let mean = changes.iter().sum::<f64>() / changes.len() as f64;
    assert!((whole(&on, "sona_change")[0] - mean).abs() <= 1e-12);
    for metric in ["sona_test_change", "sona_general_drift"] {
        assert!(whole(&off, metric)[0].abs() <= 1e-12 && whole(&on, metric)[0].abs() > 1e-6, "{metric}");
    }
}

#[test]
fn every_request_and_step_is_in_the_journal() {
    let instant = json!({"instant": {}});
    let events = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &instant)).unwrap();
    let (requests, steps) = (requests(&events), steps(&events));
    assert_eq!((requests.len(), steps.len()), (18, 18));
    for ((at, request), step) in (0..).zip(&requests).zip(&steps) {
        assert_eq!((request.request, step.request, step.of.as_str()), (at, at, "instant"));
        assert!(DOMAINS.contains(&request.domain.as_str()) && request.nll.is_finite());
        assert_eq!(request.reward.is_some(), request.feedback == "reward");
        assert!(step.version > request.version && step.duration_ns > 0);
    }
    assert!(steps.iter().filter(|step| step.decision == "applied").count() >= 9);
    let versions: Vec<u64> = requests.iter().map(|request| request.version).collect();
    assert!(versions.is_sorted());
}

#[test]
fn controls_change_what_is_learned_and_nothing_else() {
    let instant = json!({"instant": {}});
    let run_with =
        |order: &str, control: &str| run(&streaming(LaunchTask::Quality, &short(order, control), &instant)).unwrap();
    let runs = ["none", "placebo", "shuffled_feedback"].map(|control| run_with("blocked", control));
    let still = bits(&at_requests(&runs[0], "sona_nll_static"));
    let served: Vec<Vec<u64>> = runs.iter().map(|events| bits(&at_requests(events, "sona_nll"))).collect();
    for (at, events) in runs.iter().enumerate() {
        assert_eq!(bits(&at_requests(events, "sona_nll_static")), still);
        assert!(served[..at].iter().all(|other| *other != served[at]));
        assert_eq!(whole(events, "sona_learned_gain").len(), 1);
    }
    // Held against the stream they are controls of, request by request, where that came before.
    let mut spec = streaming(LaunchTask::Quality, &short("blocked", "none"), &instant);
    let all = spec.cell.recipe.workloads.clone();
    for control in ["placebo", "shuffled_feedback"] {
        let of = streaming(LaunchTask::Quality, &short("blocked", control), &instant);
        spec.cell.recipe.workloads.extend(of.cell.recipe.workloads);
    }
    assert_eq!((all.len(), spec.cell.recipe.workloads.len()), (1, 3));
    let together = run(&spec).unwrap();
    let against = at_requests(&together, "sona_against_control");
    let [own, placebo, shuffled] = [0, 1, 2].map(|at| at_requests(&runs[at], "sona_nll"));
    assert_eq!(against.len(), 2 * own.len());
    for (control, of) in against.chunks_exact(own.len()).zip([placebo, shuffled]) {
        let signs = control.iter().zip(own.iter().zip(&of));
        assert!(control.iter().any(|value| *value != 0.0));
        assert!(signs.into_iter().all(|(value, (own, of))| (*value > 0.0) == (own > of)));
    }
    assert_eq!(whole(&together, "sona_against_control").len(), 2);
    assert_eq!(whole(&together, "sona_test_against_control").len(), 2);
    assert!(whole(&runs[1], "sona_against_control").is_empty());
    // Where domains come in turn, no moment is right after one.
    assert!(whole(&run_with("interleaved", "none"), "sona_learned_gain").is_empty());
}

#[test]
fn a_timed_launch_tells_what_learning_costs() {
    let events = run(&streaming(LaunchTask::Speed, &short("interleaved", "none"), &json!({"instant": {}}))).unwrap();
    for metric in ["sona_instant_p50_ms", "sona_instant_p99_ms", "sona_itl_p50_overhead", "sona_itl_p99_overhead"] {
        assert!(whole(&events, metric)[0].is_finite(), "{metric}");
    }
    assert!(whole(&events, "sona_instant_p50_ms")[0] > 0.0);
}

/// Returns a recipe's section with these loops on.
fn loops(on: [bool; 3]) -> Value {
    let [instant, background, deep] = on;
    json!({
        "instant": {"enabled": instant},
        "background": {"enabled": background, "patterns": 3, "extract_every": 6, "batch_size": 1, "judges": 1, "similarity": -1.0},
        "deep": {"enabled": deep, "every_requests": 9, "max_steps": 3, "distill_sequences": 2, "batch_size": 2, "max_drift": 10.0},
    })
}

#[test]
fn every_loop_changes_what_is_served_and_a_restart_does_not() {
    let mut seen: Vec<Vec<u64>> = Vec::new();
    for on in [[false, false, false], [true, false, false], [false, true, false], [false, false, true], [true; 3]] {
        let events = run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &loops(on))).unwrap();
        let served = bits(&at_requests(&events, "sona_nll"));
        let made = |kind: &str| steps(&events).iter().any(|step| step.of == kind);
        assert_eq!(["instant", "background", "deep"].map(made), on);
        // A transaction that is taken back changes nothing.
        let taken_back = on == [false, false, true] && whole(&events, "sona_commits")[0] < 1.0;
        assert!(taken_back || !seen.contains(&served), "{on:?}");
        if on[2] {
            let transactions: Vec<_> = steps(&events).into_iter().filter(|step| step.of == "deep").collect();
            assert!((1..=2).contains(&transactions.len()));
            assert!(transactions.iter().all(|step| step.general_drift.is_some()));
            let counted = whole(&events, "sona_commits")[0] + whole(&events, "sona_rollbacks")[0];
            assert_eq!(counted as usize, transactions.len());
        }
        if on == [true; 3] {
            let mut again = short("interleaved", "none");
            again["restart"] = true.into();
            let again = run(&streaming(LaunchTask::Quality, &again, &loops(on))).unwrap();
            assert_eq!(bits(&at_requests(&again, "sona_nll")), served);
        }
        seen.push(served);
    }
}

#[test]
fn a_stream_begins_with_what_another_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut saving = short("interleaved", "none");
    saving["save_state"] = true.into();
    let mut spec = streaming(LaunchTask::Quality, &saving, &json!({"instant": {}}));
    spec.artifacts = Some(folder.path().to_owned());
    run(&spec).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    let state = left[0].join("sona.state");
    let begin = |instant: Value| {
        let sona = json!({"instant": instant, "init": state.to_str().unwrap()});
        run(&streaming(LaunchTask::Quality, &short("interleaved", "none"), &sona))
    };
    let events = begin(json!({})).unwrap();
    let [served, still] = ["sona_nll", "sona_nll_static"].map(|metric| at_requests(&events, metric));
    assert!(served[0].to_bits() != still[0].to_bits(), "it knows nothing of the other stream");
    // Of the very same requests.
    assert!(whole(&events, "sona_change")[0] < -0.05);
    let refused = begin(json!({"cache_tokens": 64})).unwrap_err().to_string();
    assert!(refused.contains("other settings"), "{refused}");
}

#[test]
fn the_deep_loop_runs_when_nobody_asks() {
    let mut stream = short("interleaved", "none");
    stream["pause_every"] = 6.into();
    stream["pause_ms"] = 5000.into();
    let mut sona = loops([false, false, true]);
    sona["deep"]["every_requests"] = 1000.into();
    sona["deep"]["idle_ms"] = 2000.into();
    let events = run(&streaming(LaunchTask::Quality, &stream, &sona)).unwrap();
    let at: Vec<u64> = steps(&events).iter().filter(|step| step.of == "deep").map(|step| step.request).collect();
    assert!(!at.is_empty() && at.iter().all(|request| (request + 1) % 6 == 0), "{at:?}");
}
