use super::*;
use crate::event::{Arm, Outcome, Phase, Sample, TokenTime, TokenTrace};

fn recorded() -> Vec<Event> {
    let sample = |launch, rep, value| Event::Sample {
        launch,
        sample: Sample {
            metric: "decode_tok_s".to_owned(),
            phase: Phase::Decode,
            workload: "decode(p8,n4)".to_owned(),
            rep,
            warmup: rep == 0,
            value,
            n: 4,
            t_ns: 17,
            step: None,
            task: None,
            trained_through: None,
        },
    };
    let trace = TokenTrace {
        workload: "decode(p8,n4)".to_owned(),
        rep: 0,
        request: 0,
        warmup: false,
        tokens: vec![TokenTime { position: 8, token_id: 3, t_ns: 1_000 }],
    };
    vec![
        Event::SessionStarted { at: "2026-01-01T00:00:00.000Z".to_owned(), pid: 7, build: "0.1.0 (ü\n)".to_owned() },
        Event::LaunchStarted { launch: 0, arm: Arm::Candidate, block: 0, slot: 0, task: String::new(), at: "x".into() },
        sample(0, 0, 10.0 / 3.0),
        Event::Tokens { launch: 0, trace },
        sample(0, 1, 5e-324),
        Event::LaunchFinished { launch: 0, outcome: Outcome::Complete, wall_ms: 9 },
    ]
}

fn written(path: &Path) -> Vec<Event> {
    let mut journal = Journal::create(path).unwrap();
    for event in recorded() {
        journal.append(&event).unwrap();
    }
    journal.sync().unwrap();
    recorded()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    (directory, path)
}

#[test]
fn what_was_appended_is_read_back_and_progress_is_not_kept() {
    let (_directory, path) = place();
    let events = written(&path);
    let (mut journal, replay) = Journal::open(&path).unwrap();
    assert!(replay.events().eq(&events));
    assert_eq!((replay.torn_bytes, replay.damage().count()), (0, 0));
    journal.append(&Event::Progress { launch: 0, workload: String::new(), done: 1, total: 2 }).unwrap();
    assert_eq!(read(&path).unwrap(), replay);
}

#[test]
fn cut_anywhere_every_earlier_line_is_read_and_appending_goes_on() {
    let (_directory, path) = place();
    let events = written(&path);
    let bytes = fs::read(&path).unwrap();
    for cut in 0..=bytes.len() {
        let kept = &bytes[..cut];
        let whole = kept.iter().filter(|byte| **byte == b'\n').count();
        let torn = cut - kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        for tail in [&b""[..], &[0; 9], b"\xff\xfe{", b"\0\0\n", b"\0\n\0\n\0"] {
            let replay = replay(&path, &[kept, tail].concat());
            assert!(replay.events().eq(&events[..whole]), "cut at {cut}, then {tail:?}");
            assert_eq!((replay.torn_bytes, replay.damage().count()), ((torn + tail.len()) as u64, 0), "{cut} {tail:?}");
        }
        fs::write(&path, kept).unwrap();
        let (mut journal, replay) = Journal::open(&path).unwrap();
        assert_eq!(replay.torn_bytes, torn as u64);
        journal.append(&events[5]).unwrap();
        let after = read(&path).unwrap();
        assert!(after.events().eq(events[..whole].iter().chain([&events[5]])), "cut at {cut}");
        assert_eq!(after.torn_bytes, 0);
    }
}

#[test]
fn the_lock_ends_with_the_journal_though_a_process_being_started_has_its_file_open() {
    let (_directory, path) = place();
    let journal = Journal::create(&path).unwrap();
    // What a fork gives a child, which then has it until it runs its program.
    let inherited = journal.file.try_clone().unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Locked(_))));
    drop(journal);
    Journal::open(&path).unwrap();
    drop(inherited);
}

#[test]
fn garbage_between_lines_is_named_and_loses_nothing_else() {
    let (_directory, path) = place();
    let events = written(&path);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "\0\0\0";
    lines[3] = r#"{"from_the_future":{}}"#;
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let (_journal, replay) = Journal::open(&path).unwrap();
    assert!(replay.events().eq([&events[0], &events[1], &events[4], &events[5]]));
    let damage: Vec<usize> = replay.damage().map(|damage| damage.line).collect();
    assert_eq!((damage, replay.torn_bytes), (vec![3, 4], 0));
    let message = replay.damage().next().unwrap().to_string();
    assert!(message.contains("events.jsonl:3: unreadable line"), "{message}");
}

#[test]
fn a_last_line_of_a_newer_version_is_reported_but_never_cut_off() {
    let (_directory, path) = place();
    written(&path);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"from_the_future\":{}}\n");
    fs::write(&path, &bytes).unwrap();
    let (_journal, replay) = Journal::open(&path).unwrap();
    assert_eq!((replay.damage().count(), replay.torn_bytes), (1, 0));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_second_writer_is_refused_until_the_first_ends() {
    let (_directory, path) = place();
    let journal = Journal::create(&path).unwrap();
    let refused = Journal::open(&path).unwrap_err();
    assert!(refused.to_string().ends_with("events.jsonl is being written by another process"), "{refused}");
    drop(journal);
    assert!(Journal::open(&path).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_the_way_out() {
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let mut journal = Journal::over(Path::new("results/a/events.jsonl"), full, 0);
    let message = journal.append(&recorded()[0]).unwrap_err().to_string();
    assert!(message.starts_with("cannot write results/a/events.jsonl: No space left"), "{message}");
    assert!(message.contains("free some space"), "{message}");
}

#[test]
fn half_a_line_left_by_a_failed_write_is_cut_off_before_the_next() {
    let (_directory, path) = place();
    let mut journal = Journal::create(&path).unwrap();
    let events = recorded();
    journal.append(&events[0]).unwrap();
    // What a write that met a full disk leaves: part of its line, and the writer knowing of it.
    journal.file.write_all(b"{\"launch_started\":{\"la").unwrap();
    journal.torn = true;
    journal.append(&events[1]).unwrap();
    assert!(read(&path).unwrap().events().eq(&events[..2]));
}
