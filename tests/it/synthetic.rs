//! Synthetic weights from outside: written once, in little memory, and always called by their name.
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn prepare(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").env_remove("RUVLAB_STORE");
        command.env("RUVLAB_MODELS", self.folder.path().join("models")).env("HF_ENDPOINT", "http://127.0.0.1:9");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
        outcome(self.prepare(env!("CARGO_BIN_EXE_ruvlab"), arguments).output().unwrap(), code)
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().join("models/synthetic");
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_none_or(|extension| extension != "lock"));
        files
    }
}

fn outcome(output: Output, code: i32) -> (String, String) {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out.trim_end().to_owned(), err)
}

#[test]
fn reports_always_say_that_weights_are_synthetic() {
    let bench = Bench::new();
    let source = "synthetic:smollm2-135m:q4_0";
    let recipe = format!(
        "schema: ruvlab/v1\nname: fast\nmodel: {{source: \"{source}\"}}\nkernels: {{verify: {{reference: null}}}}\n\
         workloads:\n  - decode: {{prompt_tokens: 4, output_tokens: 3, repetitions: 1}}\n  - perplexity: {{n_ctx: 16, chunks: 1}}\n\
         measure: {{launches: {{min: 2, max: 2}}, warmup: 0}}\n"
    );
    fs::write(bench.folder.path().join("fast.yaml"), recipe).unwrap();
    // A plan makes nothing; it says what would.
    let (_, err) = bench.ends(14, &["plan", "fast.yaml"]);
    assert!(err.contains(&format!("ruvlab download {source}")), "{err}");
    // No network is needed.
    let (table, err) = bench.ends(0, &["run", "fast.yaml", "--offline"]);
    assert!(
        table.contains("smollm2-135m (synthetic weights)") && table.contains("perplexity means nothing"),
        "{table}"
    );
    assert!(err.contains("warning[synthetic-weights]"), "{err}");
    let (plan, _) = bench.ends(0, &["plan", "fast.yaml"]);
    assert!(plan.contains("synthetic weights"), "{plan}");
    let (shown, _) = bench.ends(0, &["show", "fast", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["manifest"]["model"]["synthetic"], true);
    assert_eq!(shown[0]["manifest"]["model"]["source"], source);
    let bench_arguments = ["bench", "-m", source, "-p", "8", "-n", "4", "-r", "1", "-q"];
    let (table, _) = bench.ends(0, &bench_arguments);
    assert!(table.contains("smollm2-135m (synthetic weights) q4_0"), "{table}");
    let (_, err) = bench.ends(0, &["perplexity", "-m", source, "--ctx", "16", "--chunks", "1"]);
    assert!(err.contains("warning[synthetic-weights]"), "{err}");
    // By its path, too: the file itself says so.
    let path = bench.files()[0].display().to_string();
    let (_, err) = bench.ends(0, &["perplexity", "-m", &path, "--ctx", "16", "--chunks", "1"]);
    assert!(err.contains("warning[synthetic-weights]"), "{err}");
    let (_, err) = bench.ends(2, &["bench", "-m", "synthetic:smollm3:q4_0"]);
    assert!(err.contains("smollm2-135m"), "{err}");
}

#[test]
fn two_processes_write_one_file_once() {
    let bench = Bench::new();
    let arguments = ["download", "synthetic:smollm2-135m:q2_k"];
    fs::create_dir_all(bench.folder.path().join("models/synthetic")).unwrap();
    let leftover = bench.folder.path().join("models/synthetic/.smollm2-135m-q2_k-v1.gguf.1.tmp");
    fs::write(&leftover, "what a killed writer left").unwrap();
    let start = || bench.prepare(env!("CARGO_BIN_EXE_ruvlab"), &arguments).spawn().unwrap();
    let both = [start(), start()].map(|child| outcome(child.wait_with_output().unwrap(), 0));
    assert_eq!(both[0].0, both[1].0);
    let wrote = both.iter().filter(|(_, err)| err.contains("done in")).count();
    assert_eq!(wrote, 1, "{both:?}");
    assert_eq!(bench.files(), [PathBuf::from(&both[0].0)]);
    assert!(!leftover.exists());
}

/// 538 MB are written where 300 MB of address space are all there is.
#[test]
#[cfg(target_os = "linux")]
fn a_file_larger_than_memory_is_written() {
    let bench = Bench::new();
    let script =
        format!("ulimit -v 300000 && exec {} download synthetic:smollm2-135m:f32 -q", env!("CARGO_BIN_EXE_ruvlab"));
    let (path, _) = outcome(bench.prepare("sh", &["-c", &script]).output().unwrap(), 0);
    assert!(fs::metadata(path).unwrap().len() > 538_000_000);
}
