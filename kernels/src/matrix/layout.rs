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
        columns / self.values * self.block
    }
}

/// One bit plane of a part: `BITS` bits for each of 32 columns of 8 rows.
///
/// A 16-bit half of a lane holds 16 / `BITS` columns of one parity.
pub(crate) struct Plane<const BITS: usize>;

impl<const BITS: usize> Plane<BITS> {
    const IN_HALF: usize = 16 / BITS;

    /// Returns the half word (counted from the plane's start) and the bit in it where a column lies.
    const fn place(row: usize, column: usize) -> (usize, usize) {
        let pair = column / 2;
        let vector = pair / Self::IN_HALF;
        (16 * vector + 2 * row + column % 2, pair % Self::IN_HALF * BITS)
    }

    pub(crate) fn put(plane: &mut [u8], row: usize, codes: &[u8; COLUMNS]) {
        for (column, code) in codes.iter().enumerate() {
            let (half, bit) = Self::place(row, column);
            let at = 2 * half + bit / 8;
            plane[at] |= (code & ((1u16 << BITS) - 1) as u8) << (bit % 8);
        }
    }

    pub(crate) fn get(plane: &[u8], row: usize) -> [u8; COLUMNS] {
        std::array::from_fn(|column| {
            let (half, bit) = Self::place(row, column);
            (plane[2 * half + bit / 8] >> (bit % 8)) & ((1u16 << BITS) - 1) as u8
        })
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
