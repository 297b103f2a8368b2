//! Reading a file from its start, within limits.
use indexmap::IndexMap;

use super::{GgufError, TensorType, Value};

const MAX_NAME_BYTES: u64 = 1 << 12;
const MAX_STRING_BYTES: u64 = 1 << 26;
/// Elements of all lists together: several times the largest vocabulary with its merges.
const MAX_ELEMENTS: u64 = 1 << 22;
const MAX_DIMENSIONS: u32 = 4;

/// A place in a file's bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    /// Elements of lists so far.
    elements: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, elements: 0 }
    }

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

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn within(&self, what: &str, found: u64, lowest: u64, highest: u64) -> Result<usize, GgufError> {
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
                let left = MAX_ELEMENTS - self.elements;
                let count = self.within(&format!("the length of {key}"), count, 0, left)?;
                self.elements += count as u64;
                if element == 9 {
                    return Err(GgufError::ValueType { key: key.to_owned(), at: self.at, found: element });
                }
                // So the file bounds what is reserved.
                if count.saturating_mul(least_bytes(element)) > self.bytes.len() - self.at {
                    return Err(GgufError::Truncated { what: key.to_owned(), at: self.at });
                }
                let mut values = Vec::with_capacity(count);
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

    pub(super) fn metadata(&mut self, count: usize) -> Result<IndexMap<String, Value>, GgufError> {
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
    pub(super) fn tensor(&mut self) -> Result<(String, TensorType, Vec<usize>, u64, u64), GgufError> {
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

/// Returns how many bytes a value of this type takes at least; a text, its length.
fn least_bytes(kind: u32) -> usize {
    match kind {
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        _ => 1,
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
