//! The cache as recipes ask for it: one trace under each policy, and what is refused when planning.
use std::collections::BTreeSet;

use ruvlab::{
    event::Event,
    model::source::locate::{Fetch, Locator},
    plan::{self, LaunchTask, PlanError},
    workload::LaunchError,
};

use super::{
    super::{
        launches::{launch_spec, run, samples},
        logits::pico,
    },
    page_bytes,
};

/// One trace, one budget, and what each policy made of it.
#[test]
fn one_trace_gives_as_many_behaviours_as_policies() {
    let weights = pico();
    let workload = serde_json::json!([{"kv_pressure": {
        "requests": 5, "concurrency": 4, "prompt_tokens": 100, "output_tokens": 60, "n_ctx": 160, "needles": 8,
    }}]);
    let mut seen = Vec::new();
    for (pressure, wanted) in [
        ("quantize", &["narrowed"][..]),
        ("evict", &["evicted"]),
        ("h2o", &["evicted_light"]),
        ("reject", &[]),
        ("spill", &["restored", "spilled"]),
        ("hybrid", &["narrowed", "restored", "spilled"]),
        ("none", &[]),
    ] {
        let mut behaviour = Vec::new();
        for task in [LaunchTask::Speed, LaunchTask::Quality] {
            let mut spec = launch_spec(task, "builtin:pico", "auto", "as_is", &workload);
            let cache = &mut spec.cell.recipe.kv_cache;
            let mut given = serde_json::json!({
                "budget": format!("{}B", 16 * page_bytes(&weights)),
                "pressure": {"policy": pressure, "window": 32, "high_watermark": 0.9},
            });
            match pressure {
                "none" => drop(given.as_object_mut().unwrap().remove("pressure")),
                "hybrid" => given["pressure"]["stages"] = serde_json::json!(["quantize", "spill"]),
                _ => {}
            }
            *cache = serde_json::from_value(given).unwrap();
            let events = run(&spec).unwrap();
            let acts: BTreeSet<String> = events
                .iter()
                .filter_map(|event| match event {
                    Event::CacheTransition { transition, .. } => Some(transition.kind.clone()),
                    _ => None,
                })
                .collect();
            let value = |metric: &str| {
                samples(&events, metric).iter().find(|sample| sample.step.is_none()).map(|sample| sample.value)
            };
            if task == LaunchTask::Speed {
                assert!(value("kv_peak_bytes").unwrap() <= (16 * page_bytes(&weights)) as f64);
                assert!(value("trace_tok_s").unwrap() > 0.0 && value("kv_dropped").unwrap() <= 0.0);
                assert_eq!(pressure == "none" || pressure == "reject", value("kv_transitions").unwrap() <= 0.0);
                assert!(value("itl_p99_ms").unwrap() >= value("itl_p50_ms").unwrap());
                assert!(!samples(&events, "kv_used_bytes").is_empty());
                let waits = (value("kv_refused").unwrap() > 0.0, value("kv_preempted").unwrap() > 0.0);
                println!("{pressure}: {acts:?}, refused and preempted {waits:?}");
                let own = acts.iter().map(String::as_str).filter(|kind| *kind != "refused");
                assert_eq!(own.collect::<Vec<_>>(), wanted, "{pressure}");
                behaviour.push(format!("{acts:?} {waits:?}"));
            } else {
                let kl = value("kl_mean").unwrap();
                println!("{pressure}: KL {kl:e}, perplexity {:.3}", value("perplexity").unwrap());
                assert_eq!(kl > 1e-9, ["quantize", "evict", "h2o", "hybrid"].contains(&pressure), "{pressure}: {kl:e}");
                assert!(!samples(&events, "kl_at_position").is_empty());
                // So small a model finds no facts, and says so instead of a number.
                assert!(events.iter().any(|event| matches!(
                    event,
                    Event::Unavailable { metric, reason, .. } if metric == "needle_accuracy" && reason.contains("cannot")
                )));
                assert!(samples(&events, "needle_accuracy").is_empty());
            }
        }
        assert!(!seen.contains(&behaviour), "{pressure} does as another does: {behaviour:?}");
        seen.push(behaviour);
    }
}

/// Returns what a launch on the built-in model said, its cache as given.
fn launched(
    task: LaunchTask,
    workload: &serde_json::Value,
    cache: serde_json::Value,
) -> Result<Vec<Event>, LaunchError> {
    let mut spec = launch_spec(task, "builtin:pico", "auto", "as_is", workload);
    spec.cell.recipe.kv_cache = serde_json::from_value(cache).unwrap();
    run(&spec)
}

/// To give up what does not fit would make a small budget look fast.
#[test]
fn a_trace_that_gave_requests_up_has_no_speed() {
    let page = page_bytes(&pico());
    let workload = serde_json::json!([{"kv_pressure": {
        "requests": 6, "concurrency": 2, "prompt_tokens": 80, "output_tokens": 16, "n_ctx": 64,
    }}]);
    let with = |pages: u64| {
        launched(LaunchTask::Speed, &workload, serde_json::json!({"budget": format!("{}B", pages * page)}))
    };
    let events = with(3).unwrap();
    let value = |metric: &str| samples(&events, metric).iter().map(|sample| sample.value).next_back();
    assert!(value("kv_dropped").is_some_and(|count| (1.0..6.0).contains(&count)), "{:?}", value("kv_dropped"));
    assert_eq!(value("trace_tok_s"), None);
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Unavailable { metric, reason, .. } if metric == "trace_tok_s" && reason.contains("given up")
    )));
    // Energy is measured or is not, and never none.
    assert!(value("energy_j").is_none_or(|joules| joules > 0.0));
    let error = with(1).unwrap_err();
    assert!(
        matches!(error, LaunchError::NothingFits { .. }) && error.to_string().contains("kv_cache.budget"),
        "{error}"
    );
    let texts = launched(LaunchTask::Quality, &workload, serde_json::json!({"budget": format!("{page}B")}));
    let error = texts.unwrap_err();
    assert!(error.to_string().contains("2 of 2 texts of 64 tokens"), "{error}");
}

/// A cell's own types are part of what its cache costs.
#[test]
fn narrow_types_are_held_against_wide_ones() {
    let workload = serde_json::json!([{"kv_pressure": {
        "requests": 1, "concurrency": 2, "prompt_tokens": 8, "output_tokens": 4, "n_ctx": 96,
    }}]);
    let kl = |kind: &str| {
        let cache = serde_json::json!({"budget": "64MiB", "type_k": kind, "type_v": kind, "force": true});
        let events = launched(LaunchTask::Quality, &workload, cache).unwrap();
        samples(&events, "kl_mean").iter().find(|sample| sample.step.is_none()).unwrap().value
    };
    let [f32, f16, q8_0, q4_0] = ["f32", "f16", "q8_0", "q4_0"].map(kl);
    println!("KL of f32 {f32:e}, f16 {f16:e}, q8_0 {q8_0:e}, q4_0 {q4_0:e}");
    assert!(
        f32.abs() <= 0.0 && f16.abs() <= 0.0 && q8_0 > 1e-9 && q4_0 > 4.0 * q8_0,
        "{f32:e} {f16:e} {q8_0:e} {q4_0:e}"
    );
}

#[test]
fn a_cache_the_engine_or_the_model_should_not_have_is_a_planning_error() {
    let problems = |cache: serde_json::Value, set: &str| {
        let recipe = serde_json::json!({
            "schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}, "kernels": {"set": set},
            "kv_cache": cache, "workloads": [{"decode": {}}],
        });
        match plan::single(serde_json::from_value(recipe).unwrap(), &mut Locator::new(Fetch::Offline, |_| {})) {
            Ok(_) => Vec::new(),
            Err(PlanError::Recipe(problems) | PlanError::Resource(problems)) => problems,
        }
    };
    let codes = |cache: serde_json::Value, set: &str| {
        problems(cache, set).into_iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let narrow =
        r#"{"budget": "1MiB", "pressure": {"policy": "quantize", "tiers": [{"type_k": "q4_0", "type_v": "q4_0"}]}}"#;
    assert_eq!(codes(json(narrow), "auto"), ["narrow-keys"]);
    assert_eq!(codes(json(r#"{"type_k": "q4_0"}"#), "auto"), ["narrow-keys"]);
    let refused = problems(json(r#"{"type_k": "q4_0"}"#), "auto").remove(0);
    let said = format!("{} {}", refused.message, refused.hint.unwrap_or_default());
    assert!(["keys", "force"].iter().all(|word| said.contains(word)), "no reason or no way out: {said}");
    assert_eq!(codes(json(r#"{"type_k": "q4_0", "force": true}"#), "auto"), [""; 0]);
    let evict = |window: u32| {
        let pressure = serde_json::json!({"policy": "evict", "window": window});
        codes(serde_json::json!({"budget": "4MiB", "pressure": pressure}), "auto")
    };
    let context = pico().spec().context_length as u32;
    assert_eq!((evict(context - 68), evict(context - 67)), (vec![], vec!["pressure".to_owned()]));
    assert_eq!(codes(json(r#"{"type_k": "q8_0", "type_v": "q4_0"}"#), "auto"), [""; 0]);
    for cache in [r#"{"budget": "1MiB"}"#, r#"{"prefix_sharing": true}"#, r#"{"page_tokens": 16}"#] {
        assert_eq!(codes(json(cache), "candle"), ["cache"], "{cache}");
        assert_eq!(codes(json(cache), "auto"), [""; 0], "{cache}");
    }
}
