//! Weight matrices as the kernels read them.
pub(crate) mod layout;
mod pack;
#[cfg(test)]
mod tests;

use std::{
    iter::Zip,
    ops::Range,
    slice::{Chunks, ChunksExactMut},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    activations::ActivationClass,
    arena::{Arena, ArenaError, Block},
    format::Format,
    pool::Pool,
    quant::dequantize_row,
};
use layout::{Layout, ROWS};

/// Why bytes cannot be packed as a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The columns are no whole number of the format's blocks, or the sizes overflow.
    Shape {
        /// The format.
        format: Format,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        columns: usize,
    },
    /// There are more or fewer bytes than the shape takes.
    Length {
        /// The format.
        format: Format,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        columns: usize,
        /// What the shape takes.
        expected_bytes: usize,
        /// What there is.
        found_bytes: usize,
    },
    /// No room in the arena.
    Arena(ArenaError),
}

impl std::fmt::Display for PackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shape { format, rows, columns } => write!(
                f,
                "a {rows} x {columns} matrix cannot be {format}: rows are whole blocks of {} (use another format)",
                format.block_values()
            ),
            Self::Length { format, rows, columns, expected_bytes, found_bytes } => write!(
                f,
                "a {rows} x {columns} matrix in {format} takes {expected_bytes} bytes, not {found_bytes} (is the file cut off?)"
            ),
            Self::Arena(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PackError {}

impl From<ArenaError> for PackError {
    fn from(error: ArenaError) -> Self {
        Self::Arena(error)
    }
}

/// A weight matrix W of `rows` outputs and `columns` inputs, eight rows interleaved.
///
/// It keeps the arena it lies in alive. The last group of eight is filled up with zero rows. A *mapped*
/// one lies row by row in memory it shares, a file's for instance, and is interleaved again for every
/// product: it takes no memory of its own, and is as slow as that is.
#[derive(Debug)]
pub struct Matrix {
    format: Format,
    rows: usize,
    columns: usize,
    storage: Storage,
}

/// Where a matrix lies.
#[derive(Debug)]
enum Storage {
    Packed(Block),
    Mapped { source: Arc<dyn RowBytes>, range: Range<usize> },
}

/// Bytes that matrices can be used from where they lie.
pub trait RowBytes: std::fmt::Debug + Send + Sync {
    /// Returns all of them; always the same ones.
    fn bytes(&self) -> &[u8];

    /// Gives back the memory of some until they are read again, where that is possible.
    fn release(&self, range: Range<usize>);
}

impl Matrix {
    /// Returns how much of an arena a matrix takes, or nothing where it cannot be packed.
    #[must_use]
    pub fn packed_bytes(format: Format, rows: usize, columns: usize) -> Option<usize> {
        Self::group_bytes(format, rows, columns).map(Arena::footprint)
    }

    fn group_bytes(format: Format, rows: usize, columns: usize) -> Option<usize> {
        format.row_bytes(columns)?;
        let blocks = columns / format.block_values();
        let bytes = blocks.checked_mul(Layout::of(format).block)?.checked_mul(rows.div_ceil(ROWS))?;
        (bytes <= isize::MAX as usize / 2).then_some(bytes)
    }

    /// Returns the matrix of `rows` rows of `columns` numbers that `bytes` hold, row by row as in a
    /// GGUF file.
    ///
    /// # Errors
    ///
    /// If the columns are no whole number of blocks, the bytes are not those of the shape, or the
    /// arena is full.
    pub fn pack(
        arena: &mut Arena,
        format: Format,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        Self::filled(arena, format, rows, columns, bytes, |groups| {
            groups.for_each(|(from, to)| pack::pack_group(format, from, to));
        })
    }

    /// Returns the matrix that some bytes of `source` hold, used where it lies.
    ///
    /// # Errors
    ///
    /// As [`Matrix::pack`], but for the arena; bytes beyond the end of `source` are none.
    pub fn mapped(
        source: Arc<dyn RowBytes>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        columns: usize,
    ) -> Result<Self, PackError> {
        let found_bytes = source.bytes().get(range.clone()).map_or(0, <[u8]>::len);
        Self::check(format, rows, columns, found_bytes)?;
        Ok(Self { format, rows, columns, storage: Storage::Mapped { source, range } })
    }

    /// Checks that a matrix of this shape takes so many bytes, and returns how many it takes packed.
    fn check(format: Format, rows: usize, columns: usize, found_bytes: usize) -> Result<usize, PackError> {
        let shape = || PackError::Shape { format, rows, columns };
        let row_bytes = format.row_bytes(columns).filter(|_| columns > 0).ok_or_else(shape)?;
        let packed_bytes = Self::group_bytes(format, rows, columns).ok_or_else(shape)?;
        let expected_bytes = row_bytes.checked_mul(rows).ok_or_else(shape)?;
        if found_bytes != expected_bytes {
            return Err(PackError::Length { format, rows, columns, expected_bytes, found_bytes });
        }
        Ok(packed_bytes)
    }

    /// Returns what [`Matrix::pack`] does, packed by all threads of a pool.
    ///
    /// # Errors
    ///
    /// As [`Matrix::pack`].
    pub fn pack_on(
        pool: &Pool,
        arena: &mut Arena,
        format: Format,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        Self::filled(arena, format, rows, columns, bytes, |groups| {
            let groups = Mutex::new(groups);
            let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
            pool.run(&|_| {
                while let Some((from, to)) = next() {
                    pack::pack_group(format, from, to);
                }
            });
        })
    }

    fn filled<'a>(
        arena: &mut Arena,
        format: Format,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
        fill: impl FnOnce(Zip<Chunks<'a, u8>, ChunksExactMut<'_, u8>>),
    ) -> Result<Self, PackError> {
        let packed_bytes = Self::check(format, rows, columns, bytes.len())?;
        let row_bytes = bytes.len() / rows.max(1);
        let mut block = arena.allocate(packed_bytes)?;
        let group = Layout::of(format).group(columns);
        fill(bytes.chunks((row_bytes * ROWS).max(1)).zip(block.as_mut_slice().chunks_exact_mut(group)));
        Ok(Self { format, rows, columns, storage: Storage::Packed(block) })
    }

    /// Returns how the numbers are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the number of rows: outputs of a product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns: inputs of a product.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns how many bytes a product with this matrix reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Packed(block) => block.as_slice().len(),
            Storage::Mapped { range, .. } => range.len(),
        }
    }

    /// Returns how many bytes a product with so many rows of it reads.
    #[must_use]
    pub fn bytes_of(&self, rows: usize) -> usize {
        Layout::of(self.format).group(self.columns) * rows.div_ceil(ROWS)
    }

    /// Returns the class of activations this matrix is multiplied with.
    #[must_use]
    pub fn activation_class(&self) -> ActivationClass {
        ActivationClass::of(self.format)
    }

    /// Writes row `index` into `out`, exactly as [`dequantize_row`] of its bytes in the file.
    ///
    /// # Panics
    ///
    /// If there is no such row, or `out` is not as long as a row.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        assert_eq!(out.len(), self.columns, "a row has {} columns", self.columns);
        let layout = Layout::of(self.format);
        let Some(group) = self.groups(index / ROWS..index / ROWS + 1) else {
            return dequantize_row(self.format, self.row_bytes(index..index + 1), out);
        };
        let mut block = [0; 256];
        let block = &mut block[..self.format.block_bytes()];
        for (from, out) in group.chunks_exact(layout.block).zip(out.chunks_exact_mut(layout.values)) {
            pack::unpack_block(self.format, from, index % ROWS, block);
            dequantize_row(self.format, block, out);
        }
    }

    /// Returns the rows that worker `worker` of `workers` takes when all take the same number of
    /// groups of eight: static shares, as decoding wants them.
    ///
    /// # Panics
    ///
    /// If there is no such worker.
    #[must_use]
    pub fn share(&self, worker: usize, workers: usize) -> Range<usize> {
        assert!(worker < workers, "worker {worker} of {workers}");
        let groups = self.rows.div_ceil(ROWS);
        let at = |worker: usize| (groups * worker / workers * ROWS).min(self.rows);
        at(worker)..at(worker + 1)
    }

    /// Gives back the memory of a mapped matrix until it is used again; of others, nothing.
    pub fn release(&self) {
        if let Storage::Mapped { source, range } = &self.storage {
            source.release(range.clone());
        }
    }

    /// Returns the bytes of some groups of eight rows; none of a mapped matrix.
    pub(crate) fn groups(&self, groups: Range<usize>) -> Option<&[u8]> {
        let Storage::Packed(block) = &self.storage else { return None };
        let size = Layout::of(self.format).group(self.columns);
        Some(&block.as_slice()[groups.start * size..groups.end * size])
    }

    /// Writes some groups of eight rows of a mapped matrix as [`Matrix::pack`] would have.
    pub(crate) fn pack_groups(&self, groups: Range<usize>, to: &mut Vec<u8>) {
        let size = Layout::of(self.format).group(self.columns);
        to.clear();
        to.resize(groups.len() * size, 0);
        for (group, to) in groups.zip(to.chunks_exact_mut(size)) {
            let rows = group * ROWS..((group + 1) * ROWS).min(self.rows);
            pack::pack_group(self.format, self.row_bytes(rows), to);
        }
    }

    /// Returns some rows of a mapped matrix as they lie; none of others.
    pub(crate) fn row_bytes(&self, rows: Range<usize>) -> &[u8] {
        let Storage::Mapped { source, range } = &self.storage else { return &[] };
        let size = range.len() / self.rows;
        &source.bytes()[range.start + rows.start * size..range.start + rows.end * size]
    }
}
