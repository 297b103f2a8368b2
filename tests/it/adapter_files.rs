//! Adapters from files: in recipes, on the command line, and as PEFT and llama.cpp have them.
use std::{fs, path::Path, process::Command};

use ruvlab::{
    adapt::{file, train::fresh},
    engine::{Adapter, Target},
    model::{spec::ModelSpec, weights::Weights},
};
use serde_json::Value;

use super::logits::pico;

/// Returns an adapter that changes much, of several matrices.
fn example(spec: &ModelSpec, seed: u64) -> Adapter {
    let mut adapter = fresh(spec, &[Target::Query, Target::Key, Target::Value, Target::Down], 3, 2.0, seed);
    for part in adapter.values_mut() {
        part.b.iter_mut().enumerate().for_each(|(i, b)| *b = 0.2 * (i as f32 * 0.37 + seed as f32).sin());
    }
    adapter
}

/// Runs the program in a folder, which must end with `code`, and returns what it printed: data, messages.
fn ruvlab(folder: &Path, code: i32, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
    let output = command.args(arguments).current_dir(folder).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "ruvlab {arguments:?}\n{out}\n{err}");
    (out, err)
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--format", "json", "--quiet"]);
    serde_json::from_str(&ruvlab(folder, 0, &all).0).unwrap()
}

const RECIPE: &str = "\
schema: ruvlab/v1
name: adapted
model: {source: builtin:pico}
kernels: {set: candle, verify: {reference: scalar}}
adapter: {init: ADAPTER}
workloads:
  - prefill: {prompt_tokens: 16, repetitions: 1}
  - decode: {prompt_tokens: 8, output_tokens: 8, repetitions: 1}
  - perplexity: {n_ctx: 64, chunks: 1}
  - kl_divergence: {n_ctx: 64, chunks: 1, reference: {source: builtin:pico}}
measure: {launches: {min: 3, max: 3}, warmup: 0}
";

/// Returns a folder with one adapter as `peft` and `a.gguf`, and another as `other`.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let weights = pico();
    let spec = weights.spec();
    for (name, seed) in [("peft", 1), ("a.gguf", 1), ("other", 2)] {
        file::write(&folder.path().join(name), spec, "builtin:pico", &example(spec, seed)).unwrap();
    }
    folder
}

/// The adapter's content is part of the cell, wherever and as whatever file it lies.
#[test]
fn a_cell_is_known_by_the_content_of_its_adapter() {
    let folder = prepared();
    let at = folder.path();
    let hash = |recipe: &str| {
        fs::write(at.join("r.yaml"), recipe).unwrap();
        json(at, &["plan", "r.yaml"])["cells"][0]["cell"]["hash"].as_str().unwrap().to_owned()
    };
    let of = |adapter: &str| hash(&RECIPE.replace("ADAPTER", adapter));
    let planned = of("peft");
    assert_eq!(planned, of("a.gguf"));
    assert_ne!(planned, of("other"));
    let without = RECIPE.replace("adapter: {init: ADAPTER}\n", "");
    assert_ne!(planned, hash(&without.replace("{source: builtin:pico}}\nm", "{kernels: scalar}}\nm")));
}

/// All workloads, and the check of kernels.
#[test]
fn recipes_and_commands_run_with_an_adapter() {
    let folder = prepared();
    let at = folder.path();
    fs::write(at.join("r.yaml"), RECIPE.replace("ADAPTER", "a.gguf")).unwrap();
    ruvlab(at, 0, &["run", "r.yaml", "--quiet"]);
    let runs = json(at, &["list"]);
    let summary = fs::read_to_string(at.join(runs[0]["path"].as_str().unwrap()).join("summary.json")).unwrap();
    let pico = ["-m", "builtin:pico", "--kernels", "candle"];
    let score = |more: &[&str]| {
        json(at, &[&["perplexity", "--ctx", "64", "--chunks", "1", "--adapter", "peft"], &pico[..], more].concat())
    };
    let divergence = score(&["--kl-reference", "builtin:pico"])["kl_divergence"]["mean"].as_f64().unwrap();
    assert!(divergence >= 1e-3, "the adapter changes next to nothing: {divergence}");
    assert!(summary.contains(&divergence.to_string()), "{divergence} is not in {summary}");
    // The same adapter on both sides: what is left is the kernels' difference.
    let kernels = score(&["--kl-kernels", "scalar"])["kl_divergence"]["mean"].as_f64().unwrap();
    assert!(kernels <= 1e-2 * divergence, "{kernels}");
    let with = |command: &[&str]| json(at, &[command, &pico[..], &["--adapter", "a.gguf"]].concat());
    let timed = with(&["bench", "-p", "8", "-n", "4", "-r", "1"]);
    assert!(timed[0]["adapter"].as_str().unwrap().ends_with("a.gguf"));
    let said = with(&["chat", "--raw", "-p", "The", "--max-tokens", "4", "--temperature", "0"]);
    assert!(said["tokens"].as_u64().unwrap() >= 1);
}

#[test]
fn a_plan_refuses_what_cannot_have_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights = pico();
    file::write(&at.join("a"), weights.spec(), "builtin:pico", &example(weights.spec(), 1)).unwrap();
    let other = Weights::open("tests/it/golden/qwen2").unwrap();
    file::write(&at.join("foreign"), other.spec(), "x", &example(other.spec(), 1)).unwrap();
    let refused = |code: i32, change: [&str; 2], part: &str| {
        fs::write(at.join("r.yaml"), RECIPE.replace(change[0], change[1]).replace("ADAPTER", "a")).unwrap();
        let (_, message) = ruvlab(at, code, &["plan", "r.yaml"]);
        assert!(message.contains(part), "{message}");
    };
    refused(3, ["set: candle", "set: reference"], "`reference` runs no adapters");
    refused(3, ["reference: scalar", "reference: reference"], "kernels.verify.reference");
    refused(3, ["ADAPTER", "foreign"], "belongs to the model");
    refused(14, ["ADAPTER", "nothing"], "cannot read the adapter");
    refused(3, ["adapter: {init: ADAPTER}", "adapter: {target_modules: [q_proj]}"], "neither `training` nor an `init`");
}
