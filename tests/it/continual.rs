//! Tasks learned one after the other, as a launch runs them.
use std::{fs, path::Path};

use ruvlab::{
    event::Event,
    plan::{LaunchSpec, LaunchTask},
    text,
};

use crate::launches::{launch_spec, run, samples};

/// Returns a launch of the workload on the embedded model.
fn spec(workload: &serde_json::Value, training: &serde_json::Value, continual: serde_json::Value) -> LaunchSpec {
    let workloads = serde_json::json!([{"continual": workload}]);
    let mut spec = launch_spec(LaunchTask::Quality, "builtin:pico", "scalar", "as_is", &workloads);
    let recipe = &mut spec.cell.recipe;
    let adapter = serde_json::json!({"r": 4, "target_modules": ["v_proj", "down_proj"]});
    recipe.adapter = Some(serde_json::from_value(adapter).unwrap());
    recipe.training = Some(serde_json::from_value(training.clone()).unwrap());
    recipe.continual = Some(serde_json::from_value(continual).unwrap());
    spec
}

/// Returns the value of a metric that a workload has once.
fn value(events: &[Event], metric: &str, workload: &str) -> f64 {
    let found: Vec<f64> = samples(events, metric)
        .iter()
        .filter(|sample| sample.workload == workload)
        .map(|sample| sample.value)
        .collect();
    assert_eq!(found.len(), 1, "{metric} of {workload}: {found:?}");
    found[0]
}

#[test]
fn a_launch_scores_every_task_before_the_first_and_after_each() {
    let training = serde_json::json!({"learning_rate": 3e-3, "batch_size": 2, "sequence_length": 32, "max_steps": 6});
    let continual = serde_json::json!({
        "tasks": [
            {"name": "python", "train": "builtin:python.train", "test": "builtin:python.test"},
            {"name": "french", "train": "builtin:french.train", "test": "builtin:french.test"},
        ],
        "task_orders": 1,
        "methods": [
            {"method": "ewc_pp", "lambda": [1e4], "fisher_decay": 0.9, "space": "delta_w_rank1"},
            {"method": "replay", "replay_sequences": 4},
            {"method": "joint"},
        ],
    });
    let spec = spec(&serde_json::json!({"eval_sequences": 4}), &training, continual);
    let events = run(&spec).unwrap();
    // Three methods have a matrix of 3 x 2, one only its last row; two orders.
    let losses = samples(&events, "task_nll");
    assert_eq!(losses.len(), 2 * (3 * 6 + 2));
    assert!(losses.iter().all(|sample| sample.task.is_some() && sample.value > 0.0));
    let at = |label: &str, through: u32, task: &str| {
        let is = |sample: &&&ruvlab::event::Sample| {
            (sample.workload.as_str(), sample.trained_through, sample.task.as_deref())
                == (label, Some(through), Some(task))
        };
        losses.iter().find(is).unwrap().value
    };
    // Before the first task all are the same, and learning a task lowers its loss.
    let plain = "continual(sequential,o0)";
    assert_eq!(at(plain, 0, "python").to_bits(), at("continual(ewc_pp,l10000,o1)", 0, "python").to_bits());
    assert!(at(plain, 1, "python") < at(plain, 0, "python"));
    // The first task is learned alike, and the second the less the more the first is protected.
    let strong = "continual(ewc_pp,l10000,o0)";
    assert_eq!(at(plain, 1, "python").to_bits(), at(strong, 1, "python").to_bits());
    assert!(at(strong, 2, "french") > at(plain, 2, "french"));
    let lost = samples(&events, "plasticity_loss");
    assert!(lost.iter().filter(|sample| sample.workload.starts_with("continual(seq")).all(|s| s.value == 0.0));
    assert!(lost.iter().filter(|sample| sample.workload.starts_with("continual(ewc")).all(|s| s.value > 0.0));
    for metric in ["forgetting", "general_drift", "retained_gain", "intransigence", "backward_transfer"] {
        assert!(!samples(&events, metric).is_empty(), "{metric}");
    }
    assert_eq!(samples(&events, "fisher_mean").len(), 2 * 2);
}

#[test]
fn every_method_of_a_recipe_changes_what_is_left() {
    let training = serde_json::json!({"learning_rate": 3e-3, "batch_size": 2, "sequence_length": 24, "max_steps": 4});
    let continual = serde_json::json!({
        "tasks": [
            {"name": "python", "train": "builtin:python.train", "test": "builtin:python.test"},
            {"name": "french", "train": "builtin:french.train", "test": "builtin:french.test"},
        ],
        "orders": [["french", "python"]],
        "methods": [
            {"method": "replay", "replay_sequences": 4},
            {"method": "der_pp", "replay_sequences": 4, "kept_logits": 8},
            {"method": "der_pp", "name": "der", "replay_sequences": 4, "kept_logits": 8, "labels_weight": 0.0},
            {"method": "o_lora", "lambda": [0.0, 0.5]},
        ],
    });
    let events = run(&spec(&serde_json::json!({"eval_sequences": 2}), &training, continual)).unwrap();
    let names = ["sequential", "replay", "der_pp", "der", "o_lora,l0", "o_lora,l0.5"];
    let forgot = names.map(|name| value(&events, "forgetting", &format!("continual({name},o0)")));
    for (at, own) in forgot.iter().enumerate() {
        assert!(own.is_finite() && !forgot[..at].contains(own), "{} as another: {forgot:?}", names[at]);
    }
    // In the order that is named, French is first: of it alone there is a loss that was forgotten.
    let first = samples(&events, "task_nll").into_iter().find(|sample| sample.trained_through == Some(0)).unwrap();
    assert_eq!(first.task.as_deref(), Some("french"));
}

#[test]
fn a_method_that_is_not_told_where_tasks_end_finds_it_and_protects_them() {
    let training = serde_json::json!({"learning_rate": 3e-3, "batch_size": 2, "sequence_length": 24, "max_steps": 20});
    let online = |name: &str, boundaries: &str| {
        serde_json::json!({"method": "online", "name": name, "lambda": [1e3], "fisher_batches": 4,
            "space": "delta_w_rank1", "boundaries": boundaries, "false_alarm_steps": 1e4})
    };
    let continual = serde_json::json!({
        "tasks": [
            {"name": "kjv", "train": "builtin:kjv.train", "test": "builtin:kjv.test"},
            {"name": "python", "train": "builtin:python.train", "test": "builtin:python.test"},
        ],
        "methods": [online("told", "given"), online("detecting", "detected")],
    });
    let events = run(&spec(&serde_json::json!({"eval_sequences": 4}), &training, continual)).unwrap();
    let of = |metric: &str, name: &str| value(&events, metric, &format!("continual({name},o0)"));
    assert_eq!(of("boundaries_found", "detecting,l1000"), 1.0);
    assert_eq!(of("boundaries_false", "detecting,l1000"), 0.0);
    assert!((1.0..=6.0).contains(&of("boundary_delay", "detecting,l1000")));
    let [plain, told, found] = ["sequential", "told,l1000", "detecting,l1000"].map(|name| of("forgetting", name));
    assert!(told < plain && found < plain && found != told, "{plain} {told} {found}");
}

/// Writes texts of two kinds with their labels: JSON, JSON lines or CSV, by the name's end.
fn write_labelled(path: &Path, kinds: [(&str, &str); 2], count: usize) {
    let texts = kinds.map(|(source, _)| text::load(source).unwrap().content);
    let records: Vec<(String, &str)> = (0..count)
        .map(|at| {
            let (content, label) = (&texts[at % 2], kinds[at % 2].1);
            let words: Vec<&str> = content.split_whitespace().skip(at * 9).take(9).collect();
            (words.join(" "), label)
        })
        .collect();
    let content = match path.extension().unwrap().to_str().unwrap() {
        "json" => {
            let records: Vec<_> =
                records.iter().map(|(text, label)| serde_json::json!({"sentence": text, "label": label})).collect();
            serde_json::to_string(&records).unwrap()
        }
        "jsonl" => records
            .iter()
            .map(|(text, label)| serde_json::json!({"text": text, "label": label}).to_string() + "\n")
            .collect(),
        _ => {
            let line = |(text, label): &(String, &str)| format!("\"{}\",{label}\n", text.replace('"', "\"\""));
            "text,label\n".to_owned() + &records.iter().map(line).collect::<String>()
        }
    };
    fs::write(path, content).unwrap();
}

#[test]
fn tasks_with_labels_are_learned_and_scored_over_the_labels_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let language = |part: &str| [format!("builtin:french.{part}"), format!("builtin:german.{part}")];
    let kind = |part: &str| [format!("builtin:kjv.{part}"), format!("builtin:python.{part}")];
    let write = |name: &str, sources: [String; 2], labels: [&str; 2], count| {
        write_labelled(&folder.path().join(name), [(&sources[0], labels[0]), (&sources[1], labels[1])], count);
    };
    write("language.train.json", language("train"), ["French", "German"], 140);
    write("language.test.jsonl", language("test"), ["French", "German"], 24);
    write("kind.train.csv", kind("train"), ["Bible", "Code"], 140);
    write("kind.test.csv", kind("test"), ["Bible", "Code"], 24);
    fs::write(folder.path().join("language.labels.json"), r#"["French", "German"]"#).unwrap();
    fs::write(folder.path().join("kind.labels.json"), r#"["Bible", "Code"]"#).unwrap();
    let training = serde_json::json!({"learning_rate": 2e-3, "batch_size": 4, "sequence_length": 40, "max_steps": 30, "max_grad_norm": 1.0});
    let continual = serde_json::json!({
        "tasks": [
            {"name": "language", "train": at("language.train.json"), "test": at("language.test.jsonl"),
             "labels": at("language.labels.json")},
            {"name": "kind", "train": at("kind.train.csv"), "test": at("kind.test.csv"),
             "labels": at("kind.labels.json"), "prompt": "{text}\nThis is"},
        ],
        "methods": [{"method": "joint"}],
    });
    let workload = serde_json::json!({"eval_sequences": 20, "train_sequences": 120});
    let mut spec = spec(&workload, &training, continual);
    let events = run(&spec).unwrap();
    let plain = "continual(sequential,o0)";
    let accuracy = |task: &str, through: u32| {
        let own = samples(&events, "task_accuracy");
        let is = |sample: &&&ruvlab::event::Sample| {
            (sample.workload.as_str(), sample.task.as_deref(), sample.trained_through)
                == (plain, Some(task), Some(through))
        };
        let found = own.iter().find(is).unwrap();
        assert_eq!(found.n, 20);
        found.value
    };
    for (through, task) in [(1, "language"), (2, "kind")] {
        let learned = accuracy(task, through);
        assert!(learned >= 0.8, "{task}: {learned}, {} before", accuracy(task, 0));
    }
    let average = value(&events, "average_accuracy", plain);
    assert!((average - 0.5 * (accuracy("language", 2) + accuracy("kind", 2))).abs() <= 1.0e-12);
    let forgot = value(&events, "accuracy_forgetting", plain);
    assert!((forgot - (accuracy("language", 1) - accuracy("language", 2))).abs() <= 1.0e-12);
    assert!(value(&events, "average_accuracy", "continual(joint,o0)") >= 0.7);
    // A label that is none is named, with its file.
    fs::write(folder.path().join("kind.labels.json"), r#"["Bible", "Law"]"#).unwrap();
    let error = run(&spec).unwrap_err().to_string();
    assert!(error.contains("kind.train.csv") && error.contains("Code") && error.contains("Law"), "{error}");
    let tasks = &mut spec.cell.recipe.continual.as_mut().unwrap().tasks;
    tasks[0].labels = Some(at("nothing.json"));
    assert!(run(&spec).unwrap_err().to_string().contains("nothing.json"));
}
