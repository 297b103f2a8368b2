//! Records what this build is, for `env.json`: commit, compiler, profile, library versions.
use std::{env, fs, process::Command};

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the version of CUDA's compiler, which is that of the toolkit: `release 13.0, V13.0.88`.
fn cuda_version(compiler: &str) -> Option<String> {
    let text = output(compiler, &["--version"])?;
    let version = text.split_once(", V")?.1.split_whitespace().next()?;
    Some(version.to_owned())
}

fn main() {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=RUVLAB_COMMIT={commit}");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    println!("cargo::rustc-env=RUVLAB_TARGET_FEATURES={features}");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    println!("cargo::rustc-env=RUVLAB_RUSTC={}", output(&rustc, &["--version"]).unwrap_or_default());
    println!("cargo::rustc-env=RUVLAB_PROFILE={}", env::var("PROFILE").unwrap_or_default());
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let candle = lock.split("[[package]]").find(|package| package.contains("name = \"candle-core\"")).and_then(|p| {
        p.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"').map(str::to_owned))
    });
    println!("cargo::rustc-env=RUVLAB_CANDLE={}", candle.unwrap_or_else(|| "unknown".to_owned()));
    if env::var("CARGO_FEATURE_CUDA").is_ok() {
        let compiler = env::var("NVCC").unwrap_or_else(|_| "nvcc".to_owned());
        println!("cargo::rustc-env=RUVLAB_CUDA_VERSION={}", cuda_version(&compiler).unwrap_or_default());
        println!("cargo::rerun-if-env-changed=NVCC");
    }
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=build.rs");
    for path in [".git/HEAD", ".git/logs/HEAD"] {
        if fs::exists(path).unwrap_or(false) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
