//! `ruvlab adapter train`: what it learns on, and where it writes to.
use std::fs;

use super::{json, ruvlab};

const RECIPE: &str = "\
schema: ruvlab/v1
name: learned
model: {source: builtin:pico}
kernels: {set: scalar, threads: 2}
adapter: {r: 2, target_modules: [q_proj]}
training: {learning_rate: 1.0e-3, max_steps: 3, batch_size: 1, sequence_length: 32}
";

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("r.yaml"), RECIPE).unwrap();
    folder
}

/// Returns the command line that writes an adapter to `output`.
fn train<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["adapter", "train", "r.yaml", "--data", "builtin:kjv.train", "-o", output][..], more].concat()
}

#[test]
fn it_learns_on_the_engine_and_the_device_of_the_recipe() {
    let folder = prepared();
    let at = folder.path();
    let norms = |set: &str| -> Vec<f64> {
        let change = format!("kernels.set={set}");
        let found = json(at, &train(set, &["--set", &change]));
        let steps = found["steps"].as_array().unwrap();
        steps.iter().map(|step| step["grad_norm"].as_f64().unwrap()).collect()
    };
    let (own, candle) = (norms("scalar"), norms("candle"));
    assert_eq!((own.len(), candle.len()), (3, 3));
    assert_ne!(own, candle, "two engines, two ways to round");
    for (own, candle) in own.iter().zip(&candle) {
        assert!((own - candle).abs() <= 1.0e-3 * candle.abs(), "{own} {candle}");
    }
    for (change, part) in
        [("kernels.device=cuda", "`scalar` computes on the processor"), ("kernels.set=cuda", "no engine to train with")]
    {
        let (out, err) = ruvlab(at, 3, &train("none", &["--set", change]));
        assert!(out.is_empty() && err.contains(part), "{out}{err}");
    }
}

#[test]
fn where_it_writes_is_looked_at_before_it_learns() {
    let folder = prepared();
    let at = folder.path();
    fs::write(at.join("file"), "no folder").unwrap();
    for output in ["file", "file/below"] {
        let (out, err) = ruvlab(at, 14, &train(output, &[]));
        assert!(out.is_empty() && err.contains("cannot write to file"), "{out}{err}");
    }
    assert!(ruvlab(at, 0, &train("adapter", &[])).0.contains("loss"));
    let (out, err) = ruvlab(at, 2, &train("adapter", &[]));
    assert!(out.is_empty() && err.contains("add --force"), "{out}{err}");
    ruvlab(at, 0, &train("adapter", &["--force"]));
}
