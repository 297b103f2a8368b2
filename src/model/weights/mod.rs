//! Weights: the bytes of a model file, and what they say about themselves.
//!
//! Every engine reads the same bytes, so a difference between two engines is never one of storage.
mod format;
mod gguf;
mod requantize;

use std::{borrow::Cow, collections::BTreeMap, fs::File, io, path::Path, sync::OnceLock};

use candle_core::{
    Device,
    quantized::{QStorage, QTensor},
};

use super::{
    families::{self, FamilyError},
    rope::{RopeChange, RopeError},
    spec::ModelSpec,
};

pub use format::TensorType;
pub use gguf::{GgufError, Index, TensorInfo, Value};
pub use requantize::{Fallback, Outline};

/// Bytes on a boundary that every block type may start at.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static PICO: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../assets/pico/pico.gguf"));

/// Why weights could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("cannot read the model {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A source that is known and not there yet, or no model at all.
    #[error("model source {source_name:?}: {problem}")]
    Source {
        /// The source as asked for.
        source_name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is damaged, or of another kind.
    #[error("model {source_name}: {error}")]
    Gguf {
        /// The source as asked for.
        source_name: String,
        /// What is wrong with it.
        #[source]
        error: GgufError,
    },
    /// The model cannot be run.
    #[error("model {source_name}: {error}")]
    Family {
        /// The source as asked for.
        source_name: String,
        /// What is wrong with it.
        #[source]
        error: FamilyError,
    },
    /// No tensor of that name.
    #[error("model {source_name} has no tensor {tensor:?}")]
    NoTensor {
        /// The source as asked for.
        source_name: String,
        /// The tensor.
        tensor: String,
    },
    /// The model has no such rope.
    #[error("model {source_name}: {error}")]
    Rope {
        /// The source as asked for.
        source_name: String,
        /// What is wrong with it.
        #[source]
        error: RopeError,
    },
    /// A tensor could not be converted.
    #[error("tensor {tensor:?} cannot be converted to {kind}: {error}")]
    Convert {
        /// The tensor.
        tensor: String,
        /// The type asked for.
        kind: TensorType,
        /// Why.
        #[source]
        error: candle_core::Error,
    },
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A model file: its bytes, its index and the shape of its model. Each has been checked.
pub struct Weights {
    source: String,
    bytes: Bytes,
    index: Index,
    spec: ModelSpec,
    hash: OnceLock<String>,
}

impl Weights {
    /// Opens `builtin:pico` or a GGUF file, which stays mapped into memory.
    ///
    /// # Errors
    ///
    /// If there is no such model, the file is damaged, or its architecture, a tensor type or a
    /// setting is not supported.
    pub fn open(source: &str) -> Result<Self, WeightsError> {
        let refuse = |problem| Err(WeightsError::Source { source_name: source.to_owned(), problem });
        let bytes = if source == "builtin:pico" {
            Bytes::Static(&PICO.0)
        } else if source.starts_with("builtin:") {
            return refuse("there is no such built-in model (there is builtin:pico)");
        } else if source.starts_with("hf:") {
            return refuse("the hub is not supported yet; download the GGUF file and name its path");
        } else if source.starts_with("synthetic:") {
            return refuse("synthetic weights are not supported yet");
        } else if Path::new(source).is_dir() {
            return refuse("a folder of safetensors is not supported yet; name a GGUF file");
        } else {
            Bytes::Mapped(map(source).map_err(|error| WeightsError::Unreadable { path: source.to_owned(), error })?)
        };
        Self::from_bytes(source, bytes)
    }

    fn from_bytes(source: &str, bytes: Bytes) -> Result<Self, WeightsError> {
        let name = || source.to_owned();
        let index =
            Index::parse(bytes.as_slice()).map_err(|error| WeightsError::Gguf { source_name: name(), error })?;
        let values = |tensor: &str| {
            let info = index.tensors.get(tensor).filter(|info| info.kind == TensorType::F32)?;
            let values = bytes.as_slice()[info.range.clone()].as_chunks::<4>().0;
            Some(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
        };
        let spec =
            families::read(&index, &values).map_err(|error| WeightsError::Family { source_name: name(), error })?;
        Ok(Self { source: name(), bytes, index, spec, hash: OnceLock::new() })
    }

    /// Returns the source it was opened by.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Returns metadata and tensors.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the shape of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Returns the same weights, to be run with another rope than the file's own.
    ///
    /// # Errors
    ///
    /// If the model has no such rope.
    pub fn with_rope(mut self, change: &RopeChange) -> Result<Self, WeightsError> {
        let refuse = |error| WeightsError::Rope { source_name: self.source.clone(), error };
        self.spec = self.spec.with_rope(change).map_err(refuse)?;
        Ok(self)
    }

    /// Returns the number of weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.index.tensors.values().map(|info| info.values() as u64).sum()
    }

    /// Returns the bytes of all tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.index.tensors.values().map(|info| info.range.len() as u64).sum()
    }

    /// Returns the type most weights of matrices are stored in.
    #[must_use]
    pub fn common_format(&self) -> TensorType {
        common(self.index.tensors.values().map(|info| (info, info.kind)))
    }

    /// Returns the BLAKE3 of the bytes, in 64 hexadecimal digits.
    #[must_use]
    pub fn content_hash(&self) -> &str {
        self.hash.get_or_init(|| blake3::hash(self.bytes()).to_hex().to_string())
    }

    /// Gives back the memory of a tensor that was read from a mapped file; what is read of it again is
    /// read from the file again. Without a map, or a tensor of that name, nothing happens.
    #[expect(unsafe_code, reason = "memory advice that drops pages is only safe for maps nobody writes to")]
    pub fn release(&self, name: &str) {
        #[cfg(unix)]
        if let (Bytes::Mapped(map), Some(info)) = (&self.bytes, self.index.tensors.get(name)) {
            let (advice, range) = (memmap2::UncheckedAdvice::DontNeed, &info.range);
            // SAFETY: the map is read-only and backed by a file, so a dropped page comes back as it was.
            // Advice that is not taken costs memory only.
            drop(unsafe { map.unchecked_advise_range(advice, range.start, range.len()) });
        }
    }

    /// Returns a copy of one tensor, in the type it is stored in.
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<QTensor, WeightsError> {
        let missing = || WeightsError::NoTensor { source_name: self.source.clone(), tensor: name.to_owned() };
        let info = self.index.tensors.get(name).ok_or_else(missing)?;
        let bytes = Cow::Borrowed(&self.bytes()[info.range.clone()]);
        let convert = |error| WeightsError::Convert { tensor: name.to_owned(), kind: info.kind, error };
        let storage = QStorage::from_data(bytes, &Device::Cpu, info.kind.candle()).map_err(convert)?;
        QTensor::new(storage, info.shape.clone()).map_err(convert)
    }
}

/// Returns the type with the most weights among matrices; of two with equally many, the first in
/// the order of types.
fn common<'a>(tensors: impl Iterator<Item = (&'a TensorInfo, TensorType)>) -> TensorType {
    let mut weights: BTreeMap<TensorType, usize> = BTreeMap::new();
    for (info, kind) in tensors.filter(|(info, _)| info.shape.len() == 2) {
        *weights.entry(kind).or_default() += info.values();
    }
    weights.into_iter().rev().max_by_key(|(_, count)| *count).map_or(TensorType::F32, |(kind, _)| kind)
}

#[expect(unsafe_code, reason = "mapping a file is the only way to read gigabytes without copying them first")]
fn map(path: &str) -> io::Result<memmap2::Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is only read. A file that another process shortens while it is mapped ends
    // this process with SIGBUS: model files are not written to while they are used.
    unsafe { memmap2::Mmap::map(&file) }
}

#[cfg(test)]
mod tests;
