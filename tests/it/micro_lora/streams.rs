//! The workload `adapt`: streams of requests, each scored before anything learns from it.
use ruvlab::{
    event::Event,
    plan::{LaunchSpec, LaunchTask},
};

use super::super::launches::{launch_spec, run, samples};

const DOMAINS: [&str; 3] = ["kjv.test", "python.test", "german.test"];

fn adapting(task: LaunchTask, adapt: &serde_json::Value, micro_lora: &serde_json::Value) -> LaunchSpec {
    let mut adapt = adapt.clone();
    adapt["domains"] = DOMAINS.map(|name| format!("builtin:{name}")).to_vec().into();
    let mut spec = launch_spec(task, "builtin:pico", "scalar", "as_is", &serde_json::json!([{"adapt": adapt}]));
    spec.cell.recipe.micro_lora = Some(serde_json::from_value(micro_lora.clone()).unwrap());
    spec
}

/// Returns the values of a metric at single requests, of a workload's label.
fn of_requests(events: &[Event], metric: &str, label: &str) -> Vec<f64> {
    let found = samples(events, metric).into_iter().filter(|sample| sample.step.is_some() && sample.workload == label);
    found.map(|sample| sample.value).collect()
}

#[test]
fn a_stream_scores_every_arm_before_it_learns() {
    let adapt = serde_json::json!({"requests": 4, "prompt_tokens": 8, "output_tokens": 24});
    let label = "adapt(3x4,p8,n24,interleaved)";
    let run_with =
        |rate: f64| run(&adapting(LaunchTask::Quality, &adapt, &serde_json::json!({"learning_rate": rate}))).unwrap();
    let events = run_with(0.15);
    let of = |metric: &str| of_requests(&events, metric, label);
    let still = of("adapt_nll_static");
    assert_eq!(still.len(), 12);
    for metric in ["unigram", "neural", "micro", "both", "placebo"] {
        let found = of(&format!("adapt_nll_{metric}"));
        assert_eq!(found.len(), 12);
        // Nothing is known before the first request, and then something is.
        assert_eq!(found.iter().zip(&still).filter(|(a, b)| a.to_bits() == b.to_bits()).count(), 3, "{metric}");
        let changes = of(&format!("adapt_change_{metric}"));
        let mean = changes.iter().sum::<f64>() / 12.0;
        let all: Vec<f64> = samples(&events, &format!("adapt_change_{metric}"))
            .into_iter()
            .filter(|sample| sample.step.is_none())
            .map(|sample| sample.value)
            .collect();
        assert_eq!(all.len(), 1 + DOMAINS.len());
        assert!((all[0] - mean).abs() <= 1e-12 && (all[1..].iter().sum::<f64>() / 3.0 - mean).abs() <= 1e-12);
    }
    // Arms are compared on the same requests.
    for other in ["neural", "micro"] {
        let pairs = of("adapt_change_both").into_iter().zip(of(&format!("adapt_change_{other}")));
        let found = of(&format!("adapt_both_to_{other}"));
        assert_eq!(found.len(), 12);
        assert!(pairs.zip(&found).all(|((both, alone), found)| (both - alone - found).abs() <= 1e-12), "{other}");
        assert!(found.iter().any(|found| found.abs() > 1e-6), "{other}");
    }
    for name in DOMAINS {
        assert_eq!(of_requests(&events, "adapt_nll_micro", &format!("{label}/{name}")).len(), 4);
    }
    let again = run_with(0.15);
    assert!(of_requests(&again, "adapt_nll_both", label) == of("adapt_nll_both"));
    // A rate of zero is the model as it is, to the last bit.
    let none = run_with(0.0);
    let bits = |metric: &str| -> Vec<u64> { of_requests(&none, metric, label).into_iter().map(f64::to_bits).collect() };
    assert_eq!(bits("adapt_nll_micro"), bits("adapt_nll_static"));
    assert_eq!(bits("adapt_nll_placebo"), bits("adapt_nll_static"));
    assert!((samples(&none, "micro_applied")[0].value).abs() <= 0.0);
}

#[test]
fn orders_and_states_are_what_they_say() {
    let first = |order: &str, state: &str| {
        let adapt =
            serde_json::json!({"requests": 3, "prompt_tokens": 0, "output_tokens": 16, "order": order, "state": state});
        let events = run(&adapting(LaunchTask::Quality, &adapt, &serde_json::json!({}))).unwrap();
        let mut label = format!("adapt(3x3,p0,n16,{order}");
        if state == "shared" {
            label += ",shared";
        }
        let [still, micro] =
            ["adapt_nll_static", "adapt_nll_micro"].map(|metric| of_requests(&events, metric, &format!("{label})")));
        assert_eq!(still.len(), 9);
        (still.clone(), still.iter().zip(&micro).filter(|(a, b)| a.to_bits() == b.to_bits()).count())
    };
    // As many requests come to an empty adapter as there are adapters.
    let (blocked, own) = first("blocked", "per_domain");
    let (mut mixed, one) = first("interleaved", "shared");
    assert_eq!((own, one), (3, 1));
    assert!(blocked != mixed);
    let mut sorted = blocked;
    sorted.sort_by(f64::total_cmp);
    mixed.sort_by(f64::total_cmp);
    assert!(sorted == mixed);
}

#[test]
fn a_timed_launch_tells_what_adaptation_costs() {
    let adapt = serde_json::json!({"requests": 2, "prompt_tokens": 4, "output_tokens": 6});
    let events = run(&adapting(LaunchTask::Speed, &adapt, &serde_json::json!({}))).unwrap();
    let value = |metric: &str| samples(&events, metric)[0].value;
    assert!(value("micro_update_ms") > 0.0 && value("micro_decode_overhead") > -1.0);
    let few = serde_json::json!({"requests": 2000});
    let error = run(&adapting(LaunchTask::Quality, &few, &serde_json::json!({}))).unwrap_err();
    assert!(error.to_string().contains("kjv.test"), "{error}");
}
