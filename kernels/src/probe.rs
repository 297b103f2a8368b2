//! What the machine can do, so that a kernel's speed can be given as a fraction of it.
use std::ops::Range;

use crate::{
    dispatch::Kernels,
    matrix::{Matrix, layout::ROWS},
};

/// Multiply-adds in a round of [`Kernels::multiply_adds`] and [`Kernels::multiply_add_pairs`].
pub const MULTIPLY_ADDS_A_ROUND: usize = 12 * 8;

/// The most rounds a tier does at once.
pub const ROUNDS_AT_ONCE: usize = 4;

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
        (self.read)(matrix.groups(rows.start / ROWS..rows.end.div_ceil(ROWS)))
    }

    /// Does `rounds` times [`MULTIPLY_ADDS_A_ROUND`] f32 multiply-adds, out of registers and in more
    /// independent chains than one takes steps, and returns a number that depends on all of them.
    ///
    /// The tier's widest registers may do some rounds at once; those that are left are then left out,
    /// fewer than [`ROUNDS_AT_ONCE`].
    #[must_use]
    pub fn multiply_adds(&self, rounds: usize) -> f32 {
        (self.multiply_adds)(rounds)
    }

    /// Does what [`multiply_adds`](Self::multiply_adds) does with the instruction that the tier's
    /// products of integer weights are made of: 16-bit numbers times each other, added up in 32 bits.
    #[must_use]
    pub fn multiply_add_pairs(&self, rounds: usize) -> i32 {
        (self.multiply_add_pairs)(rounds)
    }
}
