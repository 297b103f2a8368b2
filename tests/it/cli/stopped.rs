//! Runs that are killed or interrupted, and go on.
use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{Bench, RECIPE, journaled, soon, text};

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

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts a long run, sends it a signal once it has measured something, and returns its exit code.
fn signalled(bench: &Bench, signal: &str) -> Option<i32> {
    let mut child = bench.start(&MANY);
    wait_for_samples(bench, 0);
    send(&child, signal);
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
fn a_complete_run_goes_on_where_more_launches_are_wanted() {
    let recipe = RECIPE.replace("[reference, candle]", "[candle]").replace("cell: {kernels.set: reference}", "");
    let bench = Bench::with(&recipe);
    let launches = |wanted: &str| {
        let set = format!("measure.launches={wanted}");
        bench.ends(0, &["run", "tiny.yaml", "--quiet", "--set", &set]);
        let list = bench.json(&["list"]);
        let [run] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
        assert_eq!(run["state"], "complete");
        run["launches_complete"].as_u64().unwrap()
    };
    let planned = |wanted: &str| {
        let set = format!("measure.launches={wanted}");
        bench.json(&["plan", "tiny.yaml", "--set", &set])["cells"][0]["state"].clone()
    };
    let (few, more) = ("{min: 2, max: 2}", "{min: 2, max: 4, target_ci_half_width: 1.0e-6}");
    let first = launches(few);
    assert_eq!((planned(few), planned(more)), ("cached".into(), "partial".into()));
    assert_eq!(launches(more), first + 2, "to the maximum, as no interval is that narrow");
    assert_eq!(planned(more), "cached");
    assert_eq!((launches(more), launches(few)), (first + 2, first + 2));
}

#[test]
fn traces_that_are_asked_for_later_are_measured() {
    let recipe = RECIPE.replace("[reference, candle]", "[candle]").replace("cell: {kernels.set: reference}", "");
    let bench = Bench::with(&recipe.replace("{min: 3, max: 3}", "{min: 1, max: 1}"));
    let traced = || bench.run_directories().iter().filter(|run| run.join("tokens.parquet").is_file()).count();
    let without = ["run", "tiny.yaml", "--quiet", "--set", "measure.token_trace=false"];
    bench.ends(0, &without);
    assert_eq!((bench.run_directories().len(), traced()), (1, 0));
    for _ in 0..2 {
        bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
        assert_eq!((bench.run_directories().len(), traced()), (2, 1), "once measured, traces are there");
    }
    bench.ends(0, &without);
    assert_eq!(bench.run_directories().len(), 2, "traces nobody asked for are not in the way");
    // What has no traces to keep is not measured again for them.
    let silent = "workloads=[{prefill: {prompt_tokens: 16, repetitions: 1}}]";
    bench.ends(0, &[&without[..], &["--set", silent][..]].concat());
    assert_eq!(bench.json(&["plan", "tiny.yaml", "--set", silent])["cells"][0]["state"], "cached");
}

#[test]
fn an_interrupted_bench_shows_what_it_has_timed() {
    let bench = Bench::new();
    // The first test is short, the second long enough to be stopped.
    let arguments = ["bench", "-m", "builtin:pico", "-p", "8", "-n", "400", "-r", "300"];
    let mut child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(notes.any(|line| line.unwrap().contains("timing tg400")), "it never came to the second test");
    send(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{table}");
    assert!(table.contains("pp8") && !table.contains("tg400"), "{table}");
}

/// Returns a pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write_all(&[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// A step that does not end, here because nobody takes what it wrote, is not waited for twice.
#[test]
#[cfg(target_os = "linux")]
fn the_second_signal_ends_a_chat_at_once() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let bench = Bench::new();
        let (_reader, writer) = full_pipe();
        let mut command = bench.command(&["chat", "-m", "builtin:pico", "--raw", "-p", "The"]);
        let mut child = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let watches = soon(|| {
            let status = fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            // Signal 2, SIGINT, is the second bit (proc_pid_status(5)).
            u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
        });
        assert!(watches, "it never came to its prompt");
        let pause = Duration::from_millis(300);
        thread::sleep(pause);
        send(&child, signal);
        thread::sleep(pause);
        assert!(child.try_wait().unwrap().is_none(), "the first signal waits for the step");
        send(&child, signal);
        if !soon(|| child.try_wait().unwrap().is_some()) {
            child.kill().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
}
