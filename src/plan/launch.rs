//! What the parent tells one child process.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::recipe::schema::Workload;

use super::{Cell, demand::demand};

/// The version of the exchange between parent and child: a `LaunchSpec` as one JSON line on the
/// child's standard input, `Event`s as JSON lines on its standard output. The child ends when its
/// standard input does, so no launch outlives a killed parent.
pub const PROTOCOL: u32 = 1;

/// What one child process does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// [`PROTOCOL`] of the parent.
    pub protocol: u32,
    /// The launch's number, for its events.
    pub launch: u32,
    /// What part of the cell to run.
    pub task: LaunchTask,
    /// The cell.
    pub cell: Cell,
    /// The folder for what it makes beside measurements, and goes on from; nothing is kept without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<PathBuf>,
}

/// A part of a cell that has a process to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchTask {
    /// Compares the kernel set's logits with the reference's; once a cell.
    Verify,
    /// The workloads whose result does not vary between launches (perplexity, divergence); once a cell.
    Quality,
    /// The timed workloads; one launch a replicate.
    Speed,
}

impl LaunchTask {
    /// Returns whether a workload has something to do in it.
    #[must_use]
    pub fn runs(self, workload: &Workload) -> bool {
        demand(workload).tasks.contains(&self)
    }

    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Quality => "quality",
            Self::Speed => "speed",
        }
    }
}
