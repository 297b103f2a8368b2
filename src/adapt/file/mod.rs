//! Adapter files: PEFT's folders ([`peft`]) and llama.cpp's GGUF adapters.
mod describe;
mod gguf;
mod stored;

use std::{fs, io, path::Path};

use super::peft::{self, PeftError, Scaling};
use crate::{
    engine::{Adapter, LowRank},
    model::{
        spec::ModelSpec,
        weights::{GgufError, write::WriteError},
    },
};

pub use describe::{Description, describe};
pub(super) use gguf::joined;
pub use stored::Stored;

/// Why an adapter could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterFileError {
    /// There is none, or it cannot be read.
    #[error("cannot read the adapter {path}: {error}")]
    Unreadable {
        /// The folder or file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A PEFT folder that cannot be used.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// No GGUF file.
    #[error("adapter {path}: {error} (it must be a PEFT folder, or a GGUF file of the type adapter)")]
    Gguf {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        error: GgufError,
    },
    /// It has something that is not computed, or that the model has no place for.
    #[error("adapter {path}: {problem}")]
    Unsupported {
        /// The file.
        path: String,
        /// What.
        problem: String,
    },
    /// It cannot be written.
    #[error("adapter: {0}")]
    Write(#[from] WriteError),
}

/// Reads an adapter of a model, whichever kind of file it is.
///
/// # Errors
///
/// If there is none, it is damaged, or it is of another kind or for another shape.
pub fn read(path: &Path, spec: &ModelSpec) -> Result<Adapter, AdapterFileError> {
    Ok(read_scaled(path, spec)?.0)
}

/// Returns what [`read`] does, and how a PEFT folder would say that it is scaled.
///
/// # Errors
///
/// As [`read`].
pub fn read_scaled(path: &Path, spec: &ModelSpec) -> Result<(Adapter, Scaling), AdapterFileError> {
    let unreadable = |error| AdapterFileError::Unreadable { path: path.display().to_string(), error };
    if fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(peft::read(path, spec)?);
    }
    let adapter = gguf::parse(path, &fs::read(path).map_err(unreadable)?, spec)?;
    let (rank, scale) = adapter.values().next().map_or((1, 1.0), |part| (part.rank, part.scale));
    let lora_alpha = f64::from(scale) * rank as f64;
    Ok((adapter, Scaling { r: rank, lora_alpha, use_rslora: false }))
}

/// Writes an adapter: as llama.cpp reads it where the name ends in `.gguf`, else as a PEFT folder.
/// Decomposed changes (DoRA) have no place in the former.
///
/// `base` is how the folder names the model it is for.
///
/// # Numerics
///
/// A file of either kind has one `alpha`, and PEFT's one rank: where ranks differ, factors are filled up
/// with zeros, which changes no bit of what they compute. Where the scales do not follow from one alpha,
/// each B takes its part of the scale, rounded to f32.
///
/// # Errors
///
/// If a file cannot be written, or the kind of file has no place for a matrix.
pub fn write(path: &Path, spec: &ModelSpec, base: &str, adapter: &Adapter) -> Result<(), AdapterFileError> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return gguf::write(path, spec, adapter);
    }
    let (adapter, scaling) = uniform(adapter);
    Ok(peft::write(path, spec, base, &adapter, scaling)?)
}

/// Returns the same additions, all of one rank and one scale.
fn uniform(adapter: &Adapter) -> (Adapter, Scaling) {
    let r = adapter.values().map(|part| part.rank).max().unwrap_or(1);
    let scale = one_scale(adapter.values().map(|part| part.scale));
    let part = |part: &LowRank| rescaled(&padded(part, r), scale);
    let parts = adapter.iter().map(|(place, of)| (*place, part(of))).collect();
    (parts, Scaling { r, lora_alpha: f64::from(scale) * r as f64, use_rslora: false })
}

/// Returns the scale that all have; 1 where they differ.
fn one_scale(mut scales: impl Iterator<Item = f32>) -> f32 {
    let Some(first) = scales.next() else { return 1.0 };
    if first != 0.0 && scales.all(|scale| scale.to_bits() == first.to_bits()) { first } else { 1.0 }
}

/// Returns the same addition with another scale.
fn rescaled(part: &LowRank, scale: f32) -> LowRank {
    let mut part = part.clone();
    if part.scale.to_bits() != scale.to_bits() {
        let factor = f64::from(part.scale) / f64::from(scale);
        part.b.iter_mut().for_each(|b| *b = (f64::from(*b) * factor) as f32);
        part.scale = scale;
    }
    part
}

/// Returns the same addition with a rank of at least its own.
fn padded(part: &LowRank, rank: usize) -> LowRank {
    let LowRank { rank: own, scale, a, b, magnitude } = part;
    let columns = a.len() / own;
    let mut a = a.clone();
    a.resize(rank * columns, 0.0);
    let row = |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(0.0, rank - own)).collect::<Vec<_>>();
    LowRank { rank, scale: *scale, a, b: b.chunks_exact(*own).flat_map(row).collect(), magnitude: magnitude.clone() }
}

/// Returns the BLAKE3, in 64 hexadecimal digits, of an adapter's places, ranks, scales and numbers: the
/// same whatever file they lie in.
#[must_use]
pub fn content_hash(adapter: &Adapter) -> String {
    let mut hash = blake3::Hasher::new();
    for (place, LowRank { rank, scale, a, b, magnitude }) in adapter {
        for number in [place.layer as u64, place.target as u64, *rank as u64, a.len() as u64, b.len() as u64] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(&scale.to_le_bytes());
        for values in [Some(a), Some(b), magnitude.as_ref()].into_iter().flatten() {
            for chunk in values.chunks(4096) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
    }
    hash.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;
