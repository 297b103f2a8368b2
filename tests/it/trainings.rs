//! The workload `train`: what it records, what it stores, and that it goes on where it was stopped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ruvlab::{
    adapt::peft,
    engine::{Place, Target},
    event::{Event, Sample},
    exit,
    model::weights::Weights,
    plan::LaunchSpec,
    recipe::schema::{AdapterType, KernelSet},
    workload::{self, LaunchError},
};
use serde_json::{Value, json};

fn spec(training: &Value, train: &Value, artifacts: &Path) -> LaunchSpec {
    let weights = Weights::open("builtin:pico").unwrap();
    let outline = weights.outline(None);
    let mut all = json!({"learning_rate": 4e-3, "batch_size": 2, "sequence_length": 48, "max_steps": 12,
        "lr_scheduler": {"type": "one_cycle"}, "gradient_accumulation_steps": 2, "max_grad_norm": 1.0,
        "loraplus_lr_ratio": 4.0});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "protocol": 1, "launch": 0, "task": "quality", "artifacts": artifacts,
        "cell": {
            "hash": "0", "axes": {}, "seed": 5, "kernel_set": "auto",
            "threads": 2, "texts": {}, "estimated_memory": "1GiB",
            "recipe": {
                "schema": "ruvlab/v1", "name": "test", "model": {"source": "builtin:pico"}, "training": all,
                "adapter": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj", "lm_head"]},
                "workloads": [{"train": train}],
            },
            "model": {
                "source": "builtin:pico", "name": "pico", "architecture": "llama", "format": "f32",
                "weights_hash": "", "weights_bytes": outline.tensor_bytes,
                "parameters": weights.parameters(), "context_length": 512,
            },
        },
    }))
    .unwrap()
}

fn data() -> Value {
    let eval = json!({"text": "builtin:french.test", "every_steps": 3, "max_sequences": 6});
    json!({"text": "builtin:french.train", "checkpoint_every_steps": 4, "eval": eval})
}

fn run(spec: &LaunchSpec) -> (Vec<Sample>, Result<(), LaunchError>) {
    let mut samples = Vec::new();
    let result = workload::launch(spec, &mut |event: &Event| {
        if let Event::Sample { sample, .. } = event {
            samples.push(sample.clone());
        }
    });
    (samples, result)
}

/// Returns every value that does not depend on time, by metric and step.
fn values(samples: &[Sample]) -> BTreeMap<(String, Option<u64>), (u64, u64)> {
    let timed = ["train_tok_s", "train_peak_bytes"];
    let kept = samples.iter().filter(|sample| !timed.contains(&sample.metric.as_str()));
    kept.map(|sample| ((sample.metric.clone(), sample.step), (sample.value.to_bits(), sample.n))).collect()
}

/// Losses, norms and rates of a training on candle are those of our kernels, decomposed or not; what they
/// round differently shows in the last digits.
#[test]
fn candle_trains_as_our_kernels_do() {
    for kind in [AdapterType::Lora, AdapterType::Dora] {
        let samples_of = |set: KernelSet| {
            let folder = tempfile::tempdir().unwrap();
            let mut spec = spec(&json!({}), &data(), &folder.path().join("candidate"));
            spec.cell.kernel_set = set;
            spec.cell.recipe.adapter.as_mut().unwrap().kind = kind;
            let (samples, result) = run(&spec);
            result.unwrap();
            values(&samples)
        };
        let (own, right) = (samples_of(KernelSet::Candle), samples_of(KernelSet::Auto));
        assert_eq!(own.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
        assert_ne!(own, right, "two engines, two ways to round");
        for ((metric, step), (value, n)) in &own {
            let (expected, of) = right[&(metric.clone(), *step)];
            let (value, expected) = (f64::from_bits(*value), f64::from_bits(expected));
            let what = format!("{metric} {step:?}: {value} for {expected}");
            assert!((value - expected).abs() <= 1.0e-3 * expected.abs() && *n == of, "{what}");
        }
    }
}

const FOLDER: &str = "candidate/train-french.train";

#[test]
fn a_training_that_was_stopped_goes_on_bit_for_bit() {
    for decomposed in [false, true] {
        goes_on(decomposed);
    }
}

fn goes_on(decomposed: bool) {
    let spec = |artifacts: &Path| {
        let mut spec = spec(&json!({}), &data(), artifacts);
        let adapter = spec.cell.recipe.adapter.as_mut().unwrap();
        if decomposed {
            adapter.kind = AdapterType::Dora;
        } else {
            adapter.lora_dropout = 0.1;
            adapter.rank_pattern.insert("layers.0.mlp.down_proj".to_owned(), 2);
        }
        spec
    };
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |folder: &tempfile::TempDir| folder.path().join("candidate");
    let (whole, result) = run(&spec(&at(&straight)));
    result.unwrap();
    let again = spec(&at(&stopped));
    for stop in [6, 10] {
        // As if killed while the update of this step was under way.
        let died = catch_unwind(AssertUnwindSafe(|| {
            workload::launch(&again, &mut |event: &Event| {
                let Event::Sample { sample, .. } = event else { return };
                assert!(sample.metric != "train_loss" || sample.step != Some(stop), "killed");
            })
        }));
        assert!(died.is_err());
        let checkpoints = std::fs::read_dir(stopped.path().join(FOLDER).join("checkpoints")).unwrap();
        let names: Vec<String> = checkpoints.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names, [format!("checkpoint-{:010}", stop / 4 * 4)]);
    }
    let (resumed, result) = run(&again);
    result.unwrap();
    let values_of = values(&whole);
    assert_eq!(values_of.len(), 3 * 12 + 5 + 3);
    assert_eq!(values(&resumed), values_of);
    let file = |folder: &tempfile::TempDir| {
        std::fs::read(folder.path().join(FOLDER).join("adapter/adapter_model.safetensors")).unwrap()
    };
    assert!(file(&straight) == file(&stopped));
    let losses: Vec<f64> =
        (0..12).map(|step| f64::from_bits(values_of[&("train_loss".to_owned(), Some(step))].0)).collect();
    assert!(losses[11] < losses[0], "{losses:?}");
    let weights = Weights::open("builtin:pico").unwrap();
    let (adapter, scaling) = peft::read(&straight.path().join(FOLDER).join("adapter"), weights.spec()).unwrap();
    assert_eq!((adapter.len(), scaling.r), (3 * weights.spec().layers + 1, 4));
    assert!(adapter.values().all(|part| part.magnitude.is_some() == decomposed));
    let ranks = |place: Place| adapter[&place].rank;
    assert_eq!(
        [0, 1].map(|layer| ranks(Place { layer, target: Target::Down })),
        if decomposed { [4, 4] } else { [2, 4] }
    );
    // Another seed draws another order and another A.
    let mut other = spec(&tempfile::tempdir().unwrap().path().join("candidate"));
    other.cell.seed = 6;
    let (other, result) = run(&other);
    result.unwrap();
    assert_ne!(values(&other)[&("train_loss".to_owned(), Some(0))], values_of[&("train_loss".to_owned(), Some(0))]);
}

#[test]
fn the_best_adapter_is_kept_and_training_stops_when_it_gets_worse() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = data();
    train["eval"] = json!({"text": "builtin:french.test", "every_steps": 1, "patience": 2, "max_sequences": 4});
    let wild = json!({"learning_rate": 0.5, "lr_scheduler": {"type": "constant"}, "max_steps": 40});
    let (samples, result) = run(&spec(&wild, &train, folder.path()));
    result.unwrap();
    let of = |metric: &str| samples.iter().filter(|s| s.metric == metric).collect::<Vec<_>>();
    let (with_step, end): (Vec<&Sample>, Vec<&Sample>) =
        of("train_eval_nll").into_iter().partition(|sample| sample.step.is_some());
    assert!(with_step.len() < 20, "{}", with_step.len());
    let least = with_step.iter().map(|sample| sample.value).fold(f64::INFINITY, f64::min);
    assert_eq!(end[0].value.to_bits(), least.to_bits());
    let best = of("train_best_step")[0].value;
    assert_eq!(with_step.len() as f64, best + 3.0);
}

#[test]
fn a_loss_that_is_no_number_fails_the_launch() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = data();
    train["eval"] = Value::Null;
    let wild = json!({"learning_rate": 1e30, "lr_scheduler": {"type": "constant"}, "max_grad_norm": null});
    let (_, result) = run(&spec(&wild, &train, folder.path()));
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), exit::NUMERICS);
    assert!(error.to_string().contains("lower `training.learning_rate`"), "{error}");
    // Chats need a template, which this model has not.
    let chats = folder.path().join("chats.jsonl");
    std::fs::write(&chats, r#"{"messages": [{"role": "assistant", "content": "a"}]}"#).unwrap();
    let (_, result) = run(&spec(&json!({}), &json!({"chat": chats}), folder.path()));
    let error = result.unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
}
