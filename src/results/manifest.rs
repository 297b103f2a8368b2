//! `manifest.json`: reading, checking and replacing it.
use std::path::Path;

use super::{
    durable::{JsonError, read_json, replace_json},
    layout::{self, FORMAT_VERSION},
    record::{Manifest, RunKind, RunState},
    store::StoreError,
};
use crate::{clock, host::Host, plan::Cell};

/// Reads the manifest of a run directory.
pub(super) fn read(directory: &Path) -> Result<Manifest, StoreError> {
    let path = directory.join(layout::MANIFEST);
    let value: serde_json::Value = read_json(&path)?;
    check_version(&path, &value)?;
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|error| JsonError::Content { path: path.clone(), error })?;
    let ends_so = |name: &str, end: &Path| end.file_name().is_some_and(|found| found == name);
    let cell = directory.parent().unwrap_or(directory);
    if !ends_so(&manifest.run_id, directory) || !ends_so(layout::short(&manifest.cell_hash), cell) {
        return Err(StoreError::Moved { path, run_id: manifest.run_id });
    }
    Ok(manifest)
}

/// Replaces the manifest of a run directory.
pub(super) fn write(directory: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    Ok(replace_json(&directory.join(layout::MANIFEST), manifest)?)
}

/// Refuses what a newer version wrote.
pub(super) fn check_version(path: &Path, value: &serde_json::Value) -> Result<(), StoreError> {
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT_VERSION) => Err(StoreError::Version { path: path.to_owned(), found }),
        _ => Ok(()),
    }
}

impl Manifest {
    /// Returns the manifest of a run of a cell that begins now.
    #[must_use]
    pub fn begun(cell: &Cell, kind: RunKind, host: &Host) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            run_id: uuid::Uuid::now_v7().to_string(),
            kind,
            state: RunState::Running,
            recipe: cell.recipe.name.clone(),
            cell_hash: cell.hash.clone(),
            axes: cell.axes.clone(),
            seed: cell.seed,
            kernel_set: cell.kernel_set,
            threads: cell.threads,
            model: cell.model.clone(),
            host: host.clone(),
            sessions: Vec::new(),
            started_at: clock::timestamp(),
            ended_at: None,
            launches_complete: 0,
            launches_failed: 0,
            reason: None,
        }
    }

    /// Returns why the run cannot be gone on with by this machine and build; `None` when it can.
    ///
    /// A run's launches are replicates of one measurement: machine and build stay the same. One that is
    /// complete goes on where more launches are wished for.
    #[must_use]
    pub fn resume_problem(&self, host: &Host) -> Option<String> {
        if self.state == RunState::Invalid {
            Some(format!("it is {}", self.state.name()))
        } else if self.host.host_id != host.host_id {
            Some(format!("it was begun on machine {}, this is {}", self.host.host_id, host.host_id))
        } else if self.host.build() != host.build() {
            Some(format!("it was begun by ruvlab {}, this is {}", self.host.build(), host.build()))
        } else {
            None
        }
    }
}

impl RunKind {
    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Check => "check",
        }
    }
}

impl RunState {
    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Interrupted => "interrupted",
        }
    }
}
