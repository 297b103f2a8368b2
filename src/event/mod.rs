//! The one stream between running and everything that watches: journal, collector, progress.
mod sample;
mod traces;

use serde::{Deserialize, Serialize};

pub use sample::{Arm, Phase, Sample};
pub use traces::{CacheTransition, LearningRequest, LearningStep, ScoreTrace, TokenScore, TokenTime, TokenTrace};

/// How a launch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every workload was measured.
    Complete,
    /// It failed, for this reason.
    Failed {
        /// The exit code the failure asks for.
        exit_code: u8,
        /// The whole error, in one text.
        reason: String,
    },
}

/// Something that happened. One line of the journal each, `Progress` excepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A process began to write this run: the first, or one that resumes it.
    SessionStarted {
        /// RFC 3339, UTC.
        at: String,
        /// The writing process.
        pid: u32,
        /// `ruvlab`'s version and commit.
        build: String,
    },
    /// A launch began.
    LaunchStarted {
        /// Number inside the run, from 0, never used again.
        launch: u32,
        /// Which side it measures.
        arm: Arm,
        /// Number of the pair or round it belongs to.
        block: u32,
        /// Its place in the order of execution inside the block.
        slot: u32,
        /// What part of the cell it runs: the name of a `plan::LaunchTask`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        task: String,
        /// RFC 3339, UTC.
        at: String,
    },
    /// A measured value of a launch.
    Sample {
        /// The launch.
        launch: u32,
        /// The value.
        sample: Sample,
    },
    /// The tokens of one request of a launch.
    Tokens {
        /// The launch.
        launch: u32,
        /// The tokens.
        trace: TokenTrace,
    },
    /// The scored tokens of one window of a launch.
    Scores {
        /// The launch.
        launch: u32,
        /// The tokens.
        trace: ScoreTrace,
    },
    /// The key-value cache did something because it was full.
    CacheTransition {
        /// The launch.
        launch: u32,
        /// What it did.
        transition: CacheTransition,
    },
    /// A learning loop made a step.
    LearningStep {
        /// The launch.
        launch: u32,
        /// The step.
        step: LearningStep,
    },
    /// The learning loops saw a request.
    LearningRequest {
        /// The launch.
        launch: u32,
        /// The request.
        request: LearningRequest,
    },
    /// How far a launch is; for people, never stored.
    Progress {
        /// The launch.
        launch: u32,
        /// The workload's label.
        workload: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Something was not measured, and why (energy counters not readable, say).
    Unavailable {
        /// The launch.
        launch: u32,
        /// The metric's registered name.
        metric: String,
        /// Why.
        reason: String,
    },
    /// A launch ended.
    LaunchFinished {
        /// The launch.
        launch: u32,
        /// How.
        outcome: Outcome,
        /// Wall time of the process, milliseconds.
        wall_ms: u64,
    },
}

impl Event {
    /// Returns whether the journal keeps it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::Progress { .. })
    }
}

/// Anything that watches events.
pub trait Sink {
    /// Takes note of one event.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Sink for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}
