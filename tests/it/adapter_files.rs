//! Adapters from files: in recipes, on the command line, and as PEFT and llama.cpp have them.
mod peft;
mod train;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
};

use ruvlab::{
    adapt::{file, train::fresh},
    engine::{Adapter, Target},
    model::{spec::ModelSpec, weights::Weights},
};
use serde_json::Value;

use super::{cli::soon, logits::pico};

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

/// What is not loaded yet has nothing to flush: the first signal ends it, here while an adapter is read that does
/// not come.
#[test]
fn a_signal_ends_a_chat_that_still_loads() {
    let folder = prepared();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
    command.args(["chat", "-m", "builtin:pico", "--raw", "-p", "The", "--adapter", "a.gguf", "--adapter", "pipe"]);
    let mut child = command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Without waiting, a pipe opens for writing only while somebody reads it.
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut writer = None;
    let reads = soon(|| {
        writer = File::options().write(true).custom_flags(without_waiting).open(&pipe).ok();
        writer.is_some()
    });
    assert!(reads, "it never came to its second adapter");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    if !soon(|| child.try_wait().unwrap().is_some()) {
        child.kill().unwrap();
    }
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

/// Several adapters as one, by a method that a recipe names; of one alone, all come to the same.
#[test]
fn recipes_run_with_several_adapters_as_one() {
    let folder = prepared();
    let at = folder.path();
    let workload =
        "workloads: [{perplexity: {n_ctx: 64, chunks: 1}}]\nkernels: {set: scalar, verify: {reference: null}}\n";
    let score = |name: &str, adapter: &str| {
        let recipe =
            format!("schema: ruvlab/v1\nname: {name}\nmodel: {{source: builtin:pico}}\nadapter: {adapter}\n{workload}");
        fs::write(at.join("r.yaml"), recipe).unwrap();
        ruvlab(at, 0, &["run", "r.yaml", "--quiet"]);
        let shown = json(at, &["show", name]);
        let metrics = shown[0]["summary"]["metrics"].as_array().unwrap();
        metrics.iter().find(|metric| metric["metric"] == "perplexity").unwrap()["mean"].as_f64().unwrap()
    };
    let alone = score("alone", "{init: peft}");
    let arrow = "method: arrow, top_k: 1";
    for (name, method) in [("one-cat", "method: cat"), ("one-arrow", arrow)] {
        let found = score(name, &format!("{{compose: {{adapters: [peft], {method}}}}}"));
        assert!((found - alone).abs() <= 1e-5 * alone, "{name}: {found} for {alone}");
    }
    let two = |method: &str| format!("{{compose: {{adapters: [peft, other], {method}}}}}");
    let all =
        [alone, score("cat", &two("method: cat")), score("ties", &two("method: ties")), score("arrow", &two(arrow))];
    for (i, score) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|other| (other - score).abs() >= 1e-4 * score), "{all:?}");
    }
    let refused = |adapter: &str, code: i32, part: &str| {
        let recipe = RECIPE.replace("{init: ADAPTER}", adapter);
        fs::write(at.join("r.yaml"), recipe).unwrap();
        let (_, message) = ruvlab(at, code, &["plan", "r.yaml"]);
        assert!(message.contains(part), "{message}");
    };
    refused("{compose: {adapters: []}}", 3, "is empty");
    refused("{compose: {adapters: [peft, other], weights: [1]}}", 3, "1 weights for 2 adapters");
    refused("{init: peft, compose: {adapters: [peft]}}", 3, "it cannot be both");
    refused("{compose: {adapters: [peft, nothing]}}", 14, "cannot read the adapter");
}

/// Each answer is of one version of the adapters at hand, and says which.
#[test]
fn a_conversation_goes_from_adapter_to_adapter_and_back() {
    let folder = prepared();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
    let flags = "chat -m builtin:pico --raw --kernels scalar --max-tokens 12 --temperature 0 --format json --quiet";
    command.args(flags.split(' ')).args(["--adapter", "peft", "--adapter", "other"]).current_dir(folder.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let said = "The man\n/adapter other\nThe man\n/adapter\nThe man\n/rollback\n/rollback\nThe man\nThe man\n";
    child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap();
    let of = |key: &str| answers.iter().map(|answer| answer[key].clone()).collect::<Vec<_>>();
    let names = of("adapter");
    assert_eq!(
        names,
        ["peft", "other"]
            .map(Value::from)
            .into_iter()
            .chain([Value::Null, "peft".into(), "peft".into()])
            .collect::<Vec<_>>()
    );
    // Two were put at hand and one made active, then each change is a version.
    assert_eq!(of("adapters_version"), [4, 5, 6, 8, 8]);
    let texts = of("text");
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
    assert!(texts[3] == texts[0] && texts[4] == texts[0], "{texts:?}");
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

#[test]
fn adapters_are_listed_inspected_and_converted() {
    let folder = prepared();
    let at = folder.path();
    let listed = json(at, &["adapter", "list", "."]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.gguf", "other", "peft"]);
    assert!(listed[0]["kind"] == "gguf" && listed[2]["kind"] == "peft");
    for row in listed.as_array().unwrap() {
        assert_eq!((row["r"].as_u64(), row["lora_alpha"].as_f64()), (Some(3), Some(6.0)), "{row}");
        assert_eq!(row["modules"].as_array().unwrap().len(), 4, "{row}");
    }
    let model = ["-m", "builtin:pico"];
    let inspect = |adapter: &str| json(at, &[&["adapter", "inspect", adapter], &model[..]].concat());
    let shown = inspect("peft");
    assert_eq!(shown["hash"], inspect("a.gguf")["hash"]);
    for place in shown["places"].as_array().unwrap() {
        let [norm, largest, rank] = ["norm", "spectral_norm", "effective_rank"].map(|key| place[key].as_f64().unwrap());
        assert!(largest > 0.0 && norm >= largest && norm <= 3f64.sqrt() * largest, "{place}");
        assert!((1.0..=3.0 + 1e-9).contains(&rank), "{place}");
    }
    for (from, to) in [("peft", "b.gguf"), ("b.gguf", "again")] {
        json(at, &[&["adapter", "convert", from, "-o", to], &model[..]].concat());
        assert_eq!(inspect(to)["hash"], shown["hash"], "{to}");
    }
    ruvlab(at, 0, &["adapter", "list"]);
    // Who reads a program's output is told of one that it lacks.
    fs::create_dir(at.join("broken")).unwrap();
    fs::write(at.join("broken/adapter_config.json"), "{").unwrap();
    let (out, err) = ruvlab(at, 0, &["adapter", "list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 5);
    assert!(err.contains("warning[adapter]: broken: adapter_config.json is damaged"), "{err}");
    ruvlab(at, 0, &["adapter", "inspect", "peft", "-m", "builtin:pico"]);
    ruvlab(at, 14, &["adapter", "inspect", "nothing", "-m", "builtin:pico"]);
}

/// What is merged into f32 says what runs unmerged, and what is merged into few bits says how much it lost.
#[test]
fn a_merged_model_is_the_model_with_its_adapter() {
    let folder = prepared();
    let at = folder.path();
    let merge = |kind: &str, output: &str| {
        json(at, &["adapter", "merge", "peft", "-m", "builtin:pico", "-o", output, "--type", kind])["error"]
            .as_f64()
            .unwrap()
    };
    assert!(merge("f32", "f32.gguf") <= 1e-5);
    let lost = merge("q4_0", "q4.gguf");
    assert!(lost > 0.01, "{lost}");
    let own = json(at, &["adapter", "merge", "peft", "-m", "builtin:pico", "-o", "own.gguf"]);
    assert!(own["error"].as_f64().unwrap() < lost);
    ruvlab(at, 2, &["adapter", "merge", "peft", "-m", "builtin:pico", "-o", "own.gguf"]);
    let score = |model: &str, more: &[&str]| {
        let all = [&["perplexity", "-m", model, "--ctx", "64", "--chunks", "2", "--kernels", "scalar"], more].concat();
        json(at, &all)["nll"].as_f64().unwrap()
    };
    let (merged, unmerged) = (score("f32.gguf", &[]), score("builtin:pico", &["--adapter", "peft"]));
    let plain = score("builtin:pico", &[]);
    assert!((merged - unmerged).abs() <= 0.02 * (merged - plain).abs(), "{merged} {unmerged} {plain}");
}

#[test]
fn adapters_are_composed_from_the_command_line() {
    let folder = prepared();
    let at = folder.path();
    let compose = |more: &[&str]| {
        let flags = [&["adapter", "compose", "-m", "builtin:pico", "--format", "json", "--quiet"], more].concat();
        let all = [&flags[..], &["--", "0.7=peft", "-0.3=other"]].concat();
        serde_json::from_str::<Value>(&ruvlab(at, 0, &all).0).unwrap()
    };
    let cat = compose(&["-o", "cat"]);
    assert_eq!(cat["r"], 6);
    assert!(cat["error"].as_f64().unwrap() <= 1e-6, "{cat}");
    let full = compose(&["-o", "svd.gguf", "--method", "svd", "--rank", "6"]);
    assert!(full["error"].as_f64().unwrap() <= 1e-6, "{full}");
    let low = compose(&["-o", "low", "--method", "svd", "--rank", "1"]);
    assert!(low["error"].as_f64().unwrap() > 1e-3, "{low}");
    for method in ["linear", "ties", "dare-linear", "dare-ties", "magnitude-prune"] {
        assert_eq!(compose(&["-o", method, "--method", method, "--rank", "3"])["r"], 3, "{method}");
    }
    let searched = compose(&["-o", "hub", "--method", "lora-hub", "--text", "builtin:heldout", "--evaluations", "4"]);
    assert!(searched["loss"].as_f64().unwrap().is_finite() && searched["weights"].as_array().unwrap().len() == 2);
    // What was written runs.
    let score = |adapter: &str| {
        let all = ["perplexity", "-m", "builtin:pico", "--ctx", "64", "--chunks", "1", "--adapter", adapter];
        json(at, &all)["nll"].as_f64().unwrap()
    };
    assert!((score("cat") - score("svd.gguf")).abs() <= 1e-3);
    ruvlab(at, 2, &["adapter", "compose", "-m", "builtin:pico", "0.5=", "-o", "y"]);
    ruvlab(
        at,
        2,
        &["adapter", "compose", "-m", "builtin:pico", "peft", "-o", "y", "--method", "ties", "--density", "2"],
    );
}
