//! The header of a safetensors file: what lies where (<https://github.com/huggingface/safetensors>).
//!
//! Any bytes give a header or an error, never a panic or an allocation larger than the file
//! warrants. As the format's own reader does, tensors must fill the file without gap or overlap.
use std::{collections::HashSet, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_TENSORS: usize = 1 << 17;
const MAX_NAME_BYTES: usize = 1 << 12;
const MAX_DIMENSIONS: usize = 4;

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The type's name (`BF16`).
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Entries in the file's order; a map would keep the last of two with one name.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Returns how many bytes a value of a type takes; none for types of less than a byte, and unknown
/// ones.
fn value_bytes(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" | "C64" => 8,
        _ => return None,
    })
}

/// Returns the tensors of a file, in the header's order.
pub(super) fn parse(file: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err("it is shorter than the 8 bytes every safetensors file begins with".to_owned());
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header would have {length} bytes, {MAX_HEADER_BYTES} at most are possible"));
    }
    // At most MAX_HEADER_BYTES.
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(format!("it ends inside its header of {length} bytes; is the download complete?"));
    };
    let Entries(entries) =
        serde_json::from_slice(header).map_err(|error| format!("its header is no map of tensors: {error}"))?;
    let data_start = file.len() - data.len();
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape, data_offsets: (start, end) }) in entries {
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("a tensor's name has {} bytes, {MAX_NAME_BYTES} at most are possible", name.len()));
        }
        if !names.insert(name.clone()) {
            return Err(format!("tensor {name:?} is there twice"));
        }
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!(
                "tensor {name:?} has {} dimensions, {MAX_DIMENSIONS} at most are possible",
                shape.len()
            ));
        }
        if start > end || end > data.len() as u64 {
            return Err(format!(
                "tensor {name:?} lies at {start}..{end} of {} bytes; is the download complete?",
                data.len()
            ));
        }
        let values = shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length));
        if let Some(size) = value_bytes(&dtype)
            && values.and_then(|values| values.checked_mul(size)) != Some(end - start)
        {
            return Err(format!(
                "tensor {name:?} of shape {shape:?} and type {dtype} cannot take {} bytes",
                end - start
            ));
        }
        let lengths = shape.iter().map(|length| usize::try_from(*length)).collect::<Result<Vec<_>, _>>();
        let shape = lengths.map_err(|_too_large| format!("tensor {name:?} of shape {shape:?} is too large"))?;
        // Both are at most the length of a slice.
        let range = data_start + start as usize..data_start + end as usize;
        tensors.push((name, Stored { dtype, shape, range }));
    }
    let mut places: Vec<(&Range<usize>, &str)> =
        tensors.iter().map(|(name, stored)| (&stored.range, name.as_str())).collect();
    places.sort_by_key(|(range, _)| (range.start, range.end));
    let mut next = data_start;
    for (range, name) in places {
        if range.start != next {
            return Err(format!("tensor {name:?} begins at byte {} where {next} was expected", range.start));
        }
        next = range.end;
    }
    if next != file.len() {
        return Err(format!("{} bytes at its end belong to no tensor", file.len() - next));
    }
    Ok(tensors)
}
