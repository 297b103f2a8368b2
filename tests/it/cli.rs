//! The program from outside: commands, exit codes, files, signals, and runs that are killed.
mod commands;
mod compare;
mod gate;
mod stopped;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

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

/// Returns whether a condition is met within ten seconds.
pub(super) fn soon(mut is_met: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        is_met()
    })
}

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
