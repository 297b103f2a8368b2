//! `ruvlab quantize` from outside: files, reports and exit codes.
use std::{
    env, fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use ruvlab::model::{
    tokenizer::Tokenizer,
    weights::{TensorType, Weights},
};
use serde_json::{Value, json};

fn quantize(model: &str, output: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
    command.args(["quantize", "-m", model, "-o"]).arg(output).args(arguments).env("NO_COLOR", "1");
    command.output().unwrap()
}

fn report(model: &str, output: &Path, arguments: &[&str]) -> Value {
    let output = quantize(model, output, &[arguments, &["--format", "json", "--quiet"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_report_says_what_became_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let report = report("builtin:pico", &path, &["--type", "Q4_K", "--tensor-type", "ffn_down=q6_k"]);
    assert_eq!((&report["type"], &report["bytes"]), (&json!("q4_k"), &json!(fs::metadata(&path).unwrap().len())));
    let weights = Weights::open(&path.to_string_lossy()).unwrap();
    for kind in TensorType::all() {
        let count = weights.index().tensors.values().filter(|info| info.kind == kind).count();
        let told = report["types"][kind.name()]["tensors"].as_u64().unwrap_or(0);
        assert_eq!(told, count as u64, "{kind}");
    }
    let types = report["types"].as_object().unwrap().values();
    assert_eq!(types.map(|share| share["bytes"].as_u64().unwrap()).sum::<u64>(), weights.total_bytes());
    assert!(weights.index().tensors["blk.0.ffn_down.weight"].kind == TensorType::Q6K);
    Tokenizer::new(&weights).unwrap();
}

/// The file of `scripts/fetch-models` is a mixture that llama.cpp made: ours of the same name changes
/// nothing in it.
#[test]
fn a_mixture_is_what_llama_cpp_makes_of_it() {
    let Ok(path) = env::var("RUVLAB_TEST_GEMMA3") else {
        println!("skipped: RUVLAB_TEST_GEMMA3 does not name a gemma-3-270m Q4_K_M file");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let told = report(&path, &folder.path().join("out.gguf"), &["--type", "q4_k_m"]);
    let weights = Weights::open(&path).unwrap();
    assert_eq!(told["type"], "q4_k_m");
    for kind in TensorType::all() {
        let count = weights.index().tensors.values().filter(|info| info.kind == kind).count();
        assert_eq!(told["types"][kind.name()]["tensors"].as_u64().unwrap_or(0), count as u64, "{kind}");
    }
    assert_eq!(told["quantized_again"], json!([]), "a type that was not the file's own");
}

#[test]
fn folders_of_every_class_become_files_that_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    // Not llama's: its output projection has a bias, which is read and not run.
    for class in ["mistral", "qwen2", "qwen3", "phi3", "gemma3"] {
        let source = format!("tests/it/folders/{class}");
        let path = folder.path().join(format!("{class}.gguf"));
        let told = report(&source, &path, &["--type", "q8_0"]);
        let (from, to) = (Weights::open(&source).unwrap(), Weights::open(&path.to_string_lossy()).unwrap());
        assert_eq!(from.spec(), to.spec(), "{class}");
        assert_eq!(to.common_format(), TensorType::Q8_0, "{class}");
        // Rows of 32 and 64 are whole blocks, those of 48 are not.
        let fallbacks = told["fallbacks"].as_array().unwrap();
        assert!(!fallbacks.is_empty(), "{class}");
        for fallback in fallbacks {
            assert_eq!((&fallback["columns"], &fallback["used"]), (&json!(48), &json!("f16")), "{class}");
        }
        for (name, info) in from.index().tensors.iter().filter(|(_, info)| info.shape.len() == 1) {
            assert_eq!(info.kind, TensorType::F32);
            assert!(from.tensor_bytes(name).unwrap() == to.tensor_bytes(name).unwrap(), "{class}: {name}");
        }
    }
}

#[test]
fn people_are_told_in_a_table_what_fell_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = quantize("tests/it/folders/qwen3", &folder.path().join("out.gguf"), &["--type", "q4_k"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["q5_0 for q4_k, rows of 32", "and", "f16 for q4_k, rows of 48", "bits a weight"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_cannot_be_done_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let refused = |code: i32, model: &str, arguments: &[&str], part: &str| {
        let output = quantize(model, &path, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(part), "{message:?} should say {part:?}");
    };
    fs::write(&path, "mine").unwrap();
    refused(2, "builtin:pico", &["--type", "q4_0"], "--force");
    fs::remove_file(&path).unwrap();
    refused(2, "builtin:pico", &["--type", "q4_k_xl"], "there is no such type");
    refused(2, "builtin:pico", &["--type", "q4_0", "--tensor-type", "ffn_down"], "PATTERN=TYPE");
    refused(2, "builtin:pico", &["--type", "q4_0", "--tensor-type", "nothing=q8_0"], "fits the pattern");
    refused(2, "builtin:pico", &[], "--type");
    refused(14, "/no/such/model.gguf", &["--type", "q4_0"], "/no/such/model.gguf");
    refused(14, "builtin:pico", &["--type", "q4_0", "--imatrix", "/no/such/file"], "/no/such/file");
    refused(14, "builtin:pico", &["--type", "q4_0", "--imatrix", "/dev/zero"], "larger than 256MiB");
    refused(14, "builtin:pico", &["--type", "q4_0", "--imatrix", "Cargo.toml"], "no importance matrix");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(&path, "mine").unwrap();
    report("builtin:pico", &path, &["--type", "q4_0", "--force"]);
    assert_eq!(Weights::open(&path.to_string_lossy()).unwrap().common_format(), TensorType::Q4_0);
    // A file may replace its own source.
    report(&path.to_string_lossy(), &path, &["--type", "f16", "--force"]);
    let again = Weights::open(&path.to_string_lossy()).unwrap();
    let source = Weights::open("builtin:pico").unwrap().requantized(TensorType::Q4_0).unwrap();
    let expected = source.requantized(TensorType::F16).unwrap();
    for name in again.index().tensors.keys() {
        assert!(again.tensor_bytes(name).unwrap() == expected.tensor_bytes(name).unwrap(), "{name}");
    }
}

/// The source is large enough that one thread is seconds at it.
#[test]
fn an_interrupted_file_is_not_left_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let files = || fs::read_dir(&out).unwrap().count();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
        command.args(["quantize", "-m", "synthetic:smollm2-135m:q4_0", "--type", "q4_k", "--threads", "1", "-o"]);
        command.arg(out.join("out.gguf")).env("RUVLAB_MODELS", folder.path().join("models"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = (0..6000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            files() > 0
        });
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(begun && sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(files(), 0, "{signal}");
    }
}
