//! Where a training can go on from, to the last bit.
//!
//! A folder `checkpoint-N` holds all that N updates left behind. It is written under another name first
//! and renamed when it is complete, so a folder of that name is whole, whenever the writer was killed.
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    optim::Moments,
    train::{NAMES, Trainer},
};
use crate::engine::Place;

const TENSORS: &str = "tensors.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "checkpoint-";

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read or written.
    #[error("checkpoint {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// What it holds is damaged, or of another training.
    #[error("checkpoint {path}: {problem} (delete the folder to begin again)")]
    Damaged {
        /// The folder.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// A number that JSON gives back bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bits(u64);

impl From<f64> for Bits {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl From<Bits> for f64 {
    fn from(bits: Bits) -> Self {
        Self::from_bits(bits.0)
    }
}

fn file(path: &Path) -> impl Fn(io::Error) -> CheckpointError {
    let path = path.display().to_string();
    move |error| CheckpointError::File { path: path.clone(), error }
}

fn name(place: Place, what: &str) -> String {
    format!("{}.{:?}.{what}", place.layer, place.target)
}

/// Writes what a training is, and `state` beside it, and removes older checkpoints.
///
/// # Errors
///
/// If a file cannot be written; older checkpoints are there still.
pub fn write<S: Serialize>(folder: &Path, trainer: &Trainer, state: &S) -> Result<(), CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: folder.display().to_string(), problem };
    let target = folder.join(format!("{PREFIX}{:010}", trainer.steps()));
    let draft = folder.join("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(file(&draft))?;
    }
    fs::create_dir_all(&draft).map_err(file(&draft))?;
    let mut tensors = HashMap::new();
    for (place, what, values) in trainer.tensors() {
        let tensor =
            Tensor::from_slice(values, values.len(), &Device::Cpu).map_err(|error| damaged(error.to_string()))?;
        tensors.insert(name(place, what), tensor);
    }
    let path = draft.join(TENSORS);
    candle_core::safetensors::save(&tensors, &path).map_err(|error| damaged(error.to_string()))?;
    let state_path = draft.join(STATE);
    let bytes = serde_json::to_vec(state).map_err(|error| damaged(error.to_string()))?;
    fs::write(&state_path, bytes).map_err(file(&state_path))?;
    for path in [&path, &state_path, &draft] {
        File::open(path).and_then(|opened| opened.sync_all()).map_err(file(path))?;
    }
    if target.exists() {
        fs::remove_dir_all(&target).map_err(file(&target))?;
    }
    fs::rename(&draft, &target).map_err(file(&target))?;
    for older in all(folder)?.into_iter().filter(|path| *path != target) {
        fs::remove_dir_all(&older).map_err(file(&older))?;
    }
    Ok(())
}

/// Returns all checkpoints of a folder, the oldest first; none where there is no folder.
fn all(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file(folder))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Puts a training back to where its newest checkpoint was, and returns what was written beside it;
/// nothing where there is none.
///
/// # Errors
///
/// If it is damaged, or of another training.
pub fn restore<S: for<'de> Deserialize<'de>>(
    folder: &Path,
    trainer: &mut Trainer,
) -> Result<Option<S>, CheckpointError> {
    let Some(newest) = all(folder)?.pop() else { return Ok(None) };
    let damaged = |problem: String| CheckpointError::Damaged { path: newest.display().to_string(), problem };
    let steps = newest.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok());
    let steps = steps.ok_or_else(|| damaged("its name has no number".to_owned()))?;
    let path = newest.join(STATE);
    let state = serde_json::from_slice(&fs::read(&path).map_err(file(&path))?);
    let state = state.map_err(|error| damaged(error.to_string()))?;
    let tensors = candle_core::safetensors::load(newest.join(TENSORS), &Device::Cpu);
    let tensors = tensors.map_err(|error| damaged(error.to_string()))?;
    let values = |place: Place, what: &str| -> Result<Vec<f32>, CheckpointError> {
        let name = name(place, what);
        let tensor = tensors.get(&name).ok_or_else(|| damaged(format!("{name} is missing")))?;
        tensor.to_vec1::<f32>().map_err(|error| damaged(error.to_string()))
    };
    let mut adapter = trainer.adapter().clone();
    let mut moments = BTreeMap::new();
    for (place, change) in &mut adapter {
        let mut found = [(); 3].map(|()| Moments::new(0));
        let parts = change.values_mut().into_iter().zip(&mut found).zip(NAMES);
        for ((own, moments), names) in parts.filter(|((own, _), _)| !own.is_empty()) {
            let [read, first, second] = names.map(|what| values(*place, what));
            let read = read?;
            if read.len() != own.len() {
                return Err(damaged(format!("{} values for {} of the {place}", read.len(), own.len())));
            }
            own.copy_from_slice(&read);
            *moments = Moments { first: first?, second: second? };
        }
        moments.insert(*place, found);
    }
    trainer.restore(steps, adapter, moments).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(state))
}
