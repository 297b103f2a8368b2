//! The program from outside: commands, exit codes, files, signals, and runs that are killed.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::engine::{EngineKind, Tier};
use serde_json::Value;

const RECIPE: &str = "\
schema: ruvlab/v1
name: tiny
model: {source: builtin:pico}
matrix:
  axes:
    kernels.set: [reference, candle]
workloads:
  - prefill: {prompt_tokens: 16, repetitions: 1}
  - decode: {prompt_tokens: 8, output_tokens: 8, repetitions: 1}
  - perplexity: {n_ctx: 64, chunks: 1}
measure: {launches: {min: 3, max: 3}, warmup: 0}
baseline: {cell: {kernels.set: reference}}
";

/// A folder with a recipe and a store.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(RECIPE)
    }

    fn with(recipe: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tiny.yaml"), recipe).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").env_remove("RUVLAB_STORE");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must end with `code` and returns its standard output.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "ruvlab {arguments:?}\n{out}\n{err}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--format", "json", "--quiet"]);
        serde_json::from_str(&self.ends(0, &all)).unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn run_directories(&self) -> Vec<PathBuf> {
        let list = self.json(&["list"]);
        list.as_array().unwrap().iter().map(|run| self.folder.path().join(run["path"].as_str().unwrap())).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Returns the journaled samples of a run directory: (launch, metric, workload, bits of the value).
fn journaled(directory: &Path) -> BTreeSet<(u64, String, String, String)> {
    let journal = fs::read(directory.join("events.jsonl")).unwrap_or_default();
    let lines = journal.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let samples = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()?.get("sample").cloned());
    samples
        .map(|event| {
            let sample = &event["sample"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                event["launch"].as_u64().unwrap(),
                text(&sample["metric"]),
                format!("{}#{}", text(&sample["workload"]), sample["rep"]),
                sample["value"].to_string(),
            )
        })
        .collect()
}

#[test]
fn a_run_leaves_everything_a_person_and_a_program_need() {
    let bench = Bench::new();
    let table = bench.ends(0, &["run", "tiny.yaml"]);
    for part in ["reference", "candle", "prompt speed", "perplexity", "verdict against reference"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let directories = bench.run_directories();
    assert_eq!(directories.len(), 2);
    for directory in &directories {
        for file in [
            "manifest.json",
            "recipe.yaml",
            "resolved.yaml",
            "cell.json",
            "env.json",
            "events.jsonl",
            "samples.parquet",
            "tokens.parquet",
            "runs.parquet",
            "summary.json",
        ] {
            assert!(directory.join(file).is_file(), "{} lacks {file}", directory.display());
        }
    }
    let charts = bench.folder.path().join("results/tiny/charts");
    for chart in ["throughput", "itl_ecdf", "pareto"] {
        for form in ["svg", "png", "csv"] {
            assert!(charts.join(format!("{chart}.{form}")).is_file(), "no {chart}.{form}");
        }
    }
    let again = bench.run(&["run", "tiny.yaml"]);
    assert!(again.status.success());
    assert!(text(&again.stderr).contains("all 2 cells are cached: nothing to measure"), "{}", text(&again.stderr));
    assert_eq!(bench.run_directories(), directories, "nothing is measured twice");
    assert_eq!(text(&again.stdout), table, "the stored results give the same table");

    let plan = bench.json(&["plan", "tiny.yaml"]);
    assert!(plan["cells"].as_array().unwrap().iter().all(|cell| cell["state"] == "cached"));
    // A changed experiment is another cell; a changed description is not.
    let other = bench.json(&["plan", "tiny.yaml", "--set", "workloads[1].decode.output_tokens=9"]);
    assert!(other["cells"].as_array().unwrap().iter().all(|cell| cell["state"] == "missing"));
    let same = bench.json(&["plan", "tiny.yaml", "--set", "description=words"]);
    assert!(same["cells"].as_array().unwrap().iter().all(|cell| cell["state"] == "cached"));

    let show = bench.json(&["show", "tiny"]);
    let metrics = show[0]["summary"]["metrics"].as_array().unwrap();
    assert!(metrics.iter().any(|metric| metric["metric"] == "decode_tok_s" && metric["n"] == 3));
    let ids: Vec<String> =
        show.as_array().unwrap().iter().map(|run| run["manifest"]["run_id"].as_str().unwrap().to_owned()).collect();
    let compared = bench.json(&["compare", &ids[0], &ids[1]]);
    assert_eq!(compared[0]["pairing"], "paired", "cells of one run are interleaved");
    bench.ends(0, &["plot", "tiny", "-o", "pictures"]);
    assert!(bench.folder.path().join("pictures/throughput.png").is_file());
}

#[test]
fn wrong_input_ends_with_its_documented_code() {
    let bench = Bench::new();
    let help = bench.ends(0, &["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("something truly got worse"));
    bench.ends(2, &["run"]);
    bench.ends(2, &["no-such-command"]);
    bench.ends(3, &["run", "absent.yaml"]);
    bench.ends(3, &["run", "tiny.yaml", "--set", "kernels.st=candle"]);
    bench.ends(3, &["run", "tiny.yaml", "--set", "matrix=null", "--set", "kernels.set=neon"]);
    bench.ends(3, &["validate", "tiny.yaml", "absent.yaml"]);
    bench.ends(0, &["validate", "tiny.yaml"]);
    bench.ends(4, &["show", "nothing"]);
    bench.ends(5, &["baseline", "check", "tiny.yaml", "--baseline", "main"]);
    bench.ends(14, &["run", "tiny.yaml", "--set", "model.source=absent.gguf"]);
    bench.ends(14, &["perplexity", "-m", "absent.gguf"]);
    for command in ["bench", "perplexity"] {
        bench.ends(3, &[command, "-m", "builtin:pico", "--device", "cuda"]);
        bench.ends(2, &[command, "-m", "builtin:pico", "--device", "metal"]);
        #[cfg(not(feature = "cuda"))]
        bench.ends(14, &[command, "-m", "builtin:pico", "--device", "cuda", "--kernels", "candle"]);
    }
    let refused = bench.run(&["run", "tiny.yaml", "--set", "sona={instant: {enabled: true}}"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("cannot be run yet"), "{}", text(&refused.stderr));
    assert!(bench.run_directories().is_empty(), "no refused recipe leaves a run");
    assert!(bench.ends(0, &["schema"]).contains("$schema"));
    assert!(bench.ends(0, &["completions", "bash"]).contains("ruvlab"));
    assert!(bench.ends(0, &["man"]).contains(".TH"));
    let doctor = bench.json(&["doctor"]);
    assert!(doctor["host"]["host_id"].is_string());
    let findings = doctor["findings"].as_array().unwrap();
    let gpu = findings.iter().find(|finding| finding["name"] == "gpu").unwrap()["text"].as_str().unwrap();
    assert_eq!(gpu.contains("this build has no CUDA"), cfg!(not(feature = "cuda")), "{gpu}");
}

/// `RUVLAB_KERNELS` says which tier `auto` is: the plan and the cell's identity follow it, and a value
/// that names none is refused by whatever would run an engine.
#[test]
fn a_reader_that_has_seen_enough_is_not_told_of_it() {
    // The schema is longer than what a pipe holds.
    let mut child = Bench::new().command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(1)));
}

#[test]
fn the_kernel_setting_is_what_auto_means() {
    let bench = Bench::with(
        &RECIPE.replace("[reference, candle]", "[auto]").replace("cell: {kernels.set: reference}", "cell: {}"),
    );
    let run =
        |setting: &str, arguments: &[&str]| bench.command(arguments).env("RUVLAB_KERNELS", setting).output().unwrap();
    let cell = |setting: &str| {
        let plan = run(setting, &["plan", "tiny.yaml", "--format", "json"]);
        assert!(plan.status.success(), "{}", text(&plan.stderr));
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        let cell = plan["cells"][0]["cell"].clone();
        (cell["kernel_set"].as_str().unwrap().to_owned(), cell["hash"].as_str().unwrap().to_owned())
    };
    let tiers: Vec<_> = Tier::ALL.into_iter().filter(|tier| EngineKind::Native(*tier).is_available()).collect();
    let mut hashes = BTreeSet::new();
    for tier in &tiers {
        let (set, hash) = cell(tier.name());
        assert_eq!(set, tier.name());
        assert!(hashes.insert(hash), "{set} is another experiment than the other tiers");
    }
    if tiers.len() > 1 {
        let fastest = cell(tiers.last().unwrap().name());
        for unset in ["", "auto"] {
            assert_eq!(cell(unset), fastest);
        }
    }
    // What runs is what was planned.
    let table = run(
        "scalar",
        &[
            "run",
            "tiny.yaml",
            "--set",
            "measure.launches={min: 1, max: 1}",
            "--set",
            "workloads=[{decode: {prompt_tokens: 4, output_tokens: 2, repetitions: 1}}]",
        ],
    );
    assert!(table.status.success(), "{}", text(&table.stderr));
    assert_eq!(bench.json(&["list"])[0]["kernel_set"], "scalar");

    let absent = Tier::ALL.into_iter().find(|tier| !tiers.contains(tier)).unwrap().name();
    for (setting, named) in [("sse9", "there are scalar, avx2, avx512, neon"), (absent, "this processor runs scalar")] {
        for arguments in [
            &["plan", "tiny.yaml"][..],
            &["run", "tiny.yaml"],
            &["run", "tiny.yaml", "--set", "matrix=null", "--set", "kernels.set=candle"],
            &["bench", "-m", "builtin:pico"],
            &["perplexity", "-m", "builtin:pico"],
            &["chat", "-m", "builtin:pico"],
        ] {
            let output = run(setting, arguments);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(14), "RUVLAB_KERNELS={setting} ruvlab {arguments:?}\n{error}");
            assert!(error.contains(named) && error.contains(setting) && error.contains("unset"), "{error}");
        }
        let doctor = run(setting, &["doctor"]);
        assert!(doctor.status.success() && text(&doctor.stdout).contains(named), "{}", text(&doctor.stdout));
        assert!(run(setting, &["validate", "tiny.yaml"]).status.success(), "no engine runs in it");
    }
    let doctor = run("scalar", &["doctor", "--format", "json"]);
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!((&doctor["kernels"]["auto"], &doctor["kernels"]["setting"]), (&"scalar".into(), &"scalar".into()));
}

#[test]
fn bench_speaks_the_vocabulary_of_llama_bench() {
    let bench = Bench::new();
    let arguments = ["bench", "-m", "builtin:pico", "-p", "16", "-n", "8", "-r", "2", "-d", "0,8", "-q"];
    let table = bench.ends(0, &arguments);
    assert!(table.starts_with("| model"), "{table}");
    for part in ["pp16", "tg8", "pp16 @ d8", "tg8 @ d8", "±"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let records = bench.json(&["bench", "-m", "builtin:pico", "-p", "16", "-n", "8", "-r", "3"]);
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(record["samples_ts"].as_array().unwrap().len(), 3);
        for field in
            ["n_prompt", "n_gen", "n_depth", "avg_ts", "stddev_ts", "samples_ns", "n_threads", "model_n_params"]
        {
            assert!(!record[field].is_null(), "{field}");
        }
    }
    let perplexity = bench.json(&["perplexity", "-m", "builtin:pico", "--ctx", "64", "--chunks", "2"]);
    assert_eq!(perplexity["n_tokens"], 2 * 31);
}

/// Enough launches that a run is still under way when it is stopped.
const MANY: [&str; 5] = ["run", "tiny.yaml", "--quiet", "--set", "measure.launches={min: 12, max: 12}"];

/// Waits until a run has journaled more samples than `before`; fails after a minute.
fn wait_for_samples(bench: &Bench, before: usize) -> usize {
    for _ in 0..1200 {
        let now = found_directories(bench.folder.path()).iter().map(|directory| journaled(directory).len()).sum();
        if now > before {
            return now;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no sample was journaled within a minute");
}

/// A run is killed at random moments, children and all; what the journal had is never lost, and a
/// rerun leaves every cell there once.
#[test]
fn a_killed_run_goes_on_and_loses_nothing() {
    let bench = Bench::new();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut journals = Vec::new();
    let mut samples = 0;
    for _ in 0..4 {
        let mut child = bench.start(&MANY);
        samples = wait_for_samples(&bench, samples);
        thread::sleep(Duration::from_millis(random.random_range(0..400)));
        child.kill().unwrap();
        child.wait().unwrap();
        // The launch under way ends by itself once its standard input closes.
        thread::sleep(Duration::from_millis(100));
        for directory in found_directories(bench.folder.path()) {
            journals.push((directory.clone(), journaled(&directory)));
        }
    }
    assert!(samples > 0);
    bench.ends(0, &MANY);
    assert_eq!(bench.run_directories().len(), 2, "every cell is there once");
    for (directory, before) in journals {
        let after = journaled(&directory);
        let lost: Vec<_> = before.difference(&after).collect();
        assert!(lost.is_empty(), "{}: lost {lost:?}", directory.display());
    }
    for run in bench.json(&["show", "tiny"]).as_array().unwrap() {
        assert_eq!(run["manifest"]["state"], "complete");
        let directory = bench.folder.path().join(run["path"].as_str().unwrap());
        let samples = run["samples"].as_array().unwrap();
        assert!(samples.len() >= journaled(&directory).len(), "Parquet has what the journal has");
        let valid = samples.iter().filter(|row| row["metric"] == "decode_tok_s" && row["valid"] == true);
        let launches: BTreeSet<_> = valid.map(|row| row["launch"].as_u64().unwrap()).collect();
        assert_eq!(launches.len(), 12, "twelve launches count, however often it was killed");
    }
}

fn found_directories(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let cells = fs::read_dir(folder.join("results/tiny")).into_iter().flatten().flatten();
    for cell in cells.filter(|entry| entry.path().is_dir()) {
        for run in fs::read_dir(cell.path()).into_iter().flatten().flatten() {
            if run.path().join("events.jsonl").is_file() {
                found.push(run.path());
            }
        }
    }
    found
}

/// Starts a long run, sends it a signal once it has measured something, and returns its exit code.
fn signalled(bench: &Bench, signal: &str) -> Option<i32> {
    let mut child = bench.start(&MANY);
    wait_for_samples(bench, 0);
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    child.wait().unwrap().code()
}

#[test]
fn an_interrupted_run_flushes_and_goes_on() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let bench = Bench::new();
        assert_eq!(signalled(&bench, signal), Some(code));
        let list = bench.json(&["list"]);
        assert!(list.as_array().unwrap().iter().all(|run| run["state"] == "interrupted"), "{list}");
        bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
        let list = bench.json(&["list"]);
        assert_eq!(list.as_array().unwrap().len(), 2);
        assert!(list.as_array().unwrap().iter().all(|run| run["state"] == "complete"), "{list}");
    }
}

#[test]
fn the_gate_passes_what_is_the_same_and_fails_what_is_worse() {
    let one_cell =
        RECIPE.replace("[reference, candle]", "[candle]").replace("cell: {kernels.set: reference}", "name: main");
    let bench = Bench::with(&one_cell);
    bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
    let set = bench.json(&["baseline", "set", "main", "tiny"]);
    assert_eq!(set["cells"].as_array().unwrap().len(), 1);
    assert_eq!(bench.json(&["baseline", "list"]).as_array().unwrap().len(), 1);
    bench.ends(0, &["baseline", "check", "tiny.yaml", "--quiet", "--junit", "gates.xml"]);
    assert!(fs::read_to_string(bench.folder.path().join("gates.xml")).unwrap().contains("<testsuite"));
    // 4-bit weights are another quality, the same in every launch.
    let arguments =
        ["baseline", "check", "tiny.yaml", "--quiet", "--set", "quantization.format=q4_0", "--format", "json"];
    let report: Value = serde_json::from_str(&bench.ends(10, &arguments)).unwrap();
    assert_eq!(report["outcome"], "regression");
    let gates = report["cells"][0]["report"]["gates"].as_array().unwrap();
    let perplexity = gates.iter().find(|gate| gate["metric"] == "perplexity").unwrap();
    assert_eq!(perplexity["verdict"], "regression");
    assert!(perplexity["candidate"].as_f64().unwrap() > perplexity["baseline"].as_f64().unwrap());
    // The same texts and workloads are needed on both sides.
    bench.ends(5, &["baseline", "check", "tiny.yaml", "--quiet", "--set", "workloads=[{decode: {output_tokens: 9}}]"]);
    bench.ends(0, &["baseline", "rm", "main"]);
    bench.ends(5, &["baseline", "check", "tiny.yaml"]);
}

const LADDER: &str = "\
schema: ruvlab/v1
name: tiny
model: {source: builtin:pico}
matrix: {axes: {quantization.format: [q8_0, q4_0]}}
workloads:
  - decode: {prompt_tokens: 8, output_tokens: 8, repetitions: 1}
  - kl_divergence: {n_ctx: 64, chunks: 2, reference: {format: f32}}
kernels: {verify: {reference: null}}
measure: {launches: {min: 2, max: 2}, warmup: 0}
baseline: {cell: {quantization.format: q8_0}, bounds: {kl_mean: 0.5, top1_agreement: 0.5}}
";

#[test]
fn divergences_are_stored_shown_drawn_and_held_to_bounds() {
    let bench = Bench::with(LADDER);
    let table = bench.ends(0, &["run", "tiny.yaml"]);
    for part in ["KL divergence", "top-1 agreement", "q4_0", "verdict against q8_0"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let charts = bench.folder.path().join("results/tiny/charts");
    assert!(charts.join("kl_divergence.png").is_file());
    assert!(fs::read_to_string(charts.join("pareto.csv")).unwrap().starts_with("cell,run_id,decode_tok_s,kl_mean,"));
    let show = bench.json(&["show", "tiny"]);
    let metrics = show[1]["summary"]["metrics"].as_array().unwrap();
    let mean = metrics.iter().find(|metric| metric["metric"] == "kl_mean").unwrap();
    assert!(mean["interval"]["high"].as_f64() > mean["mean"].as_f64(), "{mean}");
    // A bound is no part of the experiment: the results are there, only the verdict is another.
    let again = bench.run(&["run", "tiny.yaml", "--set", "baseline.bounds.kl_mean=1.0e-4"]);
    assert_eq!(again.status.code(), Some(10), "{}", text(&again.stdout));
    assert!(text(&again.stderr).contains("cached"), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains("> 1e-4 nats"), "{}", text(&again.stdout));
    bench.ends(3, &["plan", "tiny.yaml", "--set", "baseline.bounds.decode_tok_s=5"]);
    let itself = bench.run(&["plan", "tiny.yaml", "--set", "workloads[1].kl_divergence.reference.format=q4_0"]);
    assert_eq!(itself.status.code(), Some(3));
    assert!(text(&itself.stderr).contains("the cell `quantization.format=q4_0` would be held against itself"));

    let arguments = ["perplexity", "-m", "builtin:pico", "--ctx", "64", "--chunks", "2", "--kl-format", "f32"];
    let found = bench.json(&arguments);
    let divergence = &found["kl_divergence"];
    for key in ["mean", "p50", "p99", "p99.9", "max", "top1_agreement", "reference_perplexity", "perplexity_log_ratio"]
    {
        assert!(divergence[key].is_f64(), "{key} of {divergence}");
    }
    assert!(divergence["mean_interval"]["low"].is_f64() && found["perplexity"].is_f64(), "{found}");
    let told = bench.ends(0, &arguments);
    assert!(told.contains("KL divergence ") && told.contains("top-1 agreement ") && told.contains('±'), "{told}");
    bench.ends(2, &["perplexity", "-m", "builtin:pico", "--kl-format", "q9"]);
}
