//! Why results could not be read or written.
use std::path::PathBuf;

use super::super::{
    durable::{FileError, JsonError},
    journal::JournalError,
    layout::FORMAT_VERSION,
    parquet::ParquetError,
};

/// Why results could not be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error("{} has format {found}, this ruvlab knows {FORMAT_VERSION}; use a newer ruvlab", .path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("{} is the manifest of run {run_id}, but lies elsewhere; run directories cannot be renamed", .path.display())]
    Moved { path: PathBuf, run_id: String },
    #[error(
        "{name:?} cannot name a {what}: letters, digits, `-`, `_` and `.` can, not `.` in front, nor \
             `baselines` or `store.json`"
    )]
    Name { what: &'static str, name: String },
    #[error("run {run_id} cannot go on: {problem}; start a new run with --rerun all")]
    NotResumable { run_id: String, problem: String },
    #[error("run {run_id} cannot end in state `running`")]
    NotAnEnd { run_id: String },
    #[error("no run, cell or recipe is {selector:?}{}", alternatives(.nearest, *.unreadable))]
    NotFound { selector: String, nearest: Vec<String>, unreadable: usize },
    #[error("{selector:?} could be any of {}; give more of it", .matches.join(", "))]
    Ambiguous { selector: String, matches: Vec<String> },
    #[error("recipe {recipe} has no complete run; not complete: {}", .runs.join(", "))]
    NoCompleteRun { recipe: String, runs: Vec<String> },
    #[error("no baseline is named {name:?}{}", alternatives(.names, 0))]
    NoBaseline { name: String, names: Vec<String> },
    #[error("baseline {name:?} cannot be set: {problem}")]
    BadBaseline { name: String, problem: String },
}

impl StoreError {
    /// Returns whether what was asked for does not exist or is not clear, and nothing is broken.
    #[must_use]
    pub fn is_selection(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Ambiguous { .. } | Self::NoCompleteRun { .. })
    }
}

fn alternatives(nearest: &[String], unreadable: usize) -> String {
    let names = if nearest.is_empty() { String::new() } else { format!("; there is {}", nearest.join(", ")) };
    match unreadable {
        0 => names,
        _ => format!("{names}; {unreadable} run directories have problems, `ruvlab list` names them"),
    }
}
