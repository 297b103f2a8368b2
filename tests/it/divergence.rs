//! Divergence from a reference: against sums made here from the engines' own logits, against the
//! perplexity workload, and from the command line.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::env;

use ruvlab::{
    engine::{self, Chunk, EngineKind, LogitRows},
    event::{Event, ScoreTrace},
    exit,
    model::{
        source::locate::{Fetch, Locator},
        tokenizer::Tokenizer,
        weights::{TensorType, Weights},
    },
    plan::{self, Cell, LaunchSpec, LaunchTask, PROTOCOL, PlanError},
    text, workload,
};
use serde_json::{Value, json};

fn planned(source: &str, set: &str, format: &str, workloads: &Value) -> Result<Cell, PlanError> {
    let recipe = json!({
        "schema": "ruvlab/v1", "name": "test", "model": {"source": source, "context_length": 512},
        "kernels": {"set": set, "verify": {"reference": null}}, "quantization": {"format": format}, "workloads": workloads,
    });
    plan::single(serde_json::from_value(recipe).unwrap(), &mut Locator::new(Fetch::Offline, |_| {}))
}

fn cell(source: &str, set: &str, format: &str, workloads: &Value) -> Cell {
    planned(source, set, format, workloads).unwrap()
}

fn run(cell: &Cell) -> Result<Vec<Event>, workload::LaunchError> {
    let spec =
        LaunchSpec { protocol: PROTOCOL, launch: 0, task: LaunchTask::Quality, cell: cell.clone(), artifacts: None };
    let mut events = Vec::new();
    workload::launch(&spec, &mut |event: &Event| events.push(event.clone()))?;
    Ok(events)
}

/// Returns a metric of the whole text and those of its windows.
fn values(events: &[Event], metric: &str) -> (f64, Vec<f64>) {
    let samples = events.iter().filter_map(|event| match event {
        Event::Sample { sample, .. } if sample.metric == metric => Some(sample),
        _ => None,
    });
    let (whole, windows): (Vec<_>, Vec<_>) = samples.partition(|sample| sample.step.is_none());
    assert_eq!(whole.len(), 1, "{metric}");
    (whole[0].value, windows.iter().map(|sample| sample.value).collect())
}

fn traces(events: &[Event]) -> Vec<&ScoreTrace> {
    let scores = events.iter().filter_map(|event| match event {
        Event::Scores { trace, .. } => Some(trace),
        _ => None,
    });
    scores.collect()
}

fn divergence(reference: &Value) -> Value {
    json!([{"kl_divergence": {"n_ctx": 64, "chunks": 3, "reference": reference}}])
}

/// ln softmax in f64, the plain way.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - total.ln()).collect()
}

#[test]
fn it_is_the_sum_over_the_engines_own_predictions() {
    let cell = cell("builtin:pico", "candle", "q4_0", &divergence(&json!({"format": "f32"})));
    let events = run(&cell).unwrap();
    let traces = traces(&events);
    assert_eq!(traces.iter().map(|trace| trace.window).collect::<Vec<_>>(), [0, 1, 2]);

    let file = Weights::open("builtin:pico").unwrap();
    let tokenizer = Tokenizer::new(&file).unwrap();
    let bos = tokenizer.bos_to_add();
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(&text::load("builtin:heldout").unwrap().content, false).unwrap());
    let mut window = tokens[64..128].to_vec();
    if let Some(bos) = bos {
        window[0] = bos;
    }
    let rows = ["f32", "q4_0"].map(|format| {
        let weights = file.requantized(TensorType::from_name(format).unwrap()).unwrap();
        let mut engine = engine::load(EngineKind::Candle, &weights, Some(512)).unwrap();
        let sequence = engine.open().unwrap();
        engine.step(&[Chunk { sequence, tokens: &window[..32], logits: LogitRows::Last }]).unwrap();
        let logits = engine.step(&[Chunk { sequence, tokens: &window[32..63], logits: LogitRows::All }]).unwrap();
        (0..31).map(|row| log_softmax(logits[0].row(row))).collect::<Vec<_>>()
    });
    let [reference, candidate] = rows;
    let mut sum = 0.0;
    for (at, (p, q)) in reference.iter().zip(&candidate).enumerate() {
        let score = traces[1].tokens[at];
        let target = tokens[64 + 33 + at];
        assert_eq!((score.position, score.token_id), (33 + at as u32, target));
        let expected: f64 = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
        assert!((score.kl_divergence - expected).abs() <= 1e-12 + 1e-9 * expected, "{at}: {score:?}, {expected}");
        assert!((score.nll + q[target as usize]).abs() <= 1e-10, "{at}");
        assert!((score.reference_nll + p[target as usize]).abs() <= 1e-10, "{at}");
        let likeliest = |row: &[f64]| (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap();
        assert_eq!(score.top1_equal, likeliest(p) == likeliest(q), "{at}");
        sum += expected;
    }
    let (mean, windows) = values(&events, "kl_mean");
    assert!((windows[1] - sum / 31.0).abs() <= 1e-10, "{windows:?}, {}", sum / 31.0);
    assert!((mean - windows.iter().sum::<f64>() / 3.0).abs() <= 1e-12);
    println!("pico q4_0 from f32: {mean:e}");
    assert!(mean > 1e-3, "4 bits leave their mark: {mean}");
}

#[test]
fn its_statistics_agree_with_each_other_and_with_the_perplexity_workload() {
    let perplexity = json!([{"perplexity": {"n_ctx": 64, "chunks": 3}}]);
    let events = run(&cell("builtin:pico", "candle", "q4_0", &divergence(&json!({"format": "q8_0"})))).unwrap();
    for (metric, format) in [("perplexity", "q4_0"), ("reference_perplexity", "q8_0")] {
        let alone = run(&cell("builtin:pico", "candle", format, &perplexity)).unwrap();
        let (alone, beside) = (values(&alone, "perplexity").0, values(&events, metric).0);
        assert!((alone - beside).abs() <= 1e-7 * alone, "{metric}: {beside}, alone {alone}");
    }
    let of = |metric: &str| values(&events, metric).0;
    let ratio = (of("perplexity") / of("reference_perplexity")).ln();
    assert!((of("perplexity_log_ratio") - ratio).abs() <= 1e-9);
    let percentiles = ["kl_p50", "kl_p99", "kl_p999", "kl_max"].map(of);
    assert!(percentiles.windows(2).all(|pair| pair[0] <= pair[1]) && percentiles[0] > 0.0, "{percentiles:?}");
    let tokens: Vec<_> = traces(&events).iter().flat_map(|trace| &trace.tokens).copied().collect();
    assert_eq!(tokens.len(), 3 * 31);
    let mean = tokens.iter().map(|token| token.kl_divergence).sum::<f64>() / tokens.len() as f64;
    assert!((of("kl_mean") - mean).abs() <= 1e-12);
    let agreeing = tokens.iter().filter(|token| token.top1_equal).count() as f64 / tokens.len() as f64;
    assert!((of("top1_agreement") - agreeing).abs() <= 1e-12 && agreeing > 0.5);
    assert!(values(&events, "top1_agreement").1.len() == 3 && of("kl_max") >= mean);
}

#[test]
fn two_engines_on_the_same_weights_hardly_differ() {
    for (set, other) in [("candle", "reference"), ("reference", "candle")] {
        for (format, bound) in [("f32", 1e-8), ("as_is", 1e-4)] {
            let events = run(&cell("builtin:pico", set, format, &divergence(&json!({"kernels": other})))).unwrap();
            let ((mean, _), (agreement, _)) = (values(&events, "kl_mean"), values(&events, "top1_agreement"));
            println!("pico {format}, {set} from {other}: {mean:e}, top-1 {agreement}");
            assert!(mean <= bound, "{format} {set}: {mean:e}");
            assert!(agreement >= 0.97, "{format} {set}: {agreement}");
        }
    }
}

fn refused(source: &str, set: &str, format: &str, reference: &Value) -> String {
    match planned(source, set, format, &divergence(reference)) {
        Err(PlanError::Recipe(problems) | PlanError::Resource(problems)) => {
            problems.iter().map(|problem| format!("{}: {}\n", problem.code, problem.message)).collect()
        }
        Ok(cell) => panic!("planned: {cell:?}"),
    }
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_runs() {
    // The file is q8_0, so this is the cell under another name.
    for reference in [json!({"format": "q8_0"}), json!({"kernels": "candle"}), json!({"source": "builtin:pico"})] {
        let said = refused("builtin:pico", "candle", "as_is", &reference);
        assert!(said.starts_with("same-reference: ") && said.contains("held against itself"), "{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read("assets/pico/pico.gguf").unwrap();
    let known = bytes.windows(13).position(|window| window == b"<|endoftext|>").unwrap();
    bytes[known + 2..known + 5].copy_from_slice(b"END");
    let path = folder.path().join("other.gguf");
    std::fs::write(&path, bytes).unwrap();
    let said = refused("builtin:pico", "candle", "as_is", &json!({"source": path}));
    assert!(said.starts_with("vocabulary: ") && said.contains("different vocabularies"), "{said}");
    let said = refused("builtin:pico", "candle", "as_is", &json!({"source": "/no/such.gguf"}));
    assert!(said.contains("/no/such.gguf"), "{said}");
    let said = refused("builtin:pico", "candle", "as_is", &json!({"kernels": "cuda"}));
    assert!(said.starts_with("not-implemented: `workloads[0].kl_divergence.reference.kernels`"), "{said}");
}

#[test]
fn memory_is_asked_for_both_sides() {
    let alone = cell("builtin:pico", "candle", "as_is", &json!([{"perplexity": {"n_ctx": 64, "chunks": 3}}]));
    let both = cell("builtin:pico", "candle", "as_is", &divergence(&json!({"format": "f32"})));
    let f32_bytes = both.references[0].model.weights_bytes;
    assert!(f32_bytes > 3 * alone.model.weights_bytes);
    assert!(both.estimated_memory.0 >= alone.estimated_memory.0 + 2 * f32_bytes);
}

#[test]
fn a_launch_that_lacks_its_reference_or_finds_another_says_so() {
    let good = cell("builtin:pico", "candle", "q4_0", &divergence(&json!({"format": "f32"})));
    let mut lacking = good.clone();
    lacking.references.clear();
    assert!(run(&lacking).unwrap_err().to_string().contains("no reference in the plan"));
    let mut changed = good;
    changed.references[0].model.weights_bytes += 1;
    assert_eq!(run(&changed).unwrap_err().exit_code(), exit::RESOURCE);
}

/// A real model, where `RUVLAB_TEST_SMOLLM2` names the file of `scripts/fetch-models`. On f32 the
/// engines give one distribution; on the file's `q4_1` every flipped rounding of an 8-bit activation
/// is amplified by 30 layers, and they are as far apart as each is from f32.
#[test]
fn the_two_engines_agree_on_a_real_model() {
    let Ok(path) = env::var("RUVLAB_TEST_SMOLLM2") else {
        println!("skipped: RUVLAB_TEST_SMOLLM2 does not name a SmolLM2-135M-Instruct Q4_1 file");
        return;
    };
    let workloads = json!([{"kl_divergence": {"n_ctx": 128, "chunks": 2, "reference": {"kernels": "reference"}}}]);
    for (format, bound, agreeing) in [("f32", 1e-9, 1.0), ("as_is", 1e-2, 0.9)] {
        let events = run(&cell(&path, "candle", format, &workloads)).unwrap();
        let ((mean, _), (agreement, _)) = (values(&events, "kl_mean"), values(&events, "top1_agreement"));
        println!("SmolLM2 {format}, candle from reference: {mean:e}, top-1 {agreement}");
        assert!(mean <= bound && agreement >= agreeing, "{format}: {mean:e} {agreement}");
    }
}
