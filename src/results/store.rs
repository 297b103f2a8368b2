//! A store: all runs under one directory.
//!
//! There is no database and no index to break: the directories are the index, and a run appears in
//! it by one rename, whole. What is relied on is said in `durable` (rename) and `journal` (locks).
mod error;
mod list;
mod recover;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{
    durable::{FileError, JsonError, read_json, replace_json, replace_text, sync_directory},
    journal::{self, Journal},
    layout::{self, FORMAT_VERSION, check_name},
    manifest, parquet,
    record::{Manifest, RunKind, RunRecord, RunState},
    writer::{RunWriter, collector_of},
};
use crate::{
    clock,
    host::{Host, Load},
    metrics::{TokenRow, collect_tokens},
    plan::{Cell, Plan},
};

pub use error::StoreError;
pub(super) use list::age;
pub use list::{ListOutcome, Problem};

/// The texts a run directory keeps.
#[derive(Clone, Copy, Debug)]
pub struct RunFiles<'a> {
    /// The recipe file as written.
    pub source_text: &'a str,
    /// The cell's recipe as YAML.
    pub resolved_text: &'a str,
}

/// `env.json`: what a run was measured on, and what else the machine was doing then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Machine and build.
    pub host: Host,
    /// When the run was begun.
    pub load_at_start: Load,
    /// When it ended, if it was seen to.
    #[serde(default)]
    pub load_at_end: Option<Load>,
}

#[derive(Serialize)]
struct StoreFile {
    format_version: u32,
}

/// `<recipe>/plan.json`: which cells the recipe had when it was last run.
#[derive(Serialize, Deserialize)]
pub(super) struct PlanFile {
    format_version: u32,
    at: String,
    pub(super) cells: Vec<String>,
}

/// All runs under one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    /// What is written through this store belongs to this session.
    session: String,
}

impl Store {
    /// Returns the store at `root`, which need not exist: the first run creates it.
    ///
    /// # Errors
    ///
    /// If a newer version wrote it, or its version cannot be read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(layout::STORE);
        match read_json::<serde_json::Value>(&path) {
            Ok(value) => manifest::check_version(&path, &value)?,
            Err(JsonError::File(error)) if error.error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { root: root.to_owned(), session: uuid::Uuid::now_v7().to_string() })
    }

    /// Returns its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of a run.
    #[must_use]
    pub fn run_dir(&self, manifest: &Manifest) -> PathBuf {
        layout::run_directory(&self.root, manifest)
    }

    /// Returns where the charts that compare a recipe's cells go.
    #[must_use]
    pub fn charts_dir(&self, recipe: &str) -> PathBuf {
        self.root.join(recipe).join(layout::CHARTS)
    }

    /// Makes the directory with what marks it as a store.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        fs::create_dir_all(&self.root).map_err(FileError::of("create", &self.root))?;
        let (ignore, version) = (self.root.join(layout::GITIGNORE), self.root.join(layout::STORE));
        if !ignore.exists() {
            replace_text(&ignore, layout::GITIGNORE_TEXT)?;
        }
        if !version.exists() {
            replace_json(&version, &StoreFile { format_version: FORMAT_VERSION })?;
        }
        Ok(())
    }

    /// Begins a run of a cell: its directory appears whole, in state `running`, locked.
    ///
    /// # Errors
    ///
    /// If the recipe's name cannot be a directory or the store cannot be written.
    pub fn create(
        &self,
        cell: &Cell,
        kind: RunKind,
        files: RunFiles<'_>,
        host: &Host,
    ) -> Result<RunWriter, StoreError> {
        check_name("recipe", &cell.recipe.name)?;
        check_name("cell", &cell.hash)?;
        self.prepare()?;
        let manifest = Manifest { sessions: vec![self.session.clone()], ..Manifest::begun(cell, kind, host) };
        let directory = self.run_dir(&manifest);
        // A name that starts with a dot is no run yet: a crash here leaves nothing that was measured.
        let unborn = directory.with_file_name(format!(".{}.new", manifest.run_id));
        let born = fill(&unborn, &manifest, cell, files).and_then(|journal| {
            fs::rename(&unborn, &directory).map_err(FileError::of("create", &directory))?;
            sync_directory(&directory)?;
            Ok(journal.renamed(directory.join(layout::JOURNAL)))
        });
        if born.is_err() && fs::remove_dir_all(&unborn).is_err() {
            // The first error is the one to tell; what is left is hidden and holds no results.
        }
        let journal = born?;
        let mut writer = RunWriter::begun(directory, manifest, journal);
        writer.session(host)?;
        Ok(writer)
    }

    /// Goes on with a run that is `running` (and was killed), `interrupted`, `failed`, or `complete` and
    /// to have more launches: takes the lock, recovers the journal and marks launches that never finished
    /// as failed.
    ///
    /// # Errors
    ///
    /// If another process writes it, it is invalid, or it was begun on another machine or by another
    /// build ([`Manifest::resume_problem`]).
    pub fn reopen(&self, manifest: &Manifest) -> Result<RunWriter, StoreError> {
        let host = Host::detect();
        let mut writer = RunWriter::resumed(&self.run_dir(manifest))?;
        if let Some(problem) = writer.manifest().resume_problem(&host) {
            return Err(StoreError::NotResumable { run_id: manifest.run_id.clone(), problem });
        }
        writer.mark_running(&self.session)?;
        writer.end_open_launches()?;
        writer.session(&host)?;
        Ok(writer)
    }

    /// Remembers which cells a recipe has now, so that selecting the recipe by name means these.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub fn set_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        check_name("recipe", &plan.recipe)?;
        self.prepare()?;
        let directory = self.root.join(&plan.recipe);
        fs::create_dir_all(&directory).map_err(FileError::of("create", &directory))?;
        let cells = plan.cells.iter().map(|cell| cell.hash.clone()).collect();
        let file = PlanFile { format_version: FORMAT_VERSION, at: clock::timestamp(), cells };
        Ok(replace_json(&directory.join(layout::PLAN), &file)?)
    }

    /// Returns a run with its samples: from `samples.parquet` once it is compacted, before that, or
    /// when that file is missing or damaged, from the journal it is made from.
    ///
    /// # Errors
    ///
    /// If neither can be read.
    pub fn load(&self, manifest: &Manifest) -> Result<RunRecord, StoreError> {
        let directory = self.run_dir(manifest);
        let compacted = (manifest.state != RunState::Running).then(|| directory.join(layout::SAMPLES));
        let samples = match compacted.map(|path| parquet::read_samples(&path)) {
            Some(Ok(samples)) => samples,
            Some(Err(error)) => match journal::read(&directory.join(layout::JOURNAL)) {
                Ok(replay) => collector_of(manifest, &replay).rows(),
                Err(_second) => return Err(error.into()),
            },
            None => collector_of(manifest, &journal::read(&directory.join(layout::JOURNAL))?).rows(),
        };
        Ok(RunRecord { manifest: manifest.clone(), samples, texts: texts_read(&directory) })
    }

    /// Returns the generated tokens of a run's launches that finished; none when the recipe did not ask
    /// for them.
    ///
    /// # Errors
    ///
    /// If neither `tokens.parquet` nor the journal can be read.
    pub fn tokens(&self, manifest: &Manifest) -> Result<Vec<TokenRow>, StoreError> {
        let directory = self.run_dir(manifest);
        if manifest.state != RunState::Running
            && let Ok(rows) = parquet::read_tokens(&directory.join(layout::TOKENS))
        {
            return Ok(rows);
        }
        let replay = journal::read(&directory.join(layout::JOURNAL))?;
        Ok(collect_tokens(&collector_of(manifest, &replay), replay.events()))
    }

    /// Returns a run's events as far as they can be read, with what cannot.
    ///
    /// # Errors
    ///
    /// If the journal cannot be read.
    pub fn journal(&self, manifest: &Manifest) -> Result<journal::Replay, StoreError> {
        Ok(journal::read(&self.run_dir(manifest).join(layout::JOURNAL))?)
    }

    /// Returns the cell a run measured.
    ///
    /// # Errors
    ///
    /// If `cell.json` cannot be read.
    pub fn cell(&self, manifest: &Manifest) -> Result<Cell, StoreError> {
        Ok(read_json(&self.run_dir(manifest).join(layout::CELL))?)
    }
}

/// Returns the texts that the cell of a run directory reads ([`Cell::text_hashes`]), where it can be read.
pub(super) fn texts_read(directory: &Path) -> Option<IndexMap<String, String>> {
    let cell: Cell = read_json(&directory.join(layout::CELL)).ok()?;
    Some(cell.text_hashes())
}

/// Makes the directory of a run with everything that is known before its first launch, the journal
/// locked before anybody can see it.
fn fill(directory: &Path, manifest: &Manifest, cell: &Cell, files: RunFiles<'_>) -> Result<Journal, StoreError> {
    fs::create_dir_all(directory).map_err(FileError::of("create", directory))?;
    let journal = Journal::create(&directory.join(layout::JOURNAL))?;
    replace_text(&directory.join(layout::RECIPE), files.source_text)?;
    replace_text(&directory.join(layout::RESOLVED), files.resolved_text)?;
    replace_json(&directory.join(layout::CELL), cell)?;
    let environment = Environment { host: manifest.host.clone(), load_at_start: Load::now(), load_at_end: None };
    replace_json(&directory.join(layout::ENVIRONMENT), &environment)?;
    manifest::write(directory, manifest)?;
    Ok(journal)
}
