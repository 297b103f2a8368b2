use super::*;
use crate::{
    event::{Phase, TokenTime, TokenTrace},
    metrics::TokenRow,
};

fn started(launch: u32, arm: Arm, block: u32) -> Event {
    Event::LaunchStarted { launch, arm, block, slot: 1, task: "speed".to_owned(), at: String::new() }
}

fn finished(launch: u32) -> Event {
    Event::LaunchFinished { launch, outcome: Outcome::Complete, wall_ms: 5 }
}

fn failed(launch: u32, reason: &str) -> Event {
    let outcome = Outcome::Failed { exit_code: 14, reason: reason.to_owned() };
    Event::LaunchFinished { launch, outcome, wall_ms: 5 }
}

fn sample(launch: u32, metric: &str, rep: u32, warmup: bool, value: f64) -> Event {
    let sample = Sample {
        metric: metric.to_owned(),
        phase: Phase::Decode,
        workload: "decode(p8,n4)".to_owned(),
        rep,
        warmup,
        value,
        n: 4,
        t_ns: 9,
        step: None,
        task: None,
        trained_through: None,
    };
    Event::Sample { launch, sample }
}

fn collected(events: &[Event]) -> Vec<TokenRow> {
    let mut collector = Collector::new("r", "c");
    events.iter().for_each(|event| collector.event(event));
    collect_tokens(&collector, events)
}

#[test]
fn samples_carry_their_launch_and_the_registered_unit() {
    let events = [started(3, Arm::Baseline, 7), sample(3, "decode_tok_s", 0, false, 12.5), finished(3)];
    let rows = collect("r", "c", &events);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.arm.as_str(), row.block, row.slot, row.launch), ("baseline", 7, 1, 3));
    assert_eq!((row.unit.as_str(), row.phase.as_str(), row.value), ("tokens/s", "decode", 12.5));
    assert!(row.valid && row.reason.is_none());
}

#[test]
fn what_does_not_count_is_kept_with_its_reason() {
    let events = [
        started(0, Arm::Candidate, 0),
        sample(0, "decode_tok_s", 0, false, f64::NAN),
        sample(0, "decode_tok_s", 1, false, f64::NEG_INFINITY),
        sample(0, "speed_of_light", 0, false, 1.0),
        Event::Unavailable { launch: 0, metric: "energy_j".to_owned(), reason: "no counters".to_owned() },
        finished(0),
        started(1, Arm::Candidate, 1),
        sample(1, "decode_tok_s", 0, false, 1.0),
        failed(1, "out of memory"),
        started(2, Arm::Candidate, 2),
        sample(2, "decode_tok_s", 0, false, 1.0),
        sample(9, "decode_tok_s", 0, false, 1.0),
    ];
    let rows = collect("r", "c", &events);
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason.as_deref().unwrap_or("counts")).collect();
    assert_eq!(
        reasons,
        [
            "value is NaN",
            "value is -inf",
            "metric \"speed_of_light\" is not registered",
            "not measured: no counters",
            "launch failed: out of memory",
            "launch did not finish",
            "the start of its launch is not in the journal",
        ]
    );
    assert!(rows.iter().all(|row| !row.valid));
}

#[test]
fn a_launch_that_was_open_where_the_journal_is_damaged_does_not_count() {
    let mut collector = Collector::new("r", "c");
    for event in [started(0, Arm::Candidate, 0), sample(0, "ttft_ms", 0, false, 1.0), finished(0)] {
        collector.event(&event);
    }
    collector.event(&started(1, Arm::Candidate, 1));
    collector.damage("line 5 is unreadable");
    for event in [sample(1, "ttft_ms", 0, false, 1.0), finished(1)] {
        collector.event(&event);
    }
    let valid: Vec<bool> = collector.rows().iter().map(|row| row.valid).collect();
    assert_eq!(valid, [true, false]);
    let complete: Vec<u32> = collector.launches().filter(|l| l.is_complete()).map(|l| l.launch).collect();
    assert_eq!(complete, [0]);
    assert_eq!(collector.next_launch(), 2);
}

#[test]
fn gaps_are_between_neighbouring_tokens_of_one_request() {
    let tokens = [100, 130, 190].map(|t_ns| TokenTime { position: 0, token_id: 5, t_ns }).to_vec();
    let trace =
        |request| TokenTrace { workload: String::new(), rep: 0, request, warmup: false, tokens: tokens.clone() };
    let events = [
        started(0, Arm::Candidate, 0),
        Event::Tokens { launch: 0, trace: trace(0) },
        Event::Tokens { launch: 0, trace: trace(1) },
        finished(0),
    ];
    let gaps: Vec<_> = collected(&events).iter().map(|row| row.itl_ns).collect();
    assert_eq!(gaps, [None, Some(30), Some(60), None, Some(30), Some(60)]);
}

#[test]
fn only_launches_that_finished_well_have_tokens() {
    let generated = |launch: u32| {
        let tokens = vec![TokenTime { position: 0, token_id: 5, t_ns: 100 }];
        let trace = TokenTrace { workload: String::new(), rep: 0, request: 0, warmup: false, tokens };
        Event::Tokens { launch, trace }
    };
    let events = [
        started(0, Arm::Candidate, 0),
        generated(0),
        failed(0, "out of memory"),
        started(1, Arm::Baseline, 0),
        generated(1),
        finished(1),
        started(2, Arm::Candidate, 1),
        generated(2),
        generated(9),
    ];
    let rows = collected(&events);
    assert_eq!(rows.iter().map(|row| (row.launch, row.arm.as_str())).collect::<Vec<_>>(), [(1, "baseline")]);
}
