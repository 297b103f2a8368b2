//! What commands print and leave, and what they exit with.
use std::{collections::BTreeSet, process::Stdio};

use ruvlab::engine::{EngineKind, Tier};
use serde_json::Value;

use super::{Bench, RECIPE, text};

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
    assert_eq!(compared["comparisons"][0]["pairing"], "paired", "cells of one run are interleaved");
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

#[test]
fn a_reader_that_has_seen_enough_is_not_told_of_it() {
    // The schema is longer than what a pipe holds.
    let mut child = Bench::new().command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(1)));
}

/// `RUVLAB_KERNELS` says which tier `auto` is: the plan and the cell's identity follow it, and a value
/// that names none is refused by whatever would run an engine.
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

#[test]
fn bench_times_what_fits_and_knows_beforehand_what_does_not() {
    let bench = Bench::new();
    let bench_of = |more: &[&str]| bench.run(&[&["bench", "-m", "builtin:pico", "-r", "1"][..], more].concat());
    // The last token is never fed back, so this takes all 512 tokens of context, and no more.
    let full = bench_of(&["-p", "0", "-n", "128", "-d", "384"]);
    assert!(full.status.success(), "{}", text(&full.stderr));
    for too_much in [["-p", "0", "-n", "8,129", "-d", "384"], ["-p", "8,1000000", "-n", "0", "-d", "0"]] {
        let refused = bench_of(&too_much);
        let (out, err) = (text(&refused.stdout), text(&refused.stderr));
        assert_eq!(refused.status.code(), Some(3), "{err}");
        assert!(out.is_empty() && !err.contains("timing"), "something was timed first: {out}{err}");
    }
}

/// What comes out of a pipe comes once, and the launch that scores it would open a pipe of its own.
#[test]
fn a_text_from_a_pipe_is_refused_with_the_way_out() {
    let arguments = ["perplexity", "-m", "builtin:pico", "-f", "/dev/stdin", "--ctx", "64", "--chunks", "1"];
    let output = Bench::new().command(&arguments).stdin(Stdio::piped()).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(14), "{err}");
    assert!(err.contains("/dev/stdin is no regular file") && err.contains("write it to a file first"), "{err}");
}
