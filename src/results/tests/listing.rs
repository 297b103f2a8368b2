//! Stores: what is listed, and where nothing can be written.
use super::*;

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
