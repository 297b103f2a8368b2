//! Engines and workloads against each other and against llama.cpp.
//!
//! Figures of llama.cpp are those of commit 0c1e57098 on the same files and texts; `scripts/` says
//! how they are made. A quantised matrix is multiplied by activations rounded to 8 bits there and
//! in candle, so a change in the last bit of a float can flip a rounding: close is the most two
//! engines can be on quantised weights, while on f32 weights they must agree to f32's precision.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests stop at what they cannot do and print what they measure"
)]

use std::env;

use ruvlab::{
    engine::{self, CacheType, Chunk, EngineError, EngineKind, LanguageModel, LogitRows, Settings, Tier},
    event::{Event, Sample},
    metrics,
    model::{
        locate::{Fetch, Locator},
        sampler::{Sampler, Sampling},
        tokenizer::Tokenizer,
        weights::{TensorType, Weights},
    },
    plan::{LaunchSpec, LaunchTask},
    text, workload,
};

const BOTH: [EngineKind; 2] = [EngineKind::Reference, EngineKind::Candle];

/// Returns our kernels in every tier this processor runs.
pub(crate) fn native() -> impl Iterator<Item = EngineKind> {
    Tier::ALL.into_iter().map(EngineKind::Native).filter(|kind| kind.is_available())
}

fn all() -> impl Iterator<Item = EngineKind> {
    BOTH.into_iter().chain(native())
}

/// Loads with caches in f32, so that nothing is rounded but weights.
pub(crate) fn load_exact(kind: EngineKind, weights: &Weights, threads: usize) -> Box<dyn LanguageModel> {
    let (key_type, value_type) = (CacheType::F32, CacheType::F32);
    let settings = Settings {
        context_length: None,
        threads: threads.try_into().ok(),
        key_type,
        value_type,
        ..Settings::default()
    };
    engine::load_with(kind, weights, &settings).unwrap()
}

pub(crate) fn pico() -> Weights {
    Weights::open("builtin:pico").unwrap()
}

pub(crate) fn heldout(weights: &Weights) -> Vec<u32> {
    let tokenizer = Tokenizer::new(weights).unwrap();
    tokenizer.encode(&text::load("builtin:heldout").unwrap().content, false).unwrap()
}

/// Returns the logits of a fresh sequence that takes these tokens in chunks of these sizes.
pub(crate) fn logits(engine: &mut dyn LanguageModel, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<f32>> {
    assert_eq!(sizes.iter().sum::<usize>(), tokens.len());
    let sequence = engine.open().unwrap();
    let (mut rows, mut rest) = (Vec::new(), tokens);
    for size in sizes {
        let (tokens, tail) = rest.split_at(*size);
        let output = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }]).unwrap();
        assert_eq!(output[0].rows, *size);
        rows.extend((0..*size).map(|row| output[0].row(row).to_vec()));
        rest = tail;
    }
    engine.close(sequence);
    rows
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|x| f64::from(x - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Returns the mean over rows of KL(softmax(a) ‖ softmax(b)), in nats; NaN if a logit is NaN.
pub(crate) fn mean_kl(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let terms = softmax(a).into_iter().zip(softmax(b));
        terms.map(|(p, q)| if p == 0.0 { 0.0 } else { p * (p / q).ln() }).sum()
    };
    a.iter().zip(b).map(row).sum::<f64>() / a.len() as f64
}

pub(crate) fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.fold(0.0, |largest, (a, b)| {
        let difference = (a - b).abs();
        if difference <= largest { largest } else { difference }
    })
}

#[test]
fn the_comparators_see_what_is_no_number() {
    let (good, bad) = (vec![vec![0.0, 1.0]], vec![vec![0.0, f32::NAN]]);
    assert!(mean_kl(&good, &good).abs() <= 1e-12 && mean_kl(&good, &bad).is_nan());
    assert!(largest_difference(&good, &bad).is_nan() && largest_difference(&bad, &good).is_nan());
}

#[test]
fn two_prompts_in_a_row_give_what_each_gives_alone() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in all() {
        let load = || engine::load(kind, &weights, None).unwrap();
        let (one, two) = (&tokens[..40], &tokens[500..570]);
        let alone = logits(load().as_mut(), two, &[70]);
        let mut engine = load();
        let first = logits(engine.as_mut(), one, &[40]);
        assert!(logits(engine.as_mut(), two, &[70]) == alone, "{kind:?}");
        assert!(logits(engine.as_mut(), one, &[40]) == first, "{kind:?}");
    }
}

#[test]
fn sequences_side_by_side_give_what_each_gives_alone() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in all() {
        let mut engine = engine::load(kind, &weights, None).unwrap();
        let parts = [&tokens[..50], &tokens[900..933]];
        let alone = parts.map(|part| {
            let sizes: Vec<usize> = [part.len() - 10].into_iter().chain([1; 10]).collect();
            logits(engine.as_mut(), part, &sizes)
        });
        let sequences = parts.map(|_| engine.open().unwrap());
        let mut together = [Vec::new(), Vec::new()];
        for step in 0..=10 {
            let range = |part: &[u32]| {
                if step == 0 { 0..part.len() - 10 } else { part.len() - 11 + step..part.len() - 10 + step }
            };
            let chunk =
                |i: usize| Chunk { sequence: sequences[i], tokens: &parts[i][range(parts[i])], logits: LogitRows::All };
            let output = engine.step(&[chunk(0), chunk(1)]).unwrap();
            for (rows, logits) in together.iter_mut().zip(&output) {
                rows.extend((0..logits.rows).map(|row| logits.row(row).to_vec()));
            }
        }
        // Each row of a product is computed by itself, so not one bit differs.
        assert!(together == alone, "{kind:?}");
    }
}

#[test]
fn however_a_prompt_is_cut_its_logits_are_the_same() {
    let weights = pico();
    let dense = weights.requantized(TensorType::F32).unwrap();
    let tokens = &heldout(&weights)[..64];
    for kind in all() {
        for (weights, kl, difference) in [(&dense, 1e-9, 1e-3), (&weights, 1e-4, 0.5)] {
            // With f16 caches, sums in another order would flip roundings.
            let mut engine = load_exact(kind, weights, 2);
            let whole = logits(engine.as_mut(), tokens, &[64]);
            for sizes in [vec![1; 64], vec![63, 1], vec![5, 20, 1, 38]] {
                let cut = logits(engine.as_mut(), tokens, &sizes);
                let (found, largest) = (mean_kl(&whole, &cut), largest_difference(&whole, &cut));
                println!(
                    "{kind:?} {} {sizes:?}: KL {found:e}, largest difference {largest:e}",
                    weights.common_format()
                );
                assert!(found <= kl && largest <= difference, "{kind:?} {sizes:?}: {found:e} {largest:e}");
            }
        }
    }
}

#[test]
fn a_prompt_longer_than_one_step_is_as_one() {
    let weights = pico().requantized(TensorType::F32).unwrap();
    let context = weights.spec().context_length;
    let length = context.min(1100);
    let tokens = &heldout(&weights)[..length];
    let mut engine = engine::load(EngineKind::Candle, &weights, None).unwrap();
    let whole = logits(engine.as_mut(), tokens, &[length]);
    let cut = logits(engine.as_mut(), tokens, &[length / 3, length - length / 3 - 1, 1]);
    let found = mean_kl(&whole, &cut);
    assert!(found <= 1e-9, "{found:e}");
    let sequence = engine.open().unwrap();
    let last = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }]).unwrap();
    assert_eq!(last[0].rows, 1);
    assert!(largest_difference(&[last[0].row(0).to_vec()], &whole[length - 1..]) <= 1e-3);
}

#[test]
fn both_engines_give_the_same_distribution() {
    let weights = pico();
    let tokens = &heldout(&weights)[..128];
    for (weights, bound) in [(&weights.requantized(TensorType::F32).unwrap(), 1e-9), (&weights, 1e-4)] {
        let [a, b] = BOTH.map(|kind| logits(engine::load(kind, weights, None).unwrap().as_mut(), tokens, &[128]));
        let found = mean_kl(&a, &b);
        println!("{}: KL {found:e}, largest difference {:e}", weights.common_format(), largest_difference(&a, &b));
        assert!(found <= bound, "{}: {found:e}", weights.common_format());
    }
}

#[test]
fn one_seed_gives_one_text() {
    let weights = pico();
    let tokenizer = Tokenizer::new(&weights).unwrap();
    let prompt = tokenizer.encode("The old house stood", false).unwrap();
    let sampling = Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, min_p: 0.02 };
    for kind in all() {
        let mut engine = engine::load(kind, &weights, None).unwrap();
        let mut write = |seed: u64| {
            let mut sampler = Sampler::new(sampling, seed);
            let sequence = engine.open().unwrap();
            let mut tokens = prompt.clone();
            let mut fed = 0;
            for _ in 0..24 {
                let chunk = Chunk { sequence, tokens: &tokens[fed..], logits: LogitRows::Last };
                let output = engine.step(&[chunk]).unwrap();
                fed = tokens.len();
                tokens.push(sampler.sample(output[0].row(0)).unwrap());
            }
            engine.close(sequence);
            tokenizer.decode(&tokens)
        };
        let text = write(1);
        assert_eq!(write(1), text, "{kind:?}");
        assert_ne!(write(2), text, "{kind:?}");
    }
}

#[test]
fn a_refused_step_changes_no_sequence() {
    let weights = pico();
    let tokens = &heldout(&weights)[..20];
    for kind in all() {
        let mut engine = engine::load(kind, &weights, Some(24)).unwrap();
        assert_eq!(engine.context_length(), 24);
        let undisturbed = engine.open().unwrap();
        let (sequence, closed) = (engine.open().unwrap(), engine.open().unwrap());
        engine.close(closed);
        engine.close(closed);
        let chunk = |sequence, tokens| Chunk { sequence, tokens, logits: LogitRows::Last };
        let good = chunk(sequence, &tokens[..19]);
        engine.step(&[good]).unwrap();
        let last = chunk(sequence, &tokens[19..]);
        let stranger = [weights.spec().vocab_size as u32];
        for bad in [chunk(closed, &tokens[..1]), chunk(sequence, &[]), chunk(sequence, &stranger), good] {
            assert!(engine.step(&[last, bad]).is_err(), "{kind:?} {bad:?}");
        }
        assert!(matches!(engine.step(&[good]), Err(EngineError::ContextFull { needed: 38, context_length: 24 })));
        let output = engine.step(&[last]).unwrap();
        engine.step(&[chunk(undisturbed, &tokens[..19])]).unwrap();
        let alone = engine.step(&[chunk(undisturbed, &tokens[19..])]).unwrap();
        assert!(output == alone, "{kind:?}");
    }
}

#[test]
fn more_context_than_there_is_is_refused() {
    let weights = pico();
    for kind in all() {
        assert!(engine::load(kind, &weights, Some(weights.spec().context_length + 1)).is_err());
        assert!(engine::load(kind, &weights, Some(0)).is_err());
    }
}

/// Tokens and logits that transformers computed in f32 for a tiny model of its own
/// (`scripts/golden-models`).
struct Golden {
    weights: Weights,
    tokens: Vec<u32>,
    first_kept: usize,
    /// Of the positions from `first_kept` on.
    logits: Vec<Vec<f32>>,
}

fn golden(name: &str) -> Golden {
    let folder = std::path::Path::new("tests/it/golden").join(name);
    let weights = Weights::open(folder.to_str().unwrap()).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(facts["tokens"].clone()).unwrap();
    let first_kept = facts["first_kept"].as_u64().unwrap() as usize;
    let bytes = std::fs::read(folder.join("logits.f32")).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let logits: Vec<Vec<f32>> = values.chunks(weights.spec().vocab_size).map(<[f32]>::to_vec).collect();
    assert_eq!(first_kept + logits.len(), tokens.len());
    Golden { weights, tokens, first_kept, logits }
}

/// The model, and whether `reference` can run it.
const GOLDEN: [(&str, bool); 9] = [
    ("llama3-rope", false),
    ("llama-yarn", false),
    ("mistral-window", false),
    ("qwen2", true),
    ("qwen3", true),
    ("phi3", true),
    ("phi3-partial", false),
    ("phi3-longrope", false),
    ("gemma3", true),
];

#[test]
fn logits_are_those_of_transformers() {
    let mut wrong = Vec::new();
    for (name, reference_can) in GOLDEN {
        let Golden { weights, tokens, first_kept, logits: expected } = golden(name);
        let tail = tokens.len() - first_kept;
        for kind in all() {
            if kind == EngineKind::Reference && !reference_can {
                let refusal = engine::load(kind, &weights, None).err().unwrap().to_string();
                assert!(refusal.contains("candle-transformers"), "{name}: {refusal}");
                assert!(kind.check(weights.spec()).is_err(), "{name}");
                continue;
            }
            let mut engine = load_exact(kind, &weights, 2);
            let singly = [first_kept].into_iter().chain(vec![1; tail]).collect();
            for sizes in [vec![tokens.len()], vec![5, first_kept - 5, 1, tail - 1], singly] {
                let found = logits(engine.as_mut(), &tokens, &sizes);
                let difference = largest_difference(&found[first_kept..], &expected);
                println!("{name} {kind:?} in {} chunks: largest difference {difference:e}", sizes.len());
                if difference.is_nan() || difference > 1e-3 {
                    wrong.push(format!("{name} {kind:?} {sizes:?}: {difference:e}"));
                }
            }
            // At once, as a prompt is: the reference takes it in other pieces than position by position.
            let sequence = engine.open().unwrap();
            let chunk = Chunk { sequence, tokens: &tokens, logits: LogitRows::Last };
            let last = engine.step(&[chunk]).unwrap()[0].row(0).to_vec();
            let difference = largest_difference(&[last], &expected[tail - 1..]);
            if difference.is_nan() || difference > 1e-3 {
                wrong.push(format!("{name} {kind:?} at once: {difference:e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

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
        let mut spec = launch_spec(LaunchTask::Quality, "builtin:pico", set, "as_is", &workloads);
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
            Ok(reference) => assert!((reference - changed).abs() <= 2e-3, "{rope}: {reference}, {changed}"),
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

/// Real text through a real model, where `RUVLAB_TEST_SMOLLM2` names the file of
/// `scripts/fetch-models`; a minute each.
pub(crate) fn smollm2() -> Option<String> {
    let path = env::var("RUVLAB_TEST_SMOLLM2").ok();
    if path.is_none() {
        println!("skipped: RUVLAB_TEST_SMOLLM2 does not name a SmolLM2-135M-Instruct Q4_1 file");
    }
    path
}

/// Returns the BLAKE3 of token ids as little-endian bytes.
fn digest(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

/// The digests are of llama.cpp's own ids of the whole text.
#[test]
fn tokens_are_those_of_llama_cpp() {
    let tokens = heldout(&pico());
    assert_eq!(tokens.len(), 47_033);
    assert_eq!(digest(&tokens), "c4b9d9747c1fd81cca26e01377f2810b7e6871cdb3dd511d965e4005b86341f4");
}

#[test]
fn smollm2_tokens_are_those_of_llama_cpp() {
    let Some(path) = smollm2() else { return };
    let tokens = heldout(&Weights::open(&path).unwrap());
    assert_eq!(tokens.len(), 39_786);
    assert_eq!(digest(&tokens), "fc0ac4e0613bad4f6da73e78cbb74b16495c69a64c8df396724563d71322228d");
}

/// Compares the perplexity of twelve windows of 512 tokens of `builtin:heldout`; `bound` is
/// relative.
pub(crate) fn compare_smollm2_perplexity(set: &str, format: &str, llama_cpp: f64, bound: f64) {
    let Some(path) = smollm2() else { return };
    let workloads = serde_json::json!([{"perplexity": {"n_ctx": 512, "chunks": 12}}]);
    let spec = launch_spec(LaunchTask::Quality, &path, set, format, &workloads);
    let found = samples(&run(&spec).unwrap(), "perplexity")[0].value;
    let off = (found / llama_cpp).ln().abs();
    println!("{set} {format}: perplexity {found}, llama.cpp {llama_cpp}, {:.4} % off", off * 100.0);
    assert!(off <= bound, "{set} {format}: {found}, llama.cpp {llama_cpp}");
}

pub(crate) const SMOLLM2_PERPLEXITY: f64 = 28.621266704576897;
pub(crate) const SMOLLM2_F32_PERPLEXITY: f64 = 28.52655088219258;

#[test]
fn smollm2_perplexity_of_candle_is_that_of_llama_cpp() {
    compare_smollm2_perplexity("candle", "as_is", SMOLLM2_PERPLEXITY, 5e-3);
}

#[test]
fn smollm2_perplexity_of_reference_is_that_of_llama_cpp() {
    compare_smollm2_perplexity("reference", "as_is", SMOLLM2_PERPLEXITY, 5e-3);
}

#[test]
fn smollm2_perplexity_on_f32_is_that_of_llama_cpp() {
    compare_smollm2_perplexity("candle", "f32", SMOLLM2_F32_PERPLEXITY, 1e-4);
}

/// Stepped alike, one token at a time, the engines give the same bits, on f32 matrices and on the
/// file's own. Cut differently, sums have another order: on f32 that is all, on `q4_1` every flipped
/// rounding of an 8-bit activation is amplified by 30 layers, and an engine is as far from itself.
#[test]
fn smollm2_has_one_distribution_in_both_engines() {
    let Some(path) = smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let tokens = &heldout(&weights)[..96];
    let dense = weights.requantized(TensorType::F32).unwrap();
    for (weights, cut_bound) in [(&dense, 1e-9), (&weights, 1e-2)] {
        let step = |kind, sizes: &[usize]| logits(engine::load(kind, weights, None).unwrap().as_mut(), tokens, sizes);
        let reference = step(EngineKind::Reference, &[96]);
        let (whole, singly) = (step(EngineKind::Candle, &[96]), step(EngineKind::Candle, &[1; 96]));
        let (alike, cut, own) = (mean_kl(&reference, &singly), mean_kl(&reference, &whole), mean_kl(&whole, &singly));
        let format = weights.common_format();
        println!(
            "{format}: KL of the engines stepped alike {alike:e}, cut differently {cut:e}, candle from itself {own:e}"
        );
        assert!(reference == singly, "{format}: {alike:e}");
        assert!(cut <= cut_bound && own <= cut_bound, "{format}: {cut:e} {own:e}");
    }
}

/// What llama.cpp gives for windows of `builtin:heldout`: `scripts/llama-reference --ctx 512
/// --with-top1`, less what is not compared.
#[derive(serde::Deserialize)]
struct LlamaCpp {
    per_chunk_nll: Vec<f64>,
    /// Of every scored position, window after window.
    top1: Vec<u32>,
}

/// On the file as it is, twelve windows, and with all weights and the cache in f32, four windows.
#[derive(serde::Deserialize)]
struct Figures {
    text_tokens: usize,
    as_is: LlamaCpp,
    f32: LlamaCpp,
}

/// A real file: the variable that names it, and its figures.
const QWEN2: (&str, &str) = ("RUVLAB_TEST_QWEN2", "qwen2.5-coder-0.5b-q4_k_m");
const GEMMA3: (&str, &str) = ("RUVLAB_TEST_GEMMA3", "gemma-3-270m-q4_k_m");

/// Scores the first windows of 512 tokens as `perplexity` does, on the file as it is or in f32, and
/// holds them against llama.cpp: the perplexity, relative, and the share of positions where both find
/// the same token likeliest.
fn compare_with_llama_cpp(
    (variable, name): (&str, &str),
    kind: EngineKind,
    dense: bool,
    windows: usize,
    (off_bound, top1_bound): (f64, f64),
) {
    let Ok(path) = env::var(variable) else {
        println!("skipped: {variable} does not name a {name} file");
        return;
    };
    let theirs = std::fs::read(format!("tests/it/golden/llama-cpp/{name}.json")).unwrap();
    let Figures { text_tokens, as_is, f32 } = serde_json::from_slice(&theirs).unwrap();
    let theirs = if dense { f32 } else { as_is };
    let mut weights = Weights::open(&path).unwrap();
    if dense {
        weights = weights.requantized(TensorType::F32).unwrap();
    }
    let tokenizer = Tokenizer::new(&weights).unwrap();
    let bos = tokenizer.bos_to_add();
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(&text::load("builtin:heldout").unwrap().content, false).unwrap());
    // llama.cpp takes the text without its last newline.
    assert!(tokens.len().abs_diff(text_tokens) <= 1, "{} tokens, llama.cpp {text_tokens}", tokens.len());
    let mut engine = engine::load(kind, &weights, Some(512)).unwrap();
    let (mut nll, mut agree) = (0.0, 0u32);
    assert!(theirs.per_chunk_nll.len() >= windows && theirs.top1.len() >= windows * 255);
    for (window, top1) in tokens.chunks_exact(512).zip(theirs.top1.chunks_exact(255)).take(windows) {
        let mut context = window.to_vec();
        if let Some(bos) = bos {
            context[0] = bos;
        }
        let sequence = engine.open().unwrap();
        let mut step = |tokens: &[u32], logits| engine.step(&[Chunk { sequence, tokens, logits }]).unwrap().remove(0);
        step(&context[..256], LogitRows::Last);
        for scored in (256..511).step_by(51) {
            let logits = step(&context[scored..scored + 51], LogitRows::All);
            for row in 0..51 {
                let (logits, position) = (logits.row(row), scored + row);
                nll -= softmax(logits)[window[position + 1] as usize].ln();
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                agree += u32::from(best == top1[position - 256] as usize);
            }
        }
        engine.close(sequence);
    }
    let (mean, scored) = (nll / (windows * 255) as f64, (windows * 255) as f64);
    let expected = theirs.per_chunk_nll[..windows].iter().sum::<f64>() / windows as f64;
    let (off, share) = ((mean - expected).abs(), f64::from(agree) / scored);
    println!(
        "{name} {kind:?} f32={dense}: perplexity {}, llama.cpp {}, {:.3} % off; top-1 {:.2} %",
        mean.exp(),
        expected.exp(),
        off * 100.0,
        share * 100.0
    );
    assert!(off <= off_bound, "{name} {kind:?}: {off}");
    assert!(share >= top1_bound, "{name} {kind:?}: {share}");
}

/// On quantised matrices llama.cpp rounds activations to 8 bits, and so does candle, each its own way:
/// llama.cpp itself finds another token likeliest than in f32 about as often as we do. In f32 what is
/// left is the order of sums.
const ROUNDED: f64 = 5e-3;
const EXACT: (f64, f64) = (1e-4, 0.99);

#[test]
fn qwen2_of_candle_is_that_of_llama_cpp() {
    compare_with_llama_cpp(QWEN2, EngineKind::Candle, false, 12, (ROUNDED, 0.965));
}

#[test]
fn qwen2_in_f32_is_that_of_llama_cpp() {
    compare_with_llama_cpp(QWEN2, EngineKind::Candle, true, 4, EXACT);
}

/// Position by position, so a third of the windows, for time.
#[test]
fn qwen2_of_reference_is_that_of_llama_cpp() {
    compare_with_llama_cpp(QWEN2, EngineKind::Reference, false, 4, (ROUNDED, 0.965));
}

#[test]
fn gemma3_of_candle_is_that_of_llama_cpp() {
    compare_with_llama_cpp(GEMMA3, EngineKind::Candle, false, 12, (ROUNDED, 0.94));
}

#[test]
fn gemma3_in_f32_is_that_of_llama_cpp() {
    compare_with_llama_cpp(GEMMA3, EngineKind::Candle, true, 4, EXACT);
}

/// The reference has gemma3's weights in f32, however they are stored.
#[test]
fn gemma3_of_reference_is_that_of_llama_cpp() {
    compare_with_llama_cpp(GEMMA3, EngineKind::Reference, true, 4, EXACT);
}
