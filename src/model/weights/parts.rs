//! A model's bytes: read-only parts, and which tensor lies where in them.
use std::{borrow::Cow, fs::File, io, ops::Range, sync::Arc};

use super::{Index, TensorInfo, TensorType};

/// Bytes that nobody writes to.
pub(super) enum Bytes {
    Mapped(memmap2::Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Drops the pages of a mapped file from memory; read again, they come from the file again.
    #[expect(unsafe_code, reason = "advice that drops pages is only safe for maps nobody writes to")]
    pub(super) fn release(&self, range: Range<usize>) {
        if let Self::Mapped(map) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is read-only and backed by a file, so a dropped page comes back as it was.
            let advised = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
            // Advice that is not taken costs memory and nothing else.
            drop(advised);
        }
    }

    /// Maps a file into memory.
    pub(super) fn map(path: &std::path::Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            // Nothing cannot be mapped.
            return Ok(Self::Owned(Vec::new()));
        }
        Ok(Self::Mapped(map(&file)?))
    }
}

/// One of a model's files, or of the pieces of memory that take their place.
#[derive(Clone)]
pub struct Part(pub(super) Arc<Bytes>);

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("bytes", &self.bytes().len()).finish()
    }
}

impl Part {
    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Gives back the memory of some of a mapped file; read again, it comes from the file again.
    pub fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

#[expect(unsafe_code, reason = "mapping a file is the only way to read gigabytes without copying them first")]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the map is only read. A file that another process shortens while it is mapped ends
    // this process with SIGBUS: model files are not written to while they are used.
    unsafe { memmap2::Mmap::map(file) }
}

/// How the values stored in a part become the tensor's. Only for types without blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// How they are stored in the part.
    pub(super) from: TensorType,
    /// Whether 1 is added to each (the tensor is f32 then).
    pub(super) plus_one: bool,
    /// Heads whose rows go from two halves to pairs: row `i` of the first half, row `i` of the
    /// second, and so on (llama.cpp's `LlamaModel.permute`).
    pub(super) interleaved_heads: Option<usize>,
}

impl Change {
    /// Returns rows of a tensor of this type and shape, made from what is stored.
    fn apply(self, stored: &[u8], info: &TensorInfo, rows: Range<usize>) -> Vec<u8> {
        let row_bytes = info.columns() * self.from.block_bytes();
        let mut bytes = Vec::with_capacity(rows.len() * info.row_bytes());
        for row in rows {
            let row = self.interleaved_heads.map_or(row, |heads| {
                let width = info.shape[0] / heads;
                let (head, i) = (row / width, row % width);
                head * width + i % 2 * (width / 2) + i / 2
            });
            let stored = &stored[row * row_bytes..(row + 1) * row_bytes];
            if self.from == info.kind && !self.plus_one {
                bytes.extend_from_slice(stored);
            } else {
                let plus = if self.plus_one { 1.0 } else { 0.0 };
                bytes.extend(widen(self.from, stored).flat_map(|value| (value + plus).to_le_bytes()));
            }
        }
        bytes
    }
}

/// Returns the values of a type without blocks; none for a type with blocks.
pub(super) fn widen(kind: TensorType, bytes: &[u8]) -> impl Iterator<Item = f32> {
    let size = if kind.block_values() == 1 { kind.block_bytes() } else { usize::MAX };
    bytes.chunks_exact(size).map(move |value| match (kind, value) {
        (TensorType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (TensorType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (_, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
        _ => f32::NAN,
    })
}

/// The parts of a model and their index. Every place in the index lies inside its part.
pub(super) struct Parts {
    pub(super) bytes: Vec<Arc<Bytes>>,
    pub(super) index: Index,
}

impl Parts {
    /// Returns a tensor's bytes: those of its part, or made from them.
    pub(super) fn tensor(&self, info: &TensorInfo) -> Cow<'_, [u8]> {
        self.rows(info, 0..info.shape[0])
    }

    /// Returns the bytes of some of a tensor's rows (values, if it has one dimension).
    ///
    /// # Panics
    ///
    /// If there are not so many, or rows are values inside one block.
    pub(super) fn rows(&self, info: &TensorInfo, rows: Range<usize>) -> Cow<'_, [u8]> {
        let stored = &self.bytes[info.part].as_slice()[info.range.clone()];
        match info.change {
            Some(change) => Cow::Owned(change.apply(stored, info, rows)),
            None if rows == (0..info.shape[0]) => Cow::Borrowed(stored),
            None => Cow::Borrowed(&stored[rows.start * info.row_bytes()..rows.end * info.row_bytes()]),
        }
    }

    /// Returns the BLAKE3 of the bytes, in 64 hexadecimal digits: of the only part, or of every
    /// part's length and hash in turn.
    pub(super) fn content_hash(&self) -> String {
        if let [only] = self.bytes.as_slice() {
            return blake3::hash(only.as_slice()).to_hex().to_string();
        }
        let mut all = blake3::Hasher::new();
        for part in &self.bytes {
            all.update(&(part.as_slice().len() as u64).to_le_bytes());
            all.update(blake3::hash(part.as_slice()).as_bytes());
        }
        all.finalize().to_hex().to_string()
    }
}
