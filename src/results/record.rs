//! What is known of a run.
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{host::Host, metrics::SampleRow, plan::ModelIdentity, recipe::schema::KernelSet};

/// Why a run was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// To measure a cell.
    #[default]
    Run,
    /// To compare a cell with its baseline, both arms interleaved.
    Check,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// A process is writing it, or was killed while it did.
    Running,
    /// All launches asked for were measured.
    Complete,
    /// A launch failed; what was measured is kept.
    Failed,
    /// The kernel set's numbers differ from the reference's, or a value is no number; what was timed
    /// does not count.
    Invalid,
    /// Stopped by a signal after a clean flush; the next run goes on.
    Interrupted,
}

/// `manifest.json`: one run of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the run directory's layout.
    pub format_version: u32,
    /// A UUID of version 7, which sorts by time.
    pub run_id: String,
    /// Why it was made.
    pub kind: RunKind,
    /// Where it stands.
    pub state: RunState,
    /// The recipe's name.
    pub recipe: String,
    /// The cell's content hash.
    pub cell_hash: String,
    /// The cell's matrix values.
    pub axes: IndexMap<String, serde_json::Value>,
    /// The random seed.
    pub seed: u64,
    /// The kernel set that ran.
    pub kernel_set: KernelSet,
    /// Worker threads.
    pub threads: u16,
    /// The weights.
    pub model: ModelIdentity,
    /// The machine and build it was begun on.
    pub host: Host,
    /// The sessions that wrote it, in order: what one process measured, all its cells in turn, is one
    /// session. Runs of before there were sessions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC; absent while running.
    pub ended_at: Option<String>,
    /// Launches that finished well.
    pub launches_complete: u32,
    /// Launches that did not.
    pub launches_failed: u32,
    /// Why it failed or is invalid.
    pub reason: Option<String>,
}

/// A run with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// What it is.
    pub manifest: Manifest,
    /// What was measured, invalid rows included.
    pub samples: Vec<SampleRow>,
    /// The BLAKE3 of the texts that were read for it, by their places in its recipe; absent where its
    /// cell cannot be read.
    pub texts: Option<IndexMap<String, String>>,
}
