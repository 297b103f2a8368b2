//! Tasks learned one after the other, as a launch runs them.
use ruvlab::plan::LaunchTask;

use crate::launches::{launch_spec, run, samples};

#[test]
fn a_launch_scores_every_task_before_the_first_and_after_each() {
    let mut spec = launch_spec(
        LaunchTask::Quality,
        "builtin:pico",
        "scalar",
        "as_is",
        &serde_json::json!([{"continual": {"eval_sequences": 4}}]),
    );
    let recipe = &mut spec.cell.recipe;
    let read = |value| serde_json::from_value(value).unwrap();
    recipe.adapter =
        Some(serde_json::from_value(serde_json::json!({"r": 4, "target_modules": ["v_proj", "down_proj"]})).unwrap());
    recipe.training = Some(
        serde_json::from_value(serde_json::json!(
            {"learning_rate": 3e-3, "batch_size": 2, "sequence_length": 32, "max_steps": 6}
        ))
        .unwrap(),
    );
    recipe.continual = Some(read(serde_json::json!({
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
    })));
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
