//! Weights: the bytes of a model file, and what they say about themselves.
//!
//! Every engine reads the same bytes, so a difference between two engines is never one of storage.
mod convert;
mod format;
mod gguf;
mod image;
mod importance;
mod modify;
mod parts;
mod quantize;
mod requantize;
mod safetensors;
mod split;
pub mod write;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

use candle_core::{
    Device,
    quantized::{QStorage, QTensor},
};

use super::{
    families::{self, FamilyError},
    rope::{RopeChange, RopeError},
    spec::ModelSpec,
};

pub use convert::{Conversion, ConversionError, Converter, Mixture, NamePattern, Scheme, Target};
pub use format::TensorType;
pub use gguf::{GgufError, Index, TensorInfo, Value};
pub use image::Image;
pub use importance::{Importance, ImportanceError};
pub use parts::Part;
pub use quantize::QuantizeError;
pub use requantize::{Fallback, Outline};
pub use safetensors::FolderError;

use format::QUANTIZATION_VERSION;
use parts::{Bytes, Parts};
use write::WriteError;

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
    /// A part of a split file is missing or another's.
    #[error("model {path}: {problem}")]
    Split {
        /// The part.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder of safetensors that cannot be read as a model.
    #[error("model folder {path}: {error}")]
    Folder {
        /// The folder.
        path: String,
        /// What is wrong with it.
        #[source]
        error: FolderError,
    },
    /// The model cannot be written as GGUF.
    #[error("model {source_name} cannot be a GGUF file: {error}")]
    Write {
        /// The source as asked for.
        source_name: String,
        /// What is wrong with it.
        #[source]
        error: WriteError,
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
        error: QuantizeError,
    },
}

/// A model: its bytes, its index and its shape. Each has been checked.
pub struct Weights {
    source: String,
    parts: Parts,
    spec: ModelSpec,
    hash: OnceLock<String>,
}

impl Weights {
    /// Opens `builtin:pico`, a GGUF file (of a split one, the first part) or a folder of safetensors
    /// (or the `model.safetensors.index.json` in it). Files stay mapped into memory.
    ///
    /// A folder has the names, metadata and tensors that llama.cpp's `convert_hf_to_gguf.py` would
    /// give it; what differs from the files is made when it is asked for.
    ///
    /// # Errors
    ///
    /// If there is no such model, a file is damaged or missing, or the architecture, a tensor type
    /// or a setting is not supported.
    pub fn open(source: &str) -> Result<Self, WeightsError> {
        let refuse = |problem| Err(WeightsError::Source { source_name: source.to_owned(), problem });
        let path = Path::new(source);
        let parts = if source == "builtin:pico" {
            return Self::from_bytes(source, Bytes::Static(&PICO.0));
        } else if source.starts_with("builtin:") {
            return refuse("there is no such built-in model (there is builtin:pico)");
        } else if source.starts_with("hf:") {
            return refuse("it is on the hub; get it with `ruvlab download`, and name the path that it prints");
        } else if source.starts_with("synthetic:") {
            return refuse("it is not written yet; do that with `ruvlab download`, and name the path that it prints");
        } else if path.is_dir() {
            safetensors::open(path)?
        } else if source.ends_with(".safetensors.index.json") {
            safetensors::open(path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")))?
        } else if source.ends_with(".safetensors") {
            return refuse("a safetensors file has no settings of its own; name its folder, with config.json");
        } else {
            split::open(source)?
        };
        Self::from_parts(source, parts)
    }

    fn from_bytes(source: &str, bytes: Bytes) -> Result<Self, WeightsError> {
        let index = Index::parse(bytes.as_slice())
            .map_err(|error| WeightsError::Gguf { source_name: source.to_owned(), error })?;
        Self::from_parts(source, Parts { bytes: vec![Arc::new(bytes)], index })
    }

    fn from_parts(source: &str, parts: Parts) -> Result<Self, WeightsError> {
        let name = || source.to_owned();
        let values = |tensor: &str| {
            let info = parts.index.tensors.get(tensor).filter(|info| info.kind == TensorType::F32)?;
            Some(parts::widen(info.kind, &parts.tensor(info)).collect())
        };
        let spec = families::read(&parts.index, &values)
            .map_err(|error| WeightsError::Family { source_name: name(), error })?;
        Ok(Self { source: name(), parts, spec, hash: OnceLock::new() })
    }

    /// Returns the source it was opened by.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns metadata and tensors.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.parts.index
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
        self.parts.index.tensors.values().map(|info| info.values() as u64).sum()
    }

    /// Returns how many bytes all tensors take together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.parts.index.tensors.values().map(|info| info.bytes() as u64).sum()
    }

    /// Returns the type most weights of matrices are stored in.
    #[must_use]
    pub fn common_format(&self) -> TensorType {
        common(self.parts.index.tensors.values().map(|info| (info, info.kind)))
    }

    /// Returns the BLAKE3 of the bytes, in 64 hexadecimal digits; of a model in several files, one
    /// over all of them.
    #[must_use]
    pub fn content_hash(&self) -> &str {
        self.hash.get_or_init(|| self.parts.content_hash())
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        let missing = || WeightsError::NoTensor { source_name: self.source.clone(), tensor: name.to_owned() };
        self.parts.index.tensors.get(name).ok_or_else(missing)
    }

    /// Returns one tensor's bytes, in the type the index says; borrowed where they lie in a file as
    /// they are. They start on any boundary.
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name.
    pub fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        Ok(self.parts.tensor(self.info(name)?))
    }

    /// Returns the file, or bytes, that a tensor lies in as the index says, and where; none of one that
    /// is made from what is stored, or that there is not.
    #[must_use]
    pub fn stored(&self, name: &str) -> Option<(Part, Range<usize>)> {
        let info = self.parts.index.tensors.get(name).filter(|info| info.change.is_none())?;
        Some((Part(Arc::clone(&self.parts.bytes[info.part])), info.range.clone()))
    }

    /// Gives back the memory of a tensor that was read from a mapped file; what is read of it again is
    /// read from the file again. Without a map, or a tensor of that name, nothing happens.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.parts.index.tensors.get(name) {
            self.parts.bytes[info.part].release(info.range.clone());
        }
    }

    /// Returns a copy of one tensor, in the type it is stored in.
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<QTensor, WeightsError> {
        self.tensor_on(name, &Device::Cpu)
    }

    /// Returns a copy of one tensor on a device, in the type it is stored in.
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name, or the device has no room for it.
    pub fn tensor_on(&self, name: &str, device: &Device) -> Result<QTensor, WeightsError> {
        let info = self.info(name)?;
        let bytes = self.parts.tensor(info);
        let convert = |error: candle_core::Error| WeightsError::Convert {
            tensor: name.to_owned(),
            kind: info.kind,
            error: error.into(),
        };
        let storage = QStorage::from_data(aligned(bytes), device, info.kind.candle()).map_err(convert)?;
        QTensor::new(storage, info.shape.clone()).map_err(convert)
    }
}

/// Returns the bytes on a boundary that candle can read them from: safetensors promises none.
fn aligned(bytes: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    // The system's allocator aligns everything to 8 bytes at least.
    if bytes.as_ptr().addr().is_multiple_of(align_of::<f32>()) { bytes } else { Cow::Owned(bytes.to_vec()) }
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

#[cfg(test)]
mod tests;
