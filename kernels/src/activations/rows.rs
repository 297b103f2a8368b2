//! A finished batch of activations, as kernels read it.
use std::ops::Range;

use super::CodeBlock;
use crate::matrix::layout::COLUMNS;

/// A finished batch as kernels read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationRows<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// From one row of codes or floats to the next.
    pub(crate) stride: usize,
    pub(crate) floats: &'a [f32],
    pub(crate) codes: &'a [i16],
    /// The codes of [`super::Precision::Int8`] once more, in the order of `super::shared`; none of the other.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only dot products of bytes read them"))]
    pub(crate) bytes: &'a [i8],
    pub(crate) blocks: &'a [CodeBlock],
}

impl<'a> ActivationRows<'a> {
    pub(crate) fn row_floats(&self, row: usize) -> &'a [f32] {
        &self.floats[row * self.stride..][..self.columns]
    }

    pub(crate) fn row_codes(&self, row: usize) -> &'a [i16] {
        &self.codes[row * self.stride..][..self.columns]
    }

    /// Returns the codes of `M` rows from `first` on, in blocks.
    #[inline]
    pub(crate) fn codes_of<const M: usize>(self, first: usize) -> [&'a [[i16; COLUMNS]]; M] {
        std::array::from_fn(|m| self.row_codes(first + m).as_chunks().0)
    }

    /// Returns the bytes of `M` rows from `first` on, in blocks.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn bytes_of<const M: usize>(self, first: usize) -> [&'a [[i8; COLUMNS]]; M] {
        std::array::from_fn(|m| self.bytes[(first + m) * self.stride..][..self.columns].as_chunks().0)
    }

    /// Returns what else products need of the blocks of `M` rows from `first` on.
    #[inline]
    pub(crate) fn blocks_of<const M: usize>(self, first: usize) -> [&'a [CodeBlock]; M] {
        std::array::from_fn(|m| self.row_blocks(first + m))
    }

    /// Returns some columns of `M` rows of floats from `first` on.
    #[inline]
    pub(crate) fn floats_of<const M: usize>(self, first: usize, columns: Range<usize>) -> [&'a [f32]; M] {
        std::array::from_fn(|m| &self.row_floats(first + m)[columns.clone()])
    }

    pub(crate) fn row_blocks(&self, row: usize) -> &'a [CodeBlock] {
        let count = self.columns / COLUMNS;
        &self.blocks[row * count..][..count]
    }
}

/// Returns the same element of all rows.
///
/// A function of its own, like those above, because a closure inside a kernel has the kernel's
/// processor features, and `from_fn`, which lacks them, would not inline it.
#[inline]
pub(crate) fn each<'a, T, const M: usize>(rows: &[&'a [T]; M], index: usize) -> [&'a T; M] {
    std::array::from_fn(|m| &rows[m][index])
}

/// Returns the same `count` elements of all rows.
#[inline]
pub(crate) fn slices<T, const M: usize>(rows: [&[T]; M], first: usize, count: usize) -> [&[T]; M] {
    std::array::from_fn(|m| &rows[m][first..][..count])
}
