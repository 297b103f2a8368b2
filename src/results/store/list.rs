//! Which runs there are: the directories are the index.
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    super::{
        durable::FileError,
        layout, manifest,
        record::{Manifest, RunKind, RunState},
    },
    Store, StoreError,
};
use crate::host::Host;

/// Something in a store that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// What is wrong: a lowercase fragment that names the place.
    pub message: String,
}

/// The runs of a store, and what could not be read beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListOutcome {
    /// By start, then run id.
    pub manifests: Vec<Manifest>,
    /// By path.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Returns all runs, and beside them what could not be read or lacks files.
    ///
    /// # Errors
    ///
    /// If the store's own directory cannot be read; one that does not exist is empty.
    pub fn list(&self) -> Result<ListOutcome, StoreError> {
        let mut outcome = ListOutcome::default();
        for recipe in subdirectories(&self.root)? {
            if recipe.file_name().is_some_and(|name| name == layout::BASELINES) {
                continue;
            }
            for cell in noted(subdirectories(&recipe), &recipe, &mut outcome.problems) {
                self.list_cell(&cell, &mut outcome);
            }
        }
        outcome.manifests.sort_by(|a, b| (&a.started_at, &a.run_id).cmp(&(&b.started_at, &b.run_id)));
        Ok(outcome)
    }

    fn list_cell(&self, cell: &Path, outcome: &mut ListOutcome) {
        for directory in noted(subdirectories(cell), cell, &mut outcome.problems) {
            match manifest::read(&directory) {
                Ok(manifest) => {
                    let ended: &[&str] = if manifest.state == RunState::Running { &[] } else { &layout::ENDED };
                    let needed = layout::ALWAYS.iter().chain(ended);
                    let missing: Vec<&str> = needed.copied().filter(|name| !directory.join(name).exists()).collect();
                    if !missing.is_empty() {
                        let message = format!("{} lacks {}", directory.display(), missing.join(", "));
                        outcome.problems.push(Problem { path: directory.clone(), message });
                    }
                    outcome.manifests.push(manifest);
                }
                Err(error) => outcome.problems.push(Problem { path: directory, message: error.to_string() }),
            }
        }
    }

    /// Returns the newest `RunKind::Run` of a cell, a complete one before all others; unreadable
    /// directories, which [`Store::list`] reports, are no candidates.
    #[must_use]
    pub fn latest(&self, recipe: &str, cell_hash: &str) -> Option<Manifest> {
        newest(self.runs_of(recipe, cell_hash))
    }

    /// Returns the run of a cell that a machine and build go by, among those begun on that machine: the
    /// last one, when it was stopped and can go on, also after a complete one, which it was to replace;
    /// else as [`Store::latest`].
    #[must_use]
    pub fn latest_on(&self, host: &Host, recipe: &str, cell_hash: &str) -> Option<Manifest> {
        let mut runs = self.runs_of(recipe, cell_hash);
        runs.retain(|manifest| manifest.host.host_id == host.host_id);
        let last = runs.iter().max_by(|a, b| (&a.started_at, &a.run_id).cmp(&(&b.started_at, &b.run_id)));
        let stopped = last.filter(|m| m.state == RunState::Interrupted && m.resume_problem(host).is_none()).cloned();
        stopped.or_else(|| newest(runs))
    }

    fn runs_of(&self, recipe: &str, cell_hash: &str) -> Vec<Manifest> {
        let mut outcome = ListOutcome::default();
        self.list_cell(&layout::cell_directory(&self.root, recipe, cell_hash), &mut outcome);
        outcome.manifests.retain(|m| m.kind == RunKind::Run && m.cell_hash == cell_hash);
        outcome.manifests
    }
}

fn newest(runs: Vec<Manifest>) -> Option<Manifest> {
    runs.into_iter().max_by(|a, b| age(a).cmp(&age(b)))
}

/// Returns what newest means among runs of one cell: complete first, then by start.
pub(in crate::results) fn age(manifest: &Manifest) -> (bool, &str, &str) {
    (manifest.state == RunState::Complete, &manifest.started_at, &manifest.run_id)
}

/// Returns the directories in a directory, by name, those hidden by a dot left out.
fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(FileError::of("read", directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::of("read", directory))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn noted(found: Result<Vec<PathBuf>, FileError>, path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    found.unwrap_or_else(|error| {
        problems.push(Problem { path: path.to_owned(), message: error.to_string() });
        Vec::new()
    })
}
