//! What launches run, report and refuse.
#![expect(clippy::unwrap_used, reason = "tests stop at what they cannot do")]

use ruvlab::{
    event::{Event, Sample},
    metrics,
    model::{
        source::locate::{Fetch, Locator},
        weights::{TensorType, Weights},
    },
    plan::{LaunchSpec, LaunchTask},
    workload,
};

/// Returns a launch of these workloads.
pub(crate) fn launch_spec(
    task: LaunchTask,
    source: &str,
    set: &str,
    format: &str,
    workloads: &serde_json::Value,
) -> LaunchSpec {
    let weights = Weights::open(source).unwrap();
    let spec = weights.spec();
    let outline = weights.outline(TensorType::from_name(format));
    serde_json::from_value(serde_json::json!({
        "protocol": 1, "launch": 3, "task": task,
        "cell": {
            "hash": "0", "axes": {}, "seed": 5, "kernel_set": set, "threads": 2, "texts": {}, "estimated_memory": "1GiB",
            "recipe": {
                "schema": "ruvlab/v1", "name": "test", "model": {"source": source},
                "quantization": {"format": format}, "workloads": workloads, "measure": {"warmup": 1},
            },
            "model": {
                "source": source, "name": spec.name, "architecture": spec.architecture, "format": format,
                "weights_hash": weights.content_hash(), "weights_bytes": outline.tensor_bytes,
                "parameters": weights.parameters(), "context_length": spec.context_length.min(4096),
            },
        },
    }))
    .unwrap()
}

pub(crate) fn run(spec: &LaunchSpec) -> Result<Vec<Event>, workload::LaunchError> {
    let mut events = Vec::new();
    workload::launch(spec, &mut |event: &Event| events.push(event.clone()))?;
    Ok(events)
}

pub(crate) fn samples<'a>(events: &'a [Event], metric: &str) -> Vec<&'a Sample> {
    let sample = |event: &'a Event| if let Event::Sample { launch: 3, sample } = event { Some(sample) } else { None };
    events.iter().filter_map(sample).filter(|sample| sample.metric == metric).collect()
}

#[test]
fn a_timed_launch_reports_every_metric_of_its_workloads_and_the_same_tokens_each_time() {
    let workloads = serde_json::json!([
        {"prefill": {"prompt_tokens": 33, "batch_size": 2, "repetitions": 2}},
        {"decode": {"prompt_tokens": 17, "output_tokens": 9, "batch_size": 2, "repetitions": 2}},
    ]);
    for set in ["reference", "candle", "scalar"] {
        let spec = launch_spec(LaunchTask::Speed, "builtin:pico", set, "as_is", &workloads);
        let (events, again) = (run(&spec).unwrap(), run(&spec).unwrap());
        for (metric, count) in [
            ("load_ms", 1),
            ("weights_bytes", 1),
            ("peak_rss_bytes", 1),
            ("prefill_tok_s", 3),
            ("ttft_ms", 3),
            ("tpot_ms", 3),
            ("itl_p50_ms", 3),
            ("itl_p95_ms", 3),
            ("itl_p99_ms", 3),
            ("decode_tok_s", 3),
            ("e2e_ms", 3),
            ("tokens_digest", 1),
            ("perplexity", 0),
        ] {
            let found = samples(&events, metric);
            assert_eq!(found.len(), count, "{set} {metric}");
            assert!(found.iter().all(|sample| sample.value.is_finite() && sample.value > 0.0), "{set} {metric}");
            let warmups = found.iter().filter(|sample| sample.warmup).count();
            assert_eq!(warmups, usize::from(count == 3), "{set} {metric}");
        }
        let energy = samples(&events, "energy_j").len()
            + events
                .iter()
                .filter(|event| matches!(event, Event::Unavailable { metric, .. } if metric == "energy_j"))
                .count();
        assert_eq!(energy, 1);
        assert_eq!(samples(&events, "tokens_digest")[0].value, samples(&again, "tokens_digest")[0].value);
        for event in &events {
            match event {
                Event::Sample { sample, .. } => assert!(metrics::find(&sample.metric).is_some(), "{}", sample.metric),
                Event::Tokens { trace, .. } => {
                    assert_eq!(trace.tokens.len(), 9);
                    assert_eq!(trace.tokens[0].position, 17);
                    assert!(trace.tokens.windows(2).all(|pair| pair[0].t_ns < pair[1].t_ns));
                }
                _ => {}
            }
        }
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Tokens { .. })).count(), 6);
        let [ttft, e2e] = ["ttft_ms", "e2e_ms"].map(|metric| samples(&events, metric)[1].value);
        let [tpot, speed] = ["tpot_ms", "decode_tok_s"].map(|metric| samples(&events, metric)[1].value);
        assert!((e2e - ttft - 8.0 * tpot).abs() <= 1e-6 * e2e);
        assert!((speed - 2.0 * 1e3 / tpot).abs() <= 1e-6 * speed);
    }
}

/// llama.cpp's mean negative log-likelihood of the first three windows of 512 tokens of
/// `builtin:heldout`, pico with all matrices as f32, f32 cache.
const PICO_F32_NLL: f64 = (3.555288157114418 + 3.476191888042231 + 3.299944483081163) / 3.0;

/// The same, with the file as it is and llama-perplexity's defaults.
const PICO_NLL: f64 = (3.5557858117875427 + 3.476621377124072 + 3.301337697105417) / 3.0;

#[test]
fn perplexity_is_that_of_llama_cpp() {
    let workloads = serde_json::json!([{"perplexity": {"n_ctx": 512, "chunks": 3}}]);
    for (set, format, expected, bound) in [
        ("candle", "f32", PICO_F32_NLL, 1e-5),
        ("reference", "f32", PICO_F32_NLL, 1e-5),
        // With caches in f16.
        ("scalar", "f32", PICO_F32_NLL, 1e-4),
        ("scalar", "as_is", PICO_NLL, 2e-3),
        ("candle", "as_is", PICO_NLL, 2e-3),
        ("reference", "as_is", PICO_NLL, 2e-3),
    ] {
        let spec = launch_spec(LaunchTask::Quality, "builtin:pico", set, format, &workloads);
        let events = run(&spec).unwrap();
        let nll = samples(&events, "nll");
        assert_eq!(nll.iter().map(|sample| sample.step).collect::<Vec<_>>(), [Some(0), Some(1), Some(2), None]);
        let (total, perplexity) = (nll[3].value, samples(&events, "perplexity")[0].value);
        println!("{set} {format}: nll {total} (llama.cpp {expected}), perplexity {perplexity}");
        assert_eq!(nll[3].n, 3 * 255);
        assert!((total - expected).abs() <= bound, "{set} {format}: {total}, llama.cpp {expected}");
        assert!((perplexity - total.exp()).abs() <= 1e-9 * perplexity);
        let bits = samples(&events, "bits_per_byte")[0];
        assert!((bits.value * bits.n as f64 * std::f64::consts::LN_2 - total * nll[3].n as f64).abs() <= 1e-6);
    }
}

#[test]
fn verification_measures_good_kernels_and_can_be_switched_off() {
    let prefill = serde_json::json!([{"prefill": {"prompt_tokens": 200}}]);
    let mut spec = launch_spec(LaunchTask::Verify, "builtin:pico", "candle", "as_is", &prefill);
    let events = run(&spec).unwrap();
    let sample = samples(&events, "verify_nmse")[0];
    println!("NMSE of candle against reference: {:e}", sample.value);
    assert!((0.0..=5e-4).contains(&sample.value), "{:e}", sample.value);
    assert_eq!(sample.n, 208, "the recipe's own prompt and eight tokens more");
    spec.cell.recipe.kernels.verify.reference = None;
    assert!(run(&spec).unwrap().is_empty());
}

#[test]
fn a_recipes_rope_is_what_runs() {
    let workloads = serde_json::json!([{"perplexity": {"n_ctx": 128, "chunks": 1}}]);
    let nll = |set: &str, rope: serde_json::Value| {
        // In f32: beside blocks both round activations to 8 bits, and which way depends on the order of sums.
        let mut spec = launch_spec(LaunchTask::Quality, "builtin:pico", set, "f32", &workloads);
        spec.cell.recipe.rope = serde_json::from_value(rope).unwrap();
        run(&spec).map(|events| samples(&events, "nll")[0].value)
    };
    let own = nll("candle", serde_json::json!({})).unwrap();
    let mut seen = vec![own];
    for rope in [
        serde_json::json!({"theta": 5e4}),
        serde_json::json!({"scaling": "linear", "factor": 2.0}),
        serde_json::json!({"scaling": "ntk", "factor": 2.0}),
        serde_json::json!({"scaling": "yarn", "factor": 2.0}),
        serde_json::json!({"scaling": "llama3", "factor": 8.0}),
    ] {
        let changed = nll("candle", rope.clone()).unwrap();
        assert!(seen.iter().all(|other| (changed - other).abs() > 1e-6), "{rope}: {changed} is among {seen:?}");
        seen.push(changed);
        match nll("reference", rope.clone()) {
            Ok(reference) => assert!((reference - changed).abs() <= 1e-4, "{rope}: {reference}, {changed}"),
            Err(error) => assert!(error.to_string().contains("stretch the rope"), "{error}"),
        }
    }
    let none = nll("candle", serde_json::json!({"scaling": "none"})).unwrap();
    assert!((none - own).abs() <= 0.0);
    let error = nll("candle", serde_json::json!({"scaling": "longrope"})).unwrap_err().to_string();
    assert!(error.contains("rope_factors_long"), "{error}");
}

#[test]
fn what_an_engine_cannot_run_is_a_planning_error() {
    let plan = |more: serde_json::Value| {
        let mut recipe = serde_json::json!({
            "schema": "ruvlab/v1", "name": "x", "model": {"source": "tests/it/golden/phi3-longrope"},
            "workloads": [{"prefill": {"prompt_tokens": 8}}],
        });
        for (key, value) in more.as_object().unwrap() {
            recipe[key] = value.clone();
        }
        ruvlab::plan::single(serde_json::from_value(recipe).unwrap(), &mut Locator::new(Fetch::Offline, |_| {}))
    };
    for (kernels, path) in [
        (serde_json::json!({"set": "reference"}), "`candle`, which computes"),
        (serde_json::json!({"set": "candle"}), "kernels.verify.reference"),
    ] {
        let error = format!("{:?}", plan(serde_json::json!({"kernels": kernels})).unwrap_err());
        assert!(error.contains("stretch the rope") && error.contains(path), "{error}");
    }
    let alone = serde_json::json!({"set": "candle", "verify": {"reference": null}});
    let cell = plan(serde_json::json!({"kernels": alone})).unwrap();
    assert_eq!(cell.model.context_length, 512);
    let rope = serde_json::json!({"scaling": "yarn", "factor": 2.0});
    let stretched = plan(serde_json::json!({"kernels": alone, "rope": rope})).unwrap();
    assert_eq!(stretched.model.context_length, 128, "the file's original context, doubled");
    assert_ne!(cell.hash, stretched.hash);
    let error = plan(serde_json::json!({"kernels": alone, "rope": {"factor": 2.0}})).unwrap_err();
    assert!(format!("{error:?}").contains("without a scaling"), "{error:?}");
    let load = |set: &str, load: &str| {
        let kernels = serde_json::json!({"set": set, "verify": {"reference": null}});
        plan(serde_json::json!({"kernels": kernels, "model": {"source": "builtin:pico", "load": load}}))
    };
    let error = format!("{:?}", load("candle", "mapped").unwrap_err());
    assert!(error.contains("unsupported-load") && error.contains("its own copy"), "{error}");
    let activations = |set: &str, precision: &str| {
        let kernels = serde_json::json!({"set": set, "activations": precision, "verify": {"reference": null}});
        plan(serde_json::json!({"kernels": kernels, "model": {"source": "builtin:pico"}}))
    };
    let error = format!("{:?}", activations("candle", "int8").unwrap_err());
    assert!(error.contains("unsupported-activations"), "{error}");
    assert_ne!(activations("scalar", "int8").unwrap().hash, activations("scalar", "int16").unwrap().hash);
    let (mapped, packed) = (load("scalar", "mapped").unwrap(), load("scalar", "packed").unwrap());
    assert_ne!(mapped.hash, packed.hash);
    assert!(mapped.estimated_memory.0 < packed.estimated_memory.0);
}

#[test]
fn failed_launches_say_what_to_do_and_ask_for_an_exit_code() {
    let workloads = serde_json::json!([{"perplexity": {"text": "builtin:kjv.test", "n_ctx": 512, "chunks": 1}}]);
    let good = launch_spec(LaunchTask::Quality, "builtin:pico", "candle", "as_is", &workloads);
    let fails = |change: &dyn Fn(&mut LaunchSpec), code: u8, part: &str| {
        let mut spec = good.clone();
        change(&mut spec);
        let error = run(&spec).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    fails(&|spec| spec.protocol += 1, 1, "one build");
    fails(&|spec| spec.cell.model.path = "/no/such.gguf".to_owned(), 14, "/no/such.gguf");
    fails(&|spec| spec.cell.model.weights_bytes += 1, 14, "changed");
    fails(&|spec| spec.cell.model.context_length = 64, 1, "511");
    fails(&|spec| _ = spec.cell.texts.insert("builtin:kjv.test".to_owned(), "0".to_owned()), 14, "changed");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.txt");
    std::fs::write(&path, "word ".repeat(100)).unwrap();
    let short = serde_json::json!([{"perplexity": {"text": path, "n_ctx": 512}}]);
    let short: Vec<_> = serde_json::from_value(short).unwrap();
    fails(&|spec| spec.cell.recipe.workloads.clone_from(&short), 1, "1024 are needed");
}
