//! The GGUF container, versions 2 and 3, little-endian (ggml's `docs/gguf.md`).
//!
//! Reads the index only; tensors stay where they are. Any bytes give an index or an error, never a
//! panic or an allocation larger than the file warrants.
use std::ops::Range;

use indexmap::IndexMap;

use super::{format::TensorType, parts::Change};

const MAX_METADATA: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 17;
const MAX_NAME_BYTES: u64 = 1 << 12;
const MAX_STRING_BYTES: u64 = 1 << 26;
const MAX_LIST: u64 = 1 << 22;
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 16;
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value; integers and floats of all widths in the widest.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// bool.
    Bool(bool),
    /// string.
    Text(String),
    /// array; never of arrays.
    List(Vec<Value>),
}

impl Value {
    /// Returns the number, if it is an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// Returns the number, if it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// Returns the truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// Returns the text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the list, if it is one.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Self::List(values) = self { Some(values) } else { None }
    }
}

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

/// Why bytes are no GGUF file that can be used. Places are bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Another kind of file.
    #[error("not a GGUF file: the first bytes are {found:02x?}, not \"GGUF\"")]
    Magic {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// A version of the container that is not known.
    #[error("GGUF version {0} is not supported; versions 2 and 3 are (a huge number means a big-endian file)")]
    Version(u32),
    /// The file is shorter than it says.
    #[error("the file ends inside {what} at byte {at}; is the download complete?")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where.
        at: usize,
    },
    /// A number beyond reason.
    #[error("{what} before byte {at} is {found}, outside {lowest} to {highest}")]
    OutOfRange {
        /// What was being read.
        what: String,
        /// Where the number ends.
        at: usize,
        /// What was found.
        found: u64,
        /// The least allowed.
        lowest: u64,
        /// The most allowed.
        highest: u64,
    },
    /// Text that is not text.
    #[error("{what} before byte {at} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: String,
        /// Where it ends.
        at: usize,
    },
    /// A type of metadata value that is not known, or a list of lists.
    #[error("metadata {key:?} before byte {at} has value type {found}, which is not supported here")]
    ValueType {
        /// Its key.
        key: String,
        /// Where the type's number ends.
        at: usize,
        /// The type's number.
        found: u32,
    },
    /// A name given twice.
    #[error("{what} is there twice")]
    Twice {
        /// Whose name.
        what: String,
    },
    /// A type of tensor that is not known.
    #[error("tensor {name:?} is stored as {found}, which is not supported (supported: {})",
        TensorType::all().map(TensorType::name).collect::<Vec<_>>().join(" "))]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A row that does not consist of whole blocks, or a size that overflows.
    #[error("tensor {name:?} of shape {shape:?} cannot be stored as {kind}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        shape: Vec<u64>,
        /// Its type.
        kind: TensorType,
    },
    /// An offset that is not a multiple of the alignment.
    #[error("tensor {name:?} starts at offset {offset}, not a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor beyond the end.
    #[error("tensor {name:?} ends beyond the file's {size} bytes; is the download complete?")]
    Outside {
        /// The tensor.
        name: String,
        /// The file's size.
        size: usize,
    },
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| GgufError::Truncated { what: what.to_owned(), at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn within(&self, what: &str, found: u64, lowest: u64, highest: u64) -> Result<usize, GgufError> {
        let fits = usize::try_from(found).ok().filter(|_| (lowest..=highest).contains(&found));
        fits.ok_or_else(|| GgufError::OutOfRange { what: what.to_owned(), at: self.at, found, lowest, highest })
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        let length = self.within(&format!("the length of {what}"), length, 0, limit)?;
        let bytes = self.take(length, what)?;
        let text = str::from_utf8(bytes).ok().map(str::to_owned);
        text.ok_or_else(|| GgufError::NotUtf8 { what: what.to_owned(), at: self.at })
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(self.u32(key)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Value::Bool(self.array::<1>(key)? != [0]),
            8 => Value::Text(self.text(key, MAX_STRING_BYTES)?),
            9 => {
                let element = self.u32(key)?;
                let count = self.u64(key)?;
                let count = self.within(&format!("the length of {key}"), count, 0, MAX_LIST)?;
                if element == 9 {
                    return Err(GgufError::ValueType { key: key.to_owned(), at: self.at, found: element });
                }
                // Every element takes at least a byte, so the file bounds what is reserved.
                let mut values = Vec::with_capacity(count.min(self.bytes.len() - self.at));
                for _ in 0..count {
                    values.push(self.value(key, element)?);
                }
                Value::List(values)
            }
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            found => return Err(GgufError::ValueType { key: key.to_owned(), at: self.at, found }),
        })
    }

    fn metadata(&mut self, count: usize) -> Result<IndexMap<String, Value>, GgufError> {
        let mut metadata = IndexMap::new();
        for _ in 0..count {
            let key = self.text("a metadata key", MAX_NAME_BYTES)?;
            let kind = self.u32(&key)?;
            let value = self.value(&key, kind)?;
            if metadata.contains_key(&key) {
                return Err(GgufError::Twice { what: format!("metadata key {key:?}") });
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    /// Reads one tensor's entry: name, type, shape (rows first), offset, and how many bytes it has.
    fn tensor(&mut self) -> Result<(String, TensorType, Vec<usize>, u64, u64), GgufError> {
        let name = self.text("a tensor's name", MAX_NAME_BYTES)?;
        let dimensions = self.u32(&name)?;
        self.within(&format!("the number of dimensions of {name}"), dimensions.into(), 1, MAX_DIMENSIONS.into())?;
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = self.u64(&name)?;
            self.within(&format!("a dimension of {name}"), length, 1, u64::MAX)?;
            shape.insert(0, length);
        }
        let kind = self.u32(&name)?;
        let kind = TensorType::from_id(kind).map_err(|found| GgufError::TensorType { name: name.clone(), found })?;
        let offset = self.u64(&name)?;
        let sizes = sizes(&shape, kind);
        let (shape, bytes) = sizes.ok_or(GgufError::Shape { name: name.clone(), shape, kind })?;
        Ok((name, kind, shape, offset, bytes))
    }
}

/// Returns the shape in memory's integers and the bytes it takes, if rows are whole blocks and
/// nothing overflows.
fn sizes(shape: &[u64], kind: TensorType) -> Option<(Vec<usize>, u64)> {
    let values = shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length))?;
    let block = kind.block_values() as u64;
    let row = shape.last().copied().filter(|row| row % block == 0)?;
    let bytes = (values / row).checked_mul(row / block)?.checked_mul(kind.block_bytes() as u64)?;
    let shape = shape.iter().map(|length| usize::try_from(*length)).collect::<Result<Vec<_>, _>>().ok()?;
    Some((shape, bytes))
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
        let mut reader = Reader { bytes, at: 0 };
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
        Ok(Self { version, metadata, tensors, alignment: alignment as usize })
    }
}
