//! Weights that are asked for while something else is multiplied.
use std::ops::Range;

use crate::matrix::{
    Matrix,
    layout::{Layout, ROWS},
};

/// Bytes that are fetched together.
pub(crate) const CACHE_LINE: usize = 64;

/// Weights that are used soon after a product with few tokens, and are fetched into a near cache while that is
/// computed.
///
/// A product reads its own weights as fast as memory gives them, but whoever begins to read elsewhere waits once
/// more before the first bytes come. Short stretches, as those of a low-rank change, are little but such waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'a> {
    parts: [&'a [u8]; PARTS],
}

/// Stretches of weights that are fetched at a time, at most.
const PARTS: usize = 3;

impl<'a> Ahead<'a> {
    /// Returns some rows of up to three matrices, in whole groups of eight; nothing of a mapped one.
    #[must_use]
    pub fn of(parts: [Option<(&'a Matrix, Range<usize>)>; PARTS]) -> Self {
        let bytes = |part: Option<(&'a Matrix, Range<usize>)>| {
            let (matrix, rows) = part?;
            matrix.groups(rows.start / ROWS..rows.end.min(matrix.rows()).div_ceil(ROWS))
        };
        Self { parts: parts.map(|part| bytes(part).unwrap_or_default()) }
    }

    /// Returns what a product with some rows of a matrix reads first, so many bytes: where it begins, and halfway.
    #[must_use]
    pub fn beginning(matrix: &'a Matrix, rows: Range<usize>, bytes: usize) -> Self {
        let groups = matrix.groups(rows.start / ROWS..rows.end.min(matrix.rows()).div_ceil(ROWS)).unwrap_or_default();
        let size = Layout::of(matrix.format()).group(matrix.columns());
        let (first, second) = groups.split_at(groups.len() / size.max(1) / 2 * size);
        let some = |half: &'a [u8]| &half[..half.len().min(bytes / 2)];
        Self { parts: [some(first), some(second), &[]] }
    }

    /// Returns what gives the bytes in `count` shares, one after the other, and then nothing: the steps of a product
    /// are too short to divide in.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 fetches"))]
    #[inline]
    pub(crate) fn shares(self, count: usize) -> impl FnMut() -> [&'a [u8]; PARTS] {
        let size = |bytes: &[u8]| bytes.len().div_ceil(count.max(1)).next_multiple_of(CACHE_LINE);
        let (sizes, mut left) = (self.parts.map(size), self.parts);
        move || {
            let mut share: [&[u8]; PARTS] = [&[]; PARTS];
            for ((share, left), size) in share.iter_mut().zip(&mut left).zip(sizes) {
                (*share, *left) = left.split_at(size.min(left.len()));
            }
            share
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_of_what_is_ahead_in_its_order() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for count in [0, 1, 2, 3, 7, 16, 40] {
            let mut next = Ahead { parts: [&bytes, &[], &bytes[..70]] }.shares(count);
            let mut parts = [const { Vec::new() }; PARTS];
            for _ in 0..count.max(1) {
                parts.iter_mut().zip(next()).for_each(|(part, share)| part.extend_from_slice(share));
            }
            assert!(parts == [bytes.clone(), Vec::new(), bytes[..70].to_vec()], "{count}");
            assert_eq!(next(), [&[]; PARTS], "{count}");
        }
    }
}
