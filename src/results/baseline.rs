//! `baselines/<name>.json`: pointers to what later runs are compared with, committed to git.
//!
//! A pointer holds the whole cell, so that the baseline can be run again where the run directory,
//! which git ignores, does not exist.
use std::{fs, io::ErrorKind, path::PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{
    durable::{FileError, JsonError, read_json, replace_json},
    layout::{self, FORMAT_VERSION, check_name},
    manifest::check_version,
    record::{Manifest, RunState},
    store::{Store, StoreError},
};
use crate::{clock, plan::Cell};

/// A named set of runs, one of each cell of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselinePointer {
    /// Version of the file.
    pub format_version: u32,
    /// Its name.
    pub name: String,
    /// The recipe's name.
    pub recipe: String,
    /// RFC 3339, UTC.
    pub set_at: String,
    /// The machine the runs were measured on.
    pub host_id: String,
    /// The version and commit they were measured by.
    pub build: String,
    /// One run of each cell.
    pub cells: Vec<BaselineCell>,
}

/// A cell of a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineCell {
    /// The cell's content hash.
    pub cell_hash: String,
    /// The run that measured it.
    pub run_id: String,
    /// The cell's matrix values.
    pub axes: IndexMap<String, serde_json::Value>,
    /// The random seed.
    pub seed: u64,
    /// The run's directory, relative to the store, with `/`.
    pub run_path: String,
    /// The cell, to run it again.
    pub cell: Cell,
}

impl Store {
    /// Points the baseline `name` to these runs, replacing what it pointed to, and returns it.
    ///
    /// # Errors
    ///
    /// If the name cannot be a file, if a run is not complete, if the runs are not of one recipe,
    /// machine and build with one run a cell, or if the store cannot be written.
    pub fn set_baseline(&self, name: &str, manifests: &[Manifest]) -> Result<BaselinePointer, StoreError> {
        check_name("baseline", name)?;
        let bad = |problem: String| StoreError::BadBaseline { name: name.to_owned(), problem };
        let first = manifests.first().ok_or_else(|| bad("it has no runs".to_owned()))?;
        let mut cells: Vec<BaselineCell> = Vec::new();
        for manifest in manifests {
            let Manifest { run_id, cell_hash, .. } = manifest;
            if manifest.state != RunState::Complete {
                return Err(bad(format!("run {run_id} is {}", manifest.state.name())));
            }
            for (what, here, there) in [
                ("recipe", &manifest.recipe, &first.recipe),
                ("machine", &manifest.host.host_id, &first.host.host_id),
                ("build", &manifest.host.build(), &first.host.build()),
            ] {
                if here != there {
                    return Err(bad(format!("run {run_id} is of {what} {here}, run {} of {there}", first.run_id)));
                }
            }
            if let Some(other) = cells.iter().find(|cell| cell.cell_hash == *cell_hash) {
                return Err(bad(format!("runs {} and {run_id} are of one cell", other.run_id)));
            }
            cells.push(BaselineCell {
                cell_hash: cell_hash.clone(),
                run_id: run_id.clone(),
                axes: manifest.axes.clone(),
                seed: manifest.seed,
                run_path: format!("{}/{}/{run_id}", manifest.recipe, layout::short(cell_hash)),
                cell: self.cell(manifest)?,
            });
        }
        let pointer = BaselinePointer {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            recipe: first.recipe.clone(),
            set_at: clock::timestamp(),
            host_id: first.host.host_id.clone(),
            build: first.host.build(),
            cells,
        };
        self.prepare()?;
        let path = self.baseline_path(name);
        let directory = self.root().join(layout::BASELINES);
        fs::create_dir_all(&directory).map_err(FileError::of("create", &directory))?;
        replace_json(&path, &pointer)?;
        Ok(pointer)
    }

    /// Returns the baseline of that name.
    ///
    /// # Errors
    ///
    /// If there is none (those there are are named), or it cannot be read.
    pub fn baseline(&self, name: &str) -> Result<BaselinePointer, StoreError> {
        check_name("baseline", name)?;
        let path = self.baseline_path(name);
        let value: serde_json::Value = match read_json(&path) {
            Err(JsonError::File(error)) if error.error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::NoBaseline { name: name.to_owned(), names: self.baseline_names()? });
            }
            value => value?,
        };
        check_version(&path, &value)?;
        Ok(serde_json::from_value(value).map_err(|error| JsonError::Content { path, error })?)
    }

    /// Returns all baselines, by name.
    ///
    /// # Errors
    ///
    /// If one cannot be read.
    pub fn baselines(&self) -> Result<Vec<BaselinePointer>, StoreError> {
        self.baseline_names()?.iter().map(|name| self.baseline(name)).collect()
    }

    /// Removes a baseline; its runs stay.
    ///
    /// # Errors
    ///
    /// If there is none of that name or it cannot be removed.
    pub fn remove_baseline(&self, name: &str) -> Result<(), StoreError> {
        check_name("baseline", name)?;
        let path = self.baseline_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(StoreError::NoBaseline { name: name.to_owned(), names: self.baseline_names()? })
            }
            removed => Ok(removed.map_err(FileError::of("remove", &path))?),
        }
    }

    fn baseline_path(&self, name: &str) -> PathBuf {
        self.root().join(layout::BASELINES).join(format!("{name}.json"))
    }

    fn baseline_names(&self) -> Result<Vec<String>, FileError> {
        let directory = self.root().join(layout::BASELINES);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(FileError::of("read", &directory))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(FileError::of("read", &directory))?.file_name();
            let name = file.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(name.filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}
