//! Results survive what kills the process that writes them.
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use ruvlab::{
    event::{Arm, Event, Outcome, Phase, Sample},
    host::Host,
    plan::Cell,
    results::{Manifest, RunFiles, RunKind, RunState, RunWriter, Store},
    run::{self, Stored},
};

fn cell() -> Cell {
    serde_json::from_value(serde_json::json!({
        "hash": "0123456789abcdef".repeat(4),
        "axes": {},
        "seed": 0,
        "recipe": {
            "schema": "ruvlab/v1",
            "name": "killed",
            "model": {"source": "builtin:pico"},
            "workloads": [{"prefill": {"prompt_tokens": 8}}],
        },
        "kernel_set": "reference",
        "threads": 1,
        "model": {
            "source": "builtin:pico", "name": "pico", "architecture": "llama", "weights_hash": "77", "format": "q8_0",
            "weights_bytes": 1024, "parameters": 1000, "context_length": 64,
        },
        "texts": {},
        "estimated_memory": "1MiB",
    }))
    .expect("a cell")
}

fn begin(store: &Store) -> RunWriter {
    let files = RunFiles { source_text: "name: killed\n", resolved_text: "name: killed\n" };
    store.create(&cell(), RunKind::Run, files, &Host::detect()).expect("a new run")
}

fn started(launch: u32) -> Event {
    let at = "2026-01-01T00:00:00.000Z".to_owned();
    Event::LaunchStarted { launch, arm: Arm::Candidate, block: launch, slot: 0, task: "speed".to_owned(), at }
}

fn sample(launch: u32, rep: u32) -> Event {
    let value = f64::from(launch) + f64::from(rep) / 3.0;
    let sample = Sample {
        metric: "prefill_tok_s".to_owned(),
        phase: Phase::Prefill,
        workload: "prefill(p8)".to_owned(),
        rep,
        warmup: false,
        value,
        n: 8,
        t_ns: u64::from(rep),
        step: None,
        task: None,
        trained_through: None,
    };
    Event::Sample { launch, sample }
}

fn finished(launch: u32) -> Event {
    Event::LaunchFinished { launch, outcome: Outcome::Complete, wall_ms: 1 }
}

fn only_run(store: &Store) -> Manifest {
    let outcome = store.list().expect("a readable store");
    assert_eq!(outcome.problems, []);
    let [manifest] = outcome.manifests.try_into().expect("one run");
    manifest
}

const CHILD: &str = "RUVLAB_TEST_KILLED_WRITER";

/// Writes launches without end into the store of the environment, and says each on standard output
/// once it was acknowledged. Does nothing as a test of its own.
#[test]
fn killed_writer_child() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let mut writer = begin(&Store::open(Path::new(&root)).unwrap());
    for launch in 0.. {
        writer.append(&started(launch)).unwrap();
        for rep in 0..5 {
            writer.append(&sample(launch, rep)).unwrap();
        }
        writer.append(&finished(launch)).unwrap();
        println!("\nacknowledged {launch}");
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("results");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["killed_writer_child", "--nocapture"])
        .env(CHILD, &root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = lines.filter_map(|line| line.unwrap().strip_prefix("acknowledged ")?.parse::<u32>().ok());
    let last = acknowledged.find(|launch| *launch >= 20).unwrap();
    let store = Store::open(&root).unwrap();
    let writing = only_run(&store);
    assert_eq!(writing.state, RunState::Running);
    assert!(store.reopen(&writing).unwrap_err().to_string().ends_with("is being written by another process"));
    assert_eq!(store.recover().unwrap(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    let last = acknowledged.last().unwrap_or(last);

    let [recovered] = store.recover().unwrap().try_into().unwrap();
    assert_eq!(only_run(&store), recovered);
    assert_eq!(recovered.state, RunState::Interrupted);
    assert!(recovered.launches_complete > last, "{} launches kept, {last} told", recovered.launches_complete);
    let record = store.load(&recovered).unwrap();
    let complete = recovered.launches_complete as usize * 5;
    assert_eq!(record.samples.iter().filter(|row| row.valid).count(), complete);
    for (row, index) in record.samples.iter().take(complete).zip(0u32..) {
        assert_eq!((row.launch, row.rep, row.valid), (index / 5, index % 5, true));
        assert_eq!(row.value, f64::from(row.launch) + f64::from(row.rep) / 3.0);
    }

    let mut writer = store.reopen(&recovered).unwrap();
    let next = writer.next_launch();
    assert!(next >= recovered.launches_complete);
    for event in [started(next), sample(next, 0), finished(next)] {
        writer.append(&event).unwrap();
    }
    let record = writer.finish(RunState::Complete, None).unwrap();
    assert_eq!(record.manifest.launches_complete, recovered.launches_complete + 1);
    assert_eq!(store.load(&record.manifest).unwrap(), record);
}

#[test]
fn a_run_cut_at_any_byte_is_finished_with_every_earlier_row() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("results")).unwrap();
    let mut writer = begin(&store);
    for event in [started(0), sample(0, 0), sample(0, 1), finished(0), started(1), sample(1, 0), finished(1)] {
        writer.append(&event).unwrap();
    }
    drop(writer);
    let manifest = only_run(&store);
    let folder = store.run_dir(&manifest);
    let (journal, manifest_file) = (folder.join("events.jsonl"), folder.join("manifest.json"));
    let (bytes, running) = (fs::read(&journal).unwrap(), fs::read(&manifest_file).unwrap());
    let is_end = |cut: usize| cut == 0 || bytes[cut - 1] == b'\n';
    let near_an_end = |cut: usize| (cut.saturating_sub(1)..=(cut + 1).min(bytes.len())).any(is_end);
    for cut in (0..=bytes.len()).filter(|cut| near_an_end(*cut) || cut % 16 == 0) {
        fs::write(&journal, &bytes[..cut]).unwrap();
        fs::write(&manifest_file, &running).unwrap();
        let kept = String::from_utf8_lossy(&bytes[..cut]).into_owned();
        let whole = kept.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let [recovered] = store.recover().unwrap().try_into().unwrap();
        assert_eq!(recovered.launches_complete as usize, whole.matches("launch_finished").count(), "cut at {cut}");
        let samples = store.load(&recovered).unwrap().samples;
        assert_eq!(samples.len(), whole.matches("prefill_tok_s").count(), "cut at {cut}");
        let valid = [0, 2, 3][recovered.launches_complete as usize];
        assert_eq!(samples.iter().filter(|row| row.valid).count(), valid, "cut at {cut}");
        fs::remove_file(&journal).unwrap();
        assert_eq!(store.load(&recovered).unwrap().samples, samples, "from Parquet alone, cut at {cut}");
    }
}

/// A repetition that was stopped goes on, although there are complete results; those of another machine
/// on the same store are neither taken nor in the way.
#[test]
fn what_was_stopped_goes_on_and_machines_do_not_hide_each_others_runs() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("results")).unwrap();
    let here = Host::detect();
    let there = Host { host_id: "feedfeedfeedfeed".to_owned(), ..here.clone() };
    let wanting = |launches: u32| {
        let mut cell = cell();
        cell.recipe.measure.launches.min = launches;
        cell.recipe.measure.launches.max = launches;
        cell
    };
    let measured = |host: &Host, launches: u32, state: RunState| {
        let files = RunFiles { source_text: "name: killed\n", resolved_text: "name: killed\n" };
        let mut writer = store.create(&cell(), RunKind::Run, files, host).unwrap();
        for launch in 0..launches {
            for event in [started(launch), sample(launch, 0), finished(launch)] {
                writer.append(&event).unwrap();
            }
        }
        writer.finish(state, None).unwrap().manifest
    };
    let stored = |host: &Host, launches: u32| run::stored(&store, host, &wanting(launches));
    let own = measured(&here, 2, RunState::Complete);
    assert_eq!(stored(&there, 2), Stored::Missing);
    let theirs = measured(&there, 2, RunState::Complete);
    assert_eq!(stored(&here, 2), Stored::Complete(own.clone()));
    assert_eq!(stored(&there, 2), Stored::Complete(theirs.clone()));
    assert_eq!(stored(&here, 3), Stored::Partial(own.clone()), "a wish for more launches goes on");
    // Of two launches with 0 and 1 tokens/s, half the interval is 12.7 times the mean.
    let within = |target: f64| {
        let mut cell = wanting(2);
        cell.recipe.measure.launches.max = 3;
        cell.recipe.measure.launches.target_ci_half_width = target;
        run::stored(&store, &here, &cell)
    };
    assert_eq!(within(13.0), Stored::Complete(own.clone()));
    assert_eq!(within(12.0), Stored::Partial(own), "an interval that is too wide asks for the launches there may be");
    let stopped = measured(&here, 1, RunState::Interrupted);
    assert_eq!(stored(&here, 3), Stored::Partial(stopped.clone()));
    assert_eq!(stored(&here, 2), Stored::Partial(stopped), "whoever measured again did not want the old ones");
    assert_eq!(stored(&there, 2), Stored::Complete(theirs));
}
