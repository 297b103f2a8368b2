//! Runs: what is written is read back, and what is damaged or left is made up for.
use super::*;

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
    crate::metrics::collect_tokens(&writer::collector_of(&record.manifest, replay), replay.events())
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
    let invalid = fixture.begin(&cell).finish(RunState::Invalid, None).unwrap().manifest;
    let error = fixture.store.reopen(&invalid).unwrap_err().to_string();
    assert!(error.contains("cannot go on: it is invalid"), "{error}");
    assert_eq!(fixture.manifest(&invalid.run_id), invalid);

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
fn a_complete_run_takes_more_launches_and_keeps_those_it_has() {
    let fixture = fixture();
    let complete = fixture.complete(&cell("a", "ab", &serde_json::json!({})));
    let before = fixture.store.load(&complete).unwrap();
    let mut writer = fixture.store.reopen(&complete).unwrap();
    for event in launch(writer.next_launch(), Arm::Candidate, &[30.0]) {
        writer.append(&event).unwrap();
    }
    let record = writer.finish(RunState::Complete, None).unwrap();
    assert_eq!((&record.manifest.run_id, record.manifest.launches_complete), (&complete.run_id, 2));
    assert_eq!(fixture.store.load(&record.manifest).unwrap(), record);
    let kept = record.samples.iter().filter(|row| row.launch == 0).cloned().collect::<Vec<_>>();
    assert_same(&kept, &before.samples);
    assert_eq!(record.samples.len(), kept.len() + 1);
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
fn tokens_of_launches_that_did_not_finish_are_left_out() {
    let fixture = fixture();
    let mut writer = fixture.begin(&cell("a", "ab", &serde_json::json!({})));
    let mut events = launch(0, Arm::Candidate, &[1.0]);
    let mut killed = launch(1, Arm::Candidate, &[2.0]);
    killed.pop();
    let outcome = Outcome::Failed { exit_code: 1, reason: "out of memory".to_owned() };
    killed.push(Event::LaunchFinished { launch: 1, outcome, wall_ms: 3 });
    events.extend(killed);
    events.extend(launch(2, Arm::Candidate, &[3.0]));
    for event in &events {
        writer.append(event).unwrap();
    }
    let manifest = writer.finish(RunState::Failed, None).unwrap().manifest;
    let launches = || fixture.store.tokens(&manifest).unwrap().iter().map(|row| row.launch).collect::<Vec<_>>();
    assert_eq!(launches(), [0, 0, 2, 2]);
    fs::remove_file(fixture.store.run_dir(&manifest).join("tokens.parquet")).unwrap();
    assert_eq!(launches(), [0, 0, 2, 2], "from the journal, too");
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
