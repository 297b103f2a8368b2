//! Which of many vectors are nearest: by bits that differ, and by products of those that differ in few.
use crate::Kernels;

/// Distances that one mask is of.
pub const DISTANCES_A_MASK: usize = 64;

/// Writes the products of rows, at some places of all, with a vector.
pub(crate) type Dots = fn(&[i16], &[u32], &[i16], &mut [i32]);

/// The functions a tier has; lengths are checked before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NearestKernels {
    pub(crate) distances: fn([&[u64]; 2], [u64; 2], &mut [u8]),
    pub(crate) within: fn(&[u8], u8, &mut [u64]),
    pub(crate) dots: Dots,
}

impl Kernels {
    /// Writes in how many bits each pair of words differs from one pair:
    /// `out[i] = popcount(words[0][i] ^ to[0]) + popcount(words[1][i] ^ to[1])`.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut out = [0; 2];
    /// ruvlab_kernels::active().bit_distances([&[0b1011, 0], &[0, u64::MAX]], [0b1000, 0], &mut out);
    /// assert_eq!(out, [2, 65]);
    /// ```
    pub fn bit_distances(&self, words: [&[u64]; 2], to: [u64; 2], out: &mut [u8]) {
        let lengths = words.map(<[u64]>::len);
        assert!(lengths == [out.len(); 2], "bit_distances: {lengths:?} words, room for {}", out.len());
        (self.nearest.distances)(words, to, out);
    }

    /// Writes which distances are no greater than a limit: bit `i % 64` of `masks[i / 64]`; bits beyond the last are 0.
    ///
    /// # Panics
    ///
    /// If there are not as many masks as that takes.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut masks = [0];
    /// ruvlab_kernels::active().within(&[3, 9, 4], 4, &mut masks);
    /// assert_eq!(masks, [0b101]);
    /// ```
    pub fn within(&self, distances: &[u8], limit: u8, masks: &mut [u64]) {
        let needed = distances.len().div_ceil(DISTANCES_A_MASK);
        assert!(masks.len() == needed, "within: {} masks, {needed} needed", masks.len());
        (self.nearest.within)(distances, limit, masks);
    }

    /// Writes the products of some rows with a vector, `out[k] = Σ rows[places[k]][i] · vector[i]`. Rows lie apart, so
    /// that they are asked for before it is their turn where the processor is one to be told.
    ///
    /// # Shapes
    ///
    /// `rows` is `[N, E]`, E being as long as the vector.
    ///
    /// # Numerics
    ///
    /// Exact, in 32 bits: beyond those a sum wraps, the same in every tier. Of vectors of length 32767 none does.
    ///
    /// # Panics
    ///
    /// If there are not as many places as there is room, or no row at one.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut out = [0; 2];
    /// ruvlab_kernels::active().dots_i16(&[1, -2, 3, 0, 5, 6], &[2, 0], &[10, 1], &mut out);
    /// assert_eq!(out, [56, 8]);
    /// ```
    pub fn dots_i16(&self, rows: &[i16], places: &[u32], vector: &[i16], out: &mut [i32]) {
        assert!(places.len() == out.len(), "dots_i16: {} places, room for {}", places.len(), out.len());
        (self.nearest.dots)(rows, places, vector, out);
    }
}
