use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{durable::replace_json, journal::JournalError, *};
use crate::{
    event::{Arm, Event, Outcome, Phase, Sample, ScoreTrace, TokenScore, TokenTime, TokenTrace},
    host::Host,
    metrics::SampleRow,
    plan::{Cell, Plan},
};

fn cell(recipe: &str, hash: &str, axes: &serde_json::Value) -> Cell {
    serde_json::from_value(serde_json::json!({
        "hash": hash.repeat(64 / hash.len()),
        "axes": axes,
        "seed": u64::MAX - 1,
        "recipe": {
            "schema": "ruvlab/v1",
            "name": recipe,
            "model": {"source": "builtin:pico"},
            "workloads": [{"decode": {"prompt_tokens": 8, "output_tokens": 4}}],
        },
        "kernel_set": "reference",
        "threads": 2,
        "model": {
            "source": "builtin:pico", "name": "pico", "architecture": "llama", "weights_hash": "77", "format": "q8_0",
            "weights_bytes": 1024, "parameters": 1000, "context_length": 64,
        },
        "texts": {},
        "estimated_memory": "1MiB",
    }))
    .unwrap()
}

const FILES: RunFiles<'_> = RunFiles { source_text: "name: a # as written\n", resolved_text: "name: a\n" };

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    host: Host,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("results")).unwrap();
    Fixture { _directory: directory, store, host: Host::detect() }
}

impl Fixture {
    fn begin(&self, cell: &Cell) -> RunWriter {
        self.store.create(cell, RunKind::Run, FILES, &self.host).unwrap()
    }

    fn complete(&self, cell: &Cell) -> Manifest {
        let mut writer = self.begin(cell);
        for event in launch(0, Arm::Candidate, &[10.0, 20.0]) {
            writer.append(&event).unwrap();
        }
        writer.finish(RunState::Complete, None).unwrap().manifest
    }

    fn manifest(&self, run_id: &str) -> Manifest {
        self.store.list().unwrap().manifests.into_iter().find(|manifest| manifest.run_id == run_id).unwrap()
    }
}

fn sample(launch: u32, metric: &str, rep: u32, value: f64) -> Event {
    let sample = Sample {
        metric: metric.to_owned(),
        phase: Phase::Decode,
        workload: "decode(p8,n4)".to_owned(),
        rep,
        warmup: false,
        value,
        n: 4,
        t_ns: 1 << 40,
        step: None,
    };
    Event::Sample { launch, sample }
}

/// A launch that measures `values`, traces two tokens and finishes well.
fn launch(launch: u32, arm: Arm, values: &[f64]) -> Vec<Event> {
    let at = "2026-01-01T00:00:00.000Z".to_owned();
    let mut events = vec![Event::LaunchStarted { launch, arm, block: launch, slot: 0, task: "speed".to_owned(), at }];
    events.extend((0..).zip(values).map(|(rep, value)| sample(launch, "decode_tok_s", rep, *value)));
    let token = |position, t_ns| TokenTime { position, token_id: 65_535, t_ns };
    let trace = TokenTrace {
        workload: "decode(p8,n4)".to_owned(),
        rep: 0,
        request: 0,
        warmup: false,
        tokens: vec![token(8, 1_000), token(9, 1_700)],
    };
    events.push(Event::Tokens { launch, trace });
    events.push(Event::LaunchFinished { launch, outcome: Outcome::Complete, wall_ms: 3 });
    events
}

/// Equal bit for bit, NaN included.
fn assert_same(got: &[SampleRow], want: &[SampleRow]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.value.to_bits(), want.value.to_bits());
        assert_eq!(format!("{got:?}"), format!("{want:?}"));
    }
}

#[test]
fn a_finished_run_is_read_back_as_it_was_written() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({"kernels.set": "reference"})));
    let extremes = [5e-324, f64::MAX, -0.0, 10.0 / 3.0, 281_474_976_710_655.0, f64::NAN, f64::INFINITY];
    for event in launch(0, Arm::Candidate, &extremes) {
        writer.append(&event).unwrap();
    }
    writer.append(&sample(0, "not_a_metric", 0, 1.0)).unwrap();
    for event in launch(1, Arm::Baseline, &[1.5]) {
        writer.append(&event).unwrap();
    }
    let rows = writer.rows();
    let record = writer.finish(RunState::Complete, None).unwrap();
    assert_same(&record.samples, &rows);
    assert_eq!(record.samples.iter().filter(|row| row.valid).count(), 6);
    assert_eq!((record.manifest.launches_complete, record.manifest.launches_failed), (2, 0));

    let directory = fixture.store.run_dir(&record.manifest);
    let unneeded = directory.join("events.jsonl");
    let tokens = fixture.store.tokens(&record.manifest).unwrap();
    assert_eq!(tokens, fixture.store.journal(&record.manifest).map(|r| metrics_tokens(&record, &r)).unwrap());
    assert_eq!(tokens.iter().map(|token| token.itl_ns).collect::<Vec<_>>(), [None, Some(700), None, Some(700)]);
    fs::remove_file(&unneeded).unwrap();
    let loaded = fixture.store.load(&record.manifest).unwrap();
    assert_same(&loaded.samples, &rows);
    assert_eq!(fixture.store.tokens(&record.manifest).unwrap(), tokens);

    let summary: Summary = durable::read_json(&directory.join("summary.json")).unwrap();
    let ([], [baseline], [problem]) =
        (summary.metrics.as_slice(), summary.baseline.as_slice(), summary.problems.as_slice())
    else {
        panic!("{summary:?}")
    };
    assert_eq!((problem.metric.as_str(), problem.reason.as_str()), ("decode_tok_s", "value NaN is not finite"));
    assert_eq!((baseline.mean, baseline.min, baseline.max), (1.5, 1.5, 1.5));
    assert_eq!(fs::read_to_string(directory.join("recipe.yaml")).unwrap(), FILES.source_text);
    assert_eq!(fs::read_to_string(directory.join("resolved.yaml")).unwrap(), FILES.resolved_text);
}

fn metrics_tokens(record: &RunRecord, replay: &journal::Replay) -> Vec<TokenRow> {
    crate::metrics::collect_tokens(&record.manifest.run_id, replay.events())
}

#[test]
fn a_damaged_parquet_file_is_made_up_for_by_the_journal() {
    let fixture = fixture();
    let manifest = fixture.complete(&cell("a", "ab", &serde_json::json!({})));
    let want = fixture.store.load(&manifest).unwrap();
    fs::write(fixture.store.run_dir(&manifest).join("samples.parquet"), b"PAR1 and nothing else").unwrap();
    assert_same(&fixture.store.load(&manifest).unwrap().samples, &want.samples);
    fs::remove_file(fixture.store.run_dir(&manifest).join("events.jsonl")).unwrap();
    let error = fixture.store.load(&manifest).unwrap_err().to_string();
    assert!(error.contains("samples.parquet"), "{error}");
}

#[test]
fn a_store_ignores_its_results_but_not_its_baselines() {
    let fixture = fixture();
    let root = fixture.store.root().to_owned();
    assert!(!root.exists());
    assert_eq!(fixture.store.list().unwrap(), ListOutcome::default());
    let manifest = fixture.complete(&cell("a", "ab", &serde_json::json!({})));
    fixture.store.set_baseline("main", &[manifest]).unwrap();
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(&root).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["init", "--quiet"]);
    let shown = git(&["ls-files", "--others", "--exclude-standard"]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), [".gitignore", "baselines/main.json"]);
    fs::write(root.join("store.json"), r#"{"format_version": 2}"#).unwrap();
    let error = Store::open(&root).unwrap_err().to_string();
    assert!(error.contains("has format 2, this ruvlab knows 1"), "{error}");
}

#[test]
fn one_run_has_one_writer() {
    let fixture = fixture();
    let writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    let manifest = writer.manifest().clone();
    let refused = fixture.store.reopen(&manifest).unwrap_err();
    assert!(matches!(refused, StoreError::Journal(JournalError::Locked(_))), "{refused}");
    assert!(refused.to_string().contains(&manifest.run_id), "{refused}");
    assert_eq!(fixture.store.recover().unwrap(), []);
    assert_eq!(fixture.manifest(&manifest.run_id).state, RunState::Running);
}

#[test]
fn a_run_whose_process_is_gone_is_recovered_as_interrupted_and_can_go_on() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    let manifest = writer.manifest().clone();
    let mut events = launch(0, Arm::Candidate, &[1.0]);
    events.extend(launch(1, Arm::Candidate, &[2.0]));
    events.pop();
    for event in &events {
        writer.append(event).unwrap();
    }
    drop(writer);
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_123);
    let journal = fs::File::options().append(true).open(fixture.store.run_dir(&manifest).join("events.jsonl")).unwrap();
    journal.set_modified(then).unwrap();
    drop(journal);
    let [recovered] = fixture.store.recover().unwrap().try_into().unwrap();
    assert_eq!(
        (recovered.state, recovered.launches_complete, recovered.launches_failed),
        (RunState::Interrupted, 1, 1)
    );
    assert_eq!(recovered.ended_at.as_deref(), Some("2023-11-14T22:13:20.123Z"));
    assert!(recovered.reason.is_some());
    assert_eq!(fixture.store.recover().unwrap(), []);
    let values = |record: &RunRecord| record.samples.iter().map(|row| (row.value, row.valid)).collect::<Vec<_>>();
    assert_eq!(values(&fixture.store.load(&recovered).unwrap()), [(1.0, true), (2.0, false)]);

    let mut writer = fixture.store.reopen(&manifest).unwrap();
    let done: Vec<_> = writer.finished_launches().into_iter().map(|l| (l.launch, l.block, l.arm, l.task)).collect();
    assert_eq!(done, [(0, 0, Arm::Candidate, "speed".to_owned())]);
    assert_eq!(writer.next_launch(), 2);
    assert_eq!(fixture.manifest(&manifest.run_id).state, RunState::Running);
    assert_eq!(values(&fixture.store.load(&fixture.manifest(&manifest.run_id)).unwrap()).len(), 2);
    for event in launch(2, Arm::Candidate, &[3.0]) {
        writer.append(&event).unwrap();
    }
    let record = writer.finish(RunState::Complete, None).unwrap();
    assert_eq!(values(&record), [(1.0, true), (2.0, false), (3.0, true)]);
    assert_eq!((record.manifest.state, record.manifest.reason.clone()), (RunState::Complete, None));
    assert_eq!(fixture.store.load(&record.manifest).unwrap(), record);
}

#[test]
fn only_what_may_go_on_goes_on() {
    let fixture = fixture();
    let cell = cell("a", "ab", &serde_json::json!({}));
    let complete = fixture.complete(&cell);
    let error = fixture.store.reopen(&complete).unwrap_err().to_string();
    assert!(error.contains("cannot go on: it is complete"), "{error}");
    assert_eq!(fixture.manifest(&complete.run_id), complete);

    let elsewhere = Host { host_id: "feedfeedfeedfeed".to_owned(), ..fixture.host.clone() };
    let writer = fixture.store.create(&cell, RunKind::Run, FILES, &elsewhere).unwrap();
    let manifest = writer.manifest().clone();
    drop(writer);
    let error = fixture.store.reopen(&manifest).unwrap_err().to_string();
    assert!(error.contains("begun on machine feedfeedfeedfeed"), "{error}");
    let error = fixture.begin(&cell).finish(RunState::Running, None).unwrap_err().to_string();
    assert!(error.contains("cannot end in state `running`"), "{error}");
    for state in [RunState::Interrupted, RunState::Failed, RunState::Invalid] {
        let record = fixture.begin(&cell).finish(state, Some("because".to_owned())).unwrap();
        assert_eq!((record.manifest.state, record.manifest.reason.as_deref()), (state, Some("because")));
        assert_eq!(fixture.manifest(&record.manifest.run_id), record.manifest);
        assert_eq!(fixture.store.reopen(&record.manifest).is_ok(), state != RunState::Invalid);
    }
}

#[test]
fn damage_in_the_journal_costs_the_launch_it_hit_and_is_told() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    let manifest = writer.manifest().clone();
    for event in launch(0, Arm::Candidate, &[1.0]).into_iter().chain(launch(1, Arm::Candidate, &[2.0, 3.0])) {
        writer.append(&event).unwrap();
    }
    drop(writer);
    let path = fixture.store.run_dir(&manifest).join("events.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"value\":2.0", "\"value\":\u{0}\u{0}\u{0}", 1)).unwrap();
    let writer = fixture.store.reopen(&manifest).unwrap();
    assert_eq!(writer.finished_launches().len(), 1);
    let [problem] = writer.problems() else { panic!("{:?}", writer.problems()) };
    assert!(problem.contains("events.jsonl:7: unreadable line"), "{problem}");
    let record = writer.finish(RunState::Interrupted, None).unwrap();
    assert!(record.manifest.reason.as_deref().unwrap().contains("events.jsonl:7"));
    let reasons: Vec<_> = record.samples.iter().map(|row| row.reason.as_deref()).collect();
    assert_eq!(reasons, [None, Some("journal line 7 is unreadable")]);
}

#[test]
fn unreadable_and_incomplete_directories_are_named_beside_the_others() {
    let fixture = fixture();
    let good = fixture.complete(&cell("a", "ab", &serde_json::json!({})));
    let lacking = fixture.complete(&cell("a", "cd", &serde_json::json!({})));
    fs::remove_file(fixture.store.run_dir(&lacking).join("events.jsonl")).unwrap();
    fs::remove_file(fixture.store.run_dir(&lacking).join("cell.json")).unwrap();
    let broken = fixture.complete(&cell("b", "ab", &serde_json::json!({})));
    fs::write(fixture.store.run_dir(&broken).join("manifest.json"), "{").unwrap();
    let newer = fixture.complete(&cell("b", "cd", &serde_json::json!({})));
    let newer = Manifest { format_version: 9, ..newer };
    replace_json(&fixture.store.run_dir(&newer).join("manifest.json"), &newer).unwrap();
    let moved = fixture.complete(&cell("c", "ab", &serde_json::json!({})));
    let directory = fixture.store.run_dir(&moved);
    fs::rename(&directory, directory.with_file_name("renamed")).unwrap();
    fs::create_dir_all(directory.with_file_name("empty")).unwrap();
    fs::create_dir_all(directory.with_file_name(".unborn.new")).unwrap();

    let ListOutcome { manifests, problems } = fixture.store.list().unwrap();
    assert_eq!(manifests.iter().map(|m| &m.run_id).collect::<Vec<_>>(), [&good.run_id, &lacking.run_id]);
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    let expected = [
        (&lacking.run_id[..], "lacks cell.json, events.jsonl"),
        (&broken.run_id, "manifest.json is damaged or of another version"),
        (&newer.run_id, "has format 9"),
        ("empty", "manifest.json: No such file"),
        ("renamed", "run directories cannot be renamed"),
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, (place, problem)) in messages.iter().zip(expected) {
        assert!(message.contains(place) && message.contains(problem), "{message}");
    }
    let error = fixture.store.select("nothing-like-it").unwrap_err().to_string();
    assert!(error.contains("5 run directories have problems"), "{error}");
}

#[test]
fn listing_while_writing_sees_whole_runs_only() {
    let fixture = fixture();
    let (store, host) = (fixture.store.clone(), fixture.host.clone());
    let writing = std::thread::spawn(move || {
        for _ in 0..30 {
            let cell = cell("a", "ab", &serde_json::json!({}));
            let mut writer = store.create(&cell, RunKind::Run, FILES, &host).unwrap();
            for event in launch(0, Arm::Candidate, &[1.0]) {
                writer.append(&event).unwrap();
            }
            writer.finish(RunState::Complete, None).unwrap();
        }
    });
    let mut seen = 0;
    while !writing.is_finished() {
        let ListOutcome { manifests, problems } = fixture.store.list().unwrap();
        assert_eq!(problems, []);
        assert!(manifests.len() >= seen);
        seen = manifests.len();
        if let Some(newest) = manifests.last() {
            fixture.store.load(newest).unwrap();
        }
        assert_eq!(fixture.store.recover().unwrap(), []);
    }
    writing.join().unwrap();
    assert_eq!(fixture.store.list().unwrap().manifests.len(), 30);
}

#[test]
fn a_run_is_selected_by_id_beginning_end_cell_and_recipe() {
    let fixture = fixture();
    let axes = |set: &str| serde_json::json!({"kernels.set": set});
    let (auto, reference) = (cell("speed", "ab12", &axes("auto")), cell("speed", "cd34", &axes("reference")));
    let old = fixture.complete(&auto);
    let new = fixture.complete(&auto);
    let other = fixture.complete(&reference);
    let check = fixture.store.create(&auto, RunKind::Check, FILES, &fixture.host).unwrap();
    let check = check.finish(RunState::Complete, None).unwrap().manifest;
    let newest_failed = fixture.begin(&auto).finish(RunState::Failed, Some("x".to_owned())).unwrap().manifest;
    let ids = |selector: &str| {
        let found = fixture.store.select(selector).map_err(|error| error.to_string())?;
        Ok::<_, String>(found.into_iter().map(|manifest| manifest.run_id).collect::<Vec<_>>())
    };
    assert_eq!(ids(&old.run_id), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&old.run_id[..35]), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&old.run_id[24..]), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&check.run_id), Ok(vec![check.run_id.clone()]));
    assert_eq!(ids("ab12ab"), Ok(vec![new.run_id.clone()]));
    assert_eq!(ids("speed"), Ok(vec![new.run_id.clone(), other.run_id.clone()]));
    assert_eq!(fixture.store.latest("speed", &auto.hash), Some(new.clone()));
    assert_eq!(fixture.store.latest("speed", &"ee".repeat(32)), None);
    assert_eq!(fixture.store.latest("none", &auto.hash), None);

    let ambiguous = ids(&old.run_id[..6]).unwrap_err();
    assert!([&old, &new, &other, &newest_failed].iter().all(|run| ambiguous.contains(&run.run_id)), "{ambiguous}");
    let typo = ids("sped").unwrap_err();
    assert!(typo.contains("no run, cell or recipe is \"sped\"; there is recipe speed"), "{typo}");
    assert!(ids(&old.run_id[..5]).is_err() && ids("").is_err() && ids("../etc").is_err());

    let plan = Plan { recipe: "speed".to_owned(), source_text: String::new(), cells: vec![reference, auto.clone()] };
    fixture.store.set_plan(&plan).unwrap();
    assert_eq!(ids("speed"), Ok(vec![other.run_id, new.run_id]));
    fixture.store.set_plan(&Plan { cells: vec![cell("speed", "ef56", &axes("auto"))], ..plan }).unwrap();
    let none = ids("speed").unwrap_err();
    assert!(none.contains("recipe speed has no complete run") && none.contains(&newest_failed.run_id), "{none}");
}

#[test]
fn a_baseline_points_to_its_runs_and_can_be_run_without_them() {
    let fixture = fixture();
    let cells = [cell("a", "ab", &serde_json::json!({"x": 1})), cell("a", "cd", &serde_json::json!({"x": 2}))];
    let runs: Vec<Manifest> = cells.iter().map(|cell| fixture.complete(cell)).collect();
    let set = fixture.store.set_baseline("main", &runs).unwrap();
    assert_eq!(fixture.store.baseline("main").unwrap(), set);
    assert_eq!(set.cells.iter().map(|pointer| pointer.cell.clone()).collect::<Vec<_>>(), cells);
    assert_eq!(fixture.store.root().join(&set.cells[1].run_path), fixture.store.run_dir(&runs[1]));
    fixture.store.set_baseline("v0.1", &runs[..1]).unwrap();
    let names = |store: &Store| store.baselines().unwrap().into_iter().map(|pointer| pointer.name).collect::<Vec<_>>();
    assert_eq!(names(&fixture.store), ["main", "v0.1"]);
    assert_eq!(fixture.store.list().unwrap().problems, []);

    let unknown = fixture.store.baseline("mian").unwrap_err().to_string();
    assert!(unknown.contains("no baseline is named \"mian\"; there is main, v0.1"), "{unknown}");
    fixture.store.remove_baseline("main").unwrap();
    assert!(fixture.store.remove_baseline("main").is_err());
    assert_eq!(names(&fixture.store), ["v0.1"]);
}

#[test]
fn a_baseline_is_of_complete_runs_of_one_recipe_and_machine() {
    let fixture = fixture();
    let one = cell("a", "ab", &serde_json::json!({}));
    let good = fixture.complete(&one);
    let failed = fixture.begin(&one).finish(RunState::Failed, None).unwrap().manifest;
    let again = fixture.complete(&one);
    let stranger = fixture.complete(&cell("b", "cd", &serde_json::json!({})));
    let problem = |name: &str, runs: &[&Manifest]| {
        let runs: Vec<Manifest> = runs.iter().map(|manifest| (*manifest).clone()).collect();
        fixture.store.set_baseline(name, &runs).unwrap_err().to_string()
    };
    assert!(problem("main", &[&failed]).contains("is failed"));
    assert!(problem("main", &[]).contains("it has no runs"));
    assert!(problem("main", &[&good, &again]).contains("are of one cell"));
    assert!(problem("main", &[&good, &stranger]).contains("is of recipe b"));
    for name in ["", "../main", ".hidden", "a b", "a/b"] {
        assert!(problem(name, &[&good]).contains("cannot name a baseline"), "{name}");
    }
    assert_eq!(fixture.store.baselines().unwrap(), []);
}

#[test]
fn a_place_that_cannot_be_written_is_named_and_loses_nothing() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    for event in launch(0, Arm::Candidate, &[1.0]) {
        writer.append(&event).unwrap();
    }
    let manifest = writer.manifest().clone();
    // Root may write anywhere: a directory in the file's place stops everybody.
    let obstacle: PathBuf = fixture.store.run_dir(&manifest).join("samples.parquet");
    fs::create_dir(&obstacle).unwrap();
    let error = writer.finish(RunState::Complete, None).unwrap_err().to_string();
    assert!(error.starts_with("cannot replace ") && error.contains("samples.parquet"), "{error}");
    assert_eq!(fixture.store.load(&manifest).unwrap().samples.len(), 1);
    fs::remove_dir(&obstacle).unwrap();
    let [recovered] = fixture.store.recover().unwrap().try_into().unwrap();
    assert_eq!((recovered.state, recovered.launches_complete), (RunState::Interrupted, 1));

    let file = fixture.store.root().join("store.json");
    let error = Store::open(&file).and_then(|store| store.list().map(drop)).unwrap_err().to_string();
    assert!(error.contains("store.json"), "{error}");
    let bad = cell("baselines", "ab", &serde_json::json!({}));
    let error = fixture.store.create(&bad, RunKind::Run, FILES, &fixture.host).unwrap_err().to_string();
    assert!(error.contains("\"baselines\" cannot name a recipe"), "{error}");
    assert!(Path::new(fixture.store.root()).join("a").exists());
}

#[test]
fn scored_tokens_are_read_back_beside_generated_ones() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    let mut events = launch(0, Arm::Candidate, &[1.0]);
    let score = |position: u32, kl_divergence: f64| TokenScore {
        position,
        token_id: 7,
        nll: 2.5,
        reference_nll: 2.25,
        kl_divergence,
        top1_equal: position == 5,
    };
    let trace = ScoreTrace {
        workload: "kl_divergence(heldout,c8,vs f32)".to_owned(),
        window: 3,
        t_ns: 99,
        tokens: vec![score(5, 0.1 + 0.2), score(6, 5e-324)],
    };
    events.insert(events.len() - 1, Event::Scores { launch: 0, trace });
    for event in &events {
        writer.append(event).unwrap();
    }
    let manifest = writer.finish(RunState::Complete, None).unwrap().manifest;
    fs::remove_file(fixture.store.run_dir(&manifest).join("events.jsonl")).unwrap();
    let tokens = fixture.store.tokens(&manifest).unwrap();
    let [generated, _, first, second] = tokens.as_slice() else { panic!("{tokens:?}") };
    assert_eq!((generated.nll, generated.top1_equal), (None, None));
    assert_eq!((first.request, first.position, first.token_id, first.t_ns, first.itl_ns), (3, 5, 7, 99, None));
    assert_eq!((first.nll, first.reference_nll), (Some(2.5), Some(2.25)));
    assert_eq!([first, second].map(|row| row.kl_divergence), [Some(0.1 + 0.2), Some(5e-324)]);
    assert_eq!([first, second].map(|row| row.top1_equal), [Some(true), Some(false)]);
}

#[test]
fn a_run_knows_the_sessions_that_wrote_it() {
    let fixture = fixture();
    let first = fixture.complete(&cell("a", "ab", &serde_json::json!({})));
    let second = fixture.complete(&cell("a", "cd", &serde_json::json!({"threads": 2})));
    assert_eq!((first.sessions.len(), &first.sessions), (1, &second.sessions), "one store, one session");
    let later = Store::open(fixture.store.root()).unwrap();
    let writer = fixture.begin(&cell("a", "ef", &serde_json::json!({"threads": 3})));
    let stopped = writer.finish(RunState::Interrupted, None).unwrap().manifest;
    let resumed = later.reopen(&stopped).unwrap().finish(RunState::Complete, None).unwrap().manifest;
    assert_eq!(resumed.sessions.len(), 2);
    assert_eq!(resumed.sessions[0], first.sessions[0]);
    let mut old = serde_json::to_value(&first).unwrap();
    old.as_object_mut().unwrap().remove("sessions");
    assert!(serde_json::from_value::<Manifest>(old).unwrap().sessions.is_empty(), "manifests of before can be read");
}

#[test]
fn what_a_recipe_has_beside_the_chosen_runs_is_told() {
    let fixture = fixture();
    let axes = |set: &str| serde_json::json!({"kernels.set": set});
    let cells = [cell("a", "ab", &axes("candle")), cell("a", "cd", &axes("reference")), cell("a", "ef", &axes("avx2"))];
    fixture.complete(&cells[0]);
    let failed = fixture.begin(&cells[1]).finish(RunState::Failed, Some("out of memory".to_owned())).unwrap();
    let plan = Plan { recipe: "a".to_owned(), source_text: String::new(), cells: cells.to_vec() };
    fixture.store.set_plan(&plan).unwrap();
    let chosen = fixture.store.select("a").unwrap();
    assert_eq!(chosen.len(), 1);
    let left_out = fixture.store.left_out(&chosen).unwrap();
    let expected =
        [("kernels.set=reference".to_owned(), Some(failed.manifest)), ("cell efefefefefefefef".to_owned(), None)];
    assert_eq!(left_out, expected);
}
