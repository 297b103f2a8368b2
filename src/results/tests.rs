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

mod listing;
mod runs;
mod selection;

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
        task: None,
        trained_through: None,
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
