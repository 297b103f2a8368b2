//! What the machine can do, so that a kernel's speed can be given as a fraction of it.
use std::ops::Range;

use crate::{
    dispatch::Kernels,
    matrix::{Matrix, layout::ROWS},
};

/// Multiply-adds of one lane in a round of [`Kernels::multiply_adds`].
pub const MULTIPLY_ADDS_A_ROUND: usize = 12 * 8;

impl Kernels {
    /// Returns a checksum of the bytes of some rows: reads them as a product with few tokens does,
    /// in far streams, and does nothing else.
    ///
    /// Bytes of the rows' groups over the time this takes is the bandwidth that products are bound by.
    ///
    /// # Panics
    ///
    /// If the rows are not in the matrix or start inside a group of eight.
    #[must_use]
    pub fn read(&self, matrix: &Matrix, rows: Range<usize>) -> u64 {
        assert!(rows.end <= matrix.rows() && rows.start.is_multiple_of(ROWS), "rows {rows:?} of {}", matrix.rows());
        (self.read)(matrix.groups(rows.start / ROWS..rows.end.div_ceil(ROWS)).unwrap_or_else(|| matrix.row_bytes(rows)))
    }

    /// Does `rounds` times [`MULTIPLY_ADDS_A_ROUND`] f32 multiply-adds in twelve independent chains of
    /// eight lanes, out of registers, and returns a number that depends on all of them.
    #[must_use]
    pub fn multiply_adds(&self, rounds: usize) -> f32 {
        (self.multiply_adds)(rounds)
    }
}
