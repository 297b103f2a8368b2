//! The GGUF container, versions 2 and 3, little-endian (ggml's `docs/gguf.md`).
//!
//! Reads the index only; tensors stay where they are. Any bytes give an index or an error, never a
//! panic or an allocation larger than the file warrants.
mod error;
mod reader;
mod value;

use std::ops::Range;

use indexmap::IndexMap;

use super::{format::TensorType, parts::Change};
use reader::Reader;

pub use error::GgufError;
pub use value::Value;

const MAX_METADATA: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 17;
const MAX_ALIGNMENT: u64 = 1 << 16;
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// Where a tensor is and what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How it is stored.
    pub kind: TensorType,
    /// Its shape, rows first: a matrix is `[rows, columns]`. (Files list it the other way round.)
    pub shape: Vec<usize>,
    /// Which part of the model's bytes it lies in.
    pub part: usize,
    /// Its bytes in that part.
    pub range: Range<usize>,
    /// What is done to those bytes when they are asked for.
    pub(super) change: Option<Change>,
}

impl TensorInfo {
    /// Returns how many values it has.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns how many bytes its values take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes_as(self.kind)
    }

    /// Returns how many bytes its values take in a type, whose blocks its rows must fill.
    pub(super) fn bytes_as(&self, kind: TensorType) -> usize {
        self.values() / kind.block_values() * kind.block_bytes()
    }

    /// Returns how many values a row has: 1 where there is one dimension only.
    pub(super) fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.columns() / self.kind.block_values() * self.kind.block_bytes()
    }
}

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Version of the container.
    pub version: u32,
    /// Metadata, in the file's order.
    pub metadata: IndexMap<String, Value>,
    /// Tensors, in the file's order.
    pub tensors: IndexMap<String, TensorInfo>,
    /// What tensor offsets are multiples of.
    pub(super) alignment: usize,
}

impl Index {
    /// Returns an index of tensors that are nowhere, to read shapes from.
    #[cfg(test)]
    pub(crate) fn described(metadata: IndexMap<String, Value>, tensors: &[(String, Vec<usize>)]) -> Self {
        let info = |shape: &Vec<usize>| TensorInfo {
            kind: TensorType::F32,
            shape: shape.clone(),
            part: 0,
            range: 0..0,
            change: None,
        };
        let tensors = tensors.iter().map(|(name, shape)| (name.clone(), info(shape))).collect();
        Self { version: 3, metadata, tensors, alignment: 32 }
    }

    /// Reads the index of a GGUF file.
    ///
    /// # Errors
    ///
    /// Says what is wrong and where. Every offset it returns lies inside the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::Magic { found: bytes[..bytes.len().min(4)].to_vec() });
        }
        reader.at = 4;
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let tensor_count = reader.within("the number of tensors", tensor_count, 0, MAX_TENSORS)?;
        let metadata_count = reader.u64("the number of metadata entries")?;
        let metadata_count = reader.within("the number of metadata entries", metadata_count, 0, MAX_METADATA)?;
        let metadata = reader.metadata(metadata_count)?;
        let alignment = match metadata.get("general.alignment") {
            Some(value) => value.as_u64().unwrap_or(0),
            None => DEFAULT_ALIGNMENT,
        };
        // Less than 8 would let a block straddle what its type must be aligned to.
        reader.within("general.alignment", alignment, 8, MAX_ALIGNMENT)?;
        if !alignment.is_power_of_two() {
            let (what, at) = ("general.alignment (a power of two)".to_owned(), reader.at);
            return Err(GgufError::OutOfRange { what, at, found: alignment, lowest: 8, highest: MAX_ALIGNMENT });
        }
        let entries = (0..tensor_count).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        let mut tensors = IndexMap::with_capacity(entries.len());
        for (name, kind, shape, offset, length) in entries {
            if offset % alignment != 0 {
                return Err(GgufError::Misaligned { name, offset, alignment });
            }
            let start = data_start.checked_add(offset);
            let end = start.and_then(|start| start.checked_add(length)).filter(|end| *end <= bytes.len() as u64);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(GgufError::Outside { name, size: bytes.len() });
            };
            // Both are at most the length of a slice.
            let range = start as usize..end as usize;
            if tensors.contains_key(&name) {
                return Err(GgufError::Twice { what: format!("tensor {name:?}") });
            }
            tensors.insert(name, TensorInfo { kind, shape, part: 0, range, change: None });
        }
        refuse_overlap(&tensors)?;
        Ok(Self { version, metadata, tensors, alignment: alignment as usize })
    }
}

/// Refuses tensors that share bytes: a small file could otherwise stand for any amount of weights.
fn refuse_overlap(tensors: &IndexMap<String, TensorInfo>) -> Result<(), GgufError> {
    let mut ranges: Vec<(&Range<usize>, &String)> = tensors.iter().map(|(name, info)| (&info.range, name)).collect();
    ranges.sort_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        Some(pair) => Err(GgufError::Overlap { first: pair[0].1.clone(), second: pair[1].1.clone() }),
        None => Ok(()),
    }
}
