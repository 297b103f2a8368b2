//! Where the codes and scales of eight interleaved rows lie.
//!
//! Eight rows are one group, and lane r of a 32-byte vector belongs to row r, so sums stay in lanes
//! and nothing is ever added across a vector. A group is a sequence of blocks as wide as the format's
//! (one column for floats); integer formats have *parts* of 32 columns in a block:
//!
//! | format | head of a block | each part of 32 columns |
//! | --- | --- | --- |
//! | `q8_0` | | d, 8 code vectors |
//! | `q4_0` `q4_1` | | d (m), 4 nibble vectors |
//! | `q5_0` `q5_1` | | d (m), 1 vector of fifth bits, 4 nibble vectors |
//! | `q4_k` `q5_k` | d, dmin | 8 scales, 8 minima, (fifth bits,) nibbles |
//! | `q13_0` | | d, 16 vectors of pairs of codes |
//! | `q6_k` | d | 2 × 8 scales, 2 vectors of high bits, nibbles |
//! | `q2_k` `q3_k` | the eight blocks as in the file | |
//! | floats | eight numbers | |
//!
//! d, dmin and m are eight f16. In every plane the pair of columns (2p, 2p + 1) lies at the same
//! place in the two 16-bit halves of a lane, so a shift and a mask give sixteen 16-bit numbers ready
//! for a multiply-and-add of pairs.
use crate::format::Format;

/// Rows in a group.
pub(crate) const ROWS: usize = 8;
/// Columns in a part.
pub(crate) const COLUMNS: usize = 32;

/// Sizes of a packed block of eight rows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of a block.
    pub(crate) values: usize,
    /// Bytes before the first part.
    pub(crate) head: usize,
    /// Bytes of a part, or of the whole block where it has none.
    pub(crate) part: usize,
    /// Bytes of a block.
    pub(crate) block: usize,
}

impl Layout {
    pub(crate) const fn of(format: Format) -> Self {
        let (head, part) = match format {
            Format::F32 => (0, 4 * ROWS),
            Format::F16 | Format::Bf16 => (0, 2 * ROWS),
            Format::Q8_0 => (0, 16 + 256),
            Format::Q4_0 => (0, 16 + 128),
            Format::Q4_1 => (0, 32 + 128),
            Format::Q5_0 => (0, 16 + 32 + 128),
            Format::Q5_1 => (0, 32 + 32 + 128),
            Format::Q13_0 => (0, 16 + 512),
            Format::Q4K => (32, 16 + 128),
            Format::Q5K => (32, 16 + 32 + 128),
            Format::Q6K => (16, 16 + 64 + 128),
            Format::Q2K | Format::Q3K => (0, format.block_bytes() * ROWS),
        };
        let parts = match format {
            Format::Q4K | Format::Q5K | Format::Q6K => 8,
            _ => 1,
        };
        Self { values: format.block_values(), head, part, block: head + parts * part }
    }

    /// Returns the bytes of one group of rows with so many columns.
    pub(crate) const fn group(self, columns: usize) -> usize {
        // A power of two: a division would take as long as a column's products.
        (columns >> self.values.trailing_zeros()) * self.block
    }
}

/// Returns the same bytes of all groups.
#[inline]
pub(crate) fn blocks<'a, const S: usize>(groups: &[&'a [u8]; S], at: usize, size: usize) -> [&'a [u8]; S] {
    std::array::from_fn(|s| &groups[s][at..][..size])
}

/// Returns the same part of all blocks, whose heads have `HEAD` bytes.
#[inline]
pub(crate) fn parts<'a, const HEAD: usize, const PART: usize, const S: usize>(
    blocks: &[&'a [u8]; S],
    index: usize,
) -> [&'a [u8; PART]; S] {
    std::array::from_fn(|s| &blocks[s][HEAD..].as_chunks::<PART>().0[index])
}

/// One bit plane of a part: `BITS` bits for each of 32 columns of 8 rows.
///
/// A 16-bit half of a lane holds 16 / `BITS` columns of one parity.
pub(crate) struct Plane<const BITS: usize>;

impl<const BITS: usize> Plane<BITS> {
    /// Columns in a lane of one vector.
    const IN_LANE: usize = 32 / BITS;
    const MASK: u32 = (1 << BITS) - 1;

    /// Returns the first bit of the i-th of a lane's columns.
    const fn bit(i: usize) -> usize {
        i % 2 * 16 + i / 2 * BITS
    }

    /// Writes the low bits of a row's codes.
    pub(crate) fn put(plane: &mut [u8], row: usize, codes: &[u8; COLUMNS]) {
        let vectors = plane.as_chunks_mut::<32>().0;
        for (codes, vector) in codes.chunks_exact(Self::IN_LANE).zip(vectors) {
            let mut lane = 0;
            for (i, code) in codes.iter().enumerate() {
                lane |= (u32::from(*code) & Self::MASK) << Self::bit(i);
            }
            vector[4 * row..4 * row + 4].copy_from_slice(&lane.to_le_bytes());
        }
    }

    /// Returns a row's codes.
    pub(crate) fn get(plane: &[u8], row: usize) -> [u8; COLUMNS] {
        let mut all = [0; COLUMNS];
        let vectors = plane.as_chunks::<32>().0;
        for (codes, vector) in all.chunks_exact_mut(Self::IN_LANE).zip(vectors) {
            let lane = vector.as_chunks::<4>().0[row];
            for (i, code) in codes.iter_mut().enumerate() {
                *code = ((u32::from_le_bytes(lane) >> Self::bit(i)) & Self::MASK) as u8;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_grows_no_format_beyond_three_percent() {
        for format in Format::ALL {
            let (file, packed) = (format.block_bytes() * ROWS, Layout::of(format).block);
            assert!(packed >= file && packed * 100 <= file * 103, "{format}: {file} bytes become {packed}");
        }
    }

    fn every_column_has_its_own_bits<const BITS: usize>() {
        let mut plane = vec![0; 32 * BITS];
        for row in 0..ROWS {
            Plane::<BITS>::put(&mut plane, row, &std::array::from_fn(|column| (column * 7 + row * 3 + 1) as u8));
        }
        for row in 0..ROWS {
            let want = std::array::from_fn(|column| ((column * 7 + row * 3 + 1) & ((1 << BITS) - 1)) as u8);
            assert_eq!(Plane::<BITS>::get(&plane, row), want, "{BITS} bits, row {row}");
        }
    }

    #[test]
    fn planes_hold_what_is_put() {
        every_column_has_its_own_bits::<1>();
        every_column_has_its_own_bits::<2>();
        every_column_has_its_own_bits::<4>();
        every_column_has_its_own_bits::<8>();
    }
}
