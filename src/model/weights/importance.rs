//! Importance matrices: for each matrix, how much its inputs' squares were on some text. An error in
//! a column counts by that.
//!
//! Reads both formats of llama.cpp's `llama-imatrix` (`tools/imatrix`): GGUF files, with `NAME.in_sum2`
//! and `NAME.counts` for each matrix, and the older `.dat`. Any bytes give a matrix or an error.
use std::collections::BTreeMap;

use super::{GgufError, Index, TensorType, Value, parts::widen};

const MAX_ENTRIES: usize = 1 << 17;
const MAX_NAME_BYTES: usize = 1 << 12;

/// Why a file is no importance matrix that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportanceError {
    /// A damaged GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A GGUF file of another kind.
    #[error("the file is no importance matrix: general.type is {0:?}, not \"imatrix\"")]
    Kind(String),
    /// A damaged file of the older format, or none at all.
    #[error("the file ends inside {what} at byte {at}, or is no importance matrix (GGUF or .dat of llama-imatrix)")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A number beyond reason.
    #[error("{what} is {found} before byte {at}: this is no importance matrix (GGUF or .dat of llama-imatrix)")]
    OutOfRange {
        /// What was being read.
        what: &'static str,
        /// The number.
        found: i32,
        /// Where it ends.
        at: usize,
    },
    /// An entry that makes no sense.
    #[error("the entry of {tensor:?} {problem}")]
    Entry {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The weights of columns, by tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// Mean squares of each matrix's inputs, one a column.
    columns: BTreeMap<String, Vec<f32>>,
    /// The texts it was computed on, as the file says.
    pub datasets: Vec<String>,
    /// Pieces of text it was computed on, as the file says.
    pub chunks: Option<u64>,
}

impl Importance {
    /// The most bytes a file may have: with four for each column of each matrix, llama's 405B takes 100 MB.
    pub const MAX_BYTES: u64 = 1 << 28;

    /// Reads an importance matrix.
    ///
    /// # Errors
    ///
    /// If the bytes are none, or hold what is no number, or less than 0.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImportanceError> {
        let mut read = if bytes.starts_with(b"GGUF") { gguf(bytes)? } else { dat(bytes)? };
        for (tensor, columns) in &read.columns {
            if !columns.iter().all(|value| *value >= 0.0 && value.is_finite()) {
                return Err(ImportanceError::Entry {
                    tensor: tensor.clone(),
                    problem: "holds what is no number of 0 or more",
                });
            }
        }
        // Where nothing was seen nothing is known.
        read.columns.retain(|_, columns| columns.iter().any(|value| *value > 0.0));
        // An input that was never seen must not make its column worthless: scales are shared.
        for columns in read.columns.values_mut() {
            let mean = columns.iter().map(|value| f64::from(*value)).sum::<f64>() / columns.len() as f64;
            let floor = (mean * 1e-6) as f32;
            columns.iter_mut().for_each(|value| *value = value.max(floor));
        }
        Ok(read)
    }

    /// Returns the weights of a tensor's columns, if there are any.
    #[must_use]
    pub fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.columns.get(tensor).map(Vec::as_slice)
    }

    /// Returns how many tensors it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Returns whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

fn gguf(bytes: &[u8]) -> Result<Importance, ImportanceError> {
    let index = Index::parse(bytes)?;
    let kind = index.metadata.get("general.type").and_then(Value::as_str).unwrap_or_default();
    if kind != "imatrix" {
        return Err(ImportanceError::Kind(kind.to_owned()));
    }
    let mut read = Importance::default();
    if let Some(datasets) = index.metadata.get("imatrix.datasets").and_then(Value::as_list) {
        read.datasets = datasets.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    read.chunks = index.metadata.get("imatrix.chunk_count").and_then(Value::as_u64);
    for (name, sums) in &index.tensors {
        let Some(tensor) = name.strip_suffix(".in_sum2") else { continue };
        let wrong = |problem| ImportanceError::Entry { tensor: tensor.to_owned(), problem };
        let counts = index.tensors.get(&format!("{tensor}.counts")).ok_or_else(|| wrong("has no counts"))?;
        if sums.kind != TensorType::F32 || counts.kind != TensorType::F32 {
            return Err(wrong("is not stored as f32"));
        }
        if counts.values() != 1 {
            return Err(wrong("is of several experts: not supported"));
        }
        let count = widen(TensorType::F32, &bytes[counts.range.clone()]).next().unwrap_or_default();
        let sums = widen(TensorType::F32, &bytes[sums.range.clone()]);
        let columns = sums.map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect();
        read.columns.insert(tensor.to_owned(), columns);
    }
    Ok(read)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], ImportanceError> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(ImportanceError::Truncated { what, at: self.at })?;
        self.at += count;
        Ok(taken)
    }

    fn number(&mut self, what: &'static str) -> Result<i32, ImportanceError> {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4, what)?);
        Ok(i32::from_le_bytes(number))
    }

    fn count(&mut self, what: &'static str, lowest: usize, highest: usize) -> Result<usize, ImportanceError> {
        let found = self.number(what)?;
        let fits = usize::try_from(found).ok().filter(|found| (lowest..=highest).contains(found));
        fits.ok_or(ImportanceError::OutOfRange { what, found, at: self.at })
    }

    fn text(&mut self, length: usize, what: &'static str) -> Result<String, ImportanceError> {
        Ok(String::from_utf8_lossy(self.take(length, what)?).into_owned())
    }
}

/// Entries of name, calls and sums, then the number of pieces and the text's name.
fn dat(bytes: &[u8]) -> Result<Importance, ImportanceError> {
    let mut reader = Reader { bytes, at: 0 };
    let mut read = Importance::default();
    for _ in 0..reader.count("the number of entries", 1, MAX_ENTRIES)? {
        let length = reader.count("the length of a name", 1, MAX_NAME_BYTES)?;
        let tensor = reader.text(length, "a name")?;
        let calls = reader.number("the number of calls")?;
        let count = reader.count("the number of values", 1, bytes.len() / 4)?;
        let sums = widen(TensorType::F32, reader.take(count * 4, "values")?);
        let columns = sums.map(|sum| if calls > 0 { sum / calls as f32 } else { sum }).collect();
        if read.columns.insert(tensor.clone(), columns).is_some() {
            return Err(ImportanceError::Entry { tensor, problem: "is there twice" });
        }
    }
    // The oldest files end here.
    if reader.at < bytes.len() {
        read.chunks = u64::try_from(reader.number("the number of pieces")?).ok();
        if reader.at < bytes.len() {
            let length = reader.count("the length of the text's name", 0, MAX_NAME_BYTES)?;
            read.datasets = vec![reader.text(length, "the text's name")?];
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::write::{Layout, Planned, WriteError};

    fn dat_file() -> Vec<u8> {
        let mut file = 2i32.to_le_bytes().to_vec();
        for (name, calls, values) in [("blk.0.attn_q.weight", 4i32, [4.0f32, 8.0, 0.0]), ("unseen", 0, [0.0; 3])] {
            file.extend((name.len() as i32).to_le_bytes());
            file.extend(name.as_bytes());
            file.extend(calls.to_le_bytes());
            file.extend(3i32.to_le_bytes());
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        file.extend(7i32.to_le_bytes());
        file.extend(4i32.to_le_bytes());
        file.extend(b"text");
        file
    }

    fn gguf_file(kind: &str, values: [f32; 3]) -> Vec<u8> {
        let metadata = [
            ("general.type", Value::Text(kind.to_owned())),
            ("imatrix.datasets", Value::List(vec![Value::Text("text".to_owned())])),
            ("imatrix.chunk_count", Value::Unsigned(7)),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        let planned = |name: &str, shape: &[usize]| Planned {
            name: name.to_owned(),
            kind: TensorType::F32,
            shape: shape.to_vec(),
        };
        let tensors =
            vec![planned("blk.0.attn_q.weight.in_sum2", &[1, 3]), planned("blk.0.attn_q.weight.counts", &[1, 1])];
        let mut file = Vec::new();
        let fill = |tensor: &Planned, sink: &mut super::super::write::TensorSink<'_>| -> Result<(), WriteError> {
            let values = if tensor.name.ends_with("counts") { &[4.0][..] } else { &values };
            values.iter().try_for_each(|value: &f32| sink.push(&value.to_le_bytes()))
        };
        Layout::new(&metadata, tensors).unwrap().write(&mut file, fill).unwrap();
        file
    }

    #[test]
    fn both_formats_say_the_same() {
        let read = Importance::parse(&dat_file()).unwrap();
        assert_eq!(read, Importance::parse(&gguf_file("imatrix", [4.0, 8.0, 0.0])).unwrap());
        assert_eq!((read.len(), read.chunks, read.datasets.as_slice()), (1, Some(7), &["text".to_owned()][..]));
        let columns = read.of("blk.0.attn_q.weight").unwrap();
        assert_eq!(columns[..2], [1.0, 2.0]);
        assert!(columns[2] > 0.0 && columns[2] < 1e-5);
        assert!(read.of("unseen").is_none());
        let largest = Importance::parse(&gguf_file("imatrix", [f32::MAX; 3])).unwrap();
        assert!(largest.of("blk.0.attn_q.weight").unwrap().iter().all(|value| value.is_finite()));
    }

    #[test]
    fn what_is_no_importance_matrix_is_refused() {
        let file = dat_file();
        // Without what follows the entries, it is a file of the oldest format.
        let entries = file.len() - 12;
        for end in (0..file.len()).filter(|end| *end != entries && *end != entries + 4) {
            assert!(Importance::parse(&file[..end]).is_err(), "{end}");
        }
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Importance::parse(&flipped) {
                assert!(read.columns.values().flatten().all(|value| value.is_finite()));
            }
        }
        assert!(matches!(Importance::parse(b"PK\x03\x04 and so on"), Err(ImportanceError::OutOfRange { .. })));
        assert!(matches!(Importance::parse(&gguf_file("model", [1.0; 3])), Err(ImportanceError::Kind(_))));
        for value in [f32::NAN, -1.0, f32::INFINITY] {
            let file = gguf_file("imatrix", [1.0, value, 1.0]);
            assert!(matches!(Importance::parse(&file), Err(ImportanceError::Entry { .. })), "{value}");
        }
    }
}
