//! Runs that are killed or interrupted, and go on.
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bench, journaled, text};

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
fn an_interrupted_bench_shows_what_it_has_timed() {
    let bench = Bench::new();
    // The first test is short, the second long enough to be stopped.
    let arguments = ["bench", "-m", "builtin:pico", "-p", "8", "-n", "400", "-r", "300"];
    let mut child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(notes.any(|line| line.unwrap().contains("timing tg400")), "it never came to the second test");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{table}");
    assert!(table.contains("pp8") && !table.contains("tg400"), "{table}");
}
