//! Codes of 32 columns of two groups of eight rows, as unsigned bytes in lanes, and what they are
//! multiplied with.
//!
//! Each vector holds four columns, those that four neighbouring bytes of an 8-bit row of activations
//! belong to (`BYTE_ORDER`): the order in which 4-bit codes come apart with a shift and two masks.
use std::arch::x86_64::*;

use super::part::{Parts, load, quad};
use crate::{
    activations::ActivationRows,
    avx2::part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q8_0, offset},
    matrix::layout::COLUMNS,
};

/// The codes of 32 columns, in words of 32 bits that are broadcast to all rows' lanes.
pub(super) trait Codes: Sized {
    /// Whether a word is four bytes, not two 16-bit numbers.
    const ARE_BYTES: bool;

    /// Returns the codes of `M` rows from `first` on, in blocks.
    fn of<const M: usize>(activations: ActivationRows<'_>, first: usize) -> [&[Self]; M];

    /// Returns a word.
    fn word(&self, index: usize) -> i32;
}

impl Codes for [i16; COLUMNS] {
    const ARE_BYTES: bool = false;

    #[inline]
    fn of<const M: usize>(activations: ActivationRows<'_>, first: usize) -> [&[Self]; M] {
        activations.codes_of(first)
    }

    #[inline]
    fn word(&self, index: usize) -> i32 {
        i32::from(self[2 * index] as u16) | i32::from(self[2 * index + 1]) << 16
    }
}

impl Codes for [i8; COLUMNS] {
    const ARE_BYTES: bool = true;

    #[inline]
    fn of<const M: usize>(activations: ActivationRows<'_>, first: usize) -> [&[Self]; M] {
        activations.bytes_of(first)
    }

    #[inline]
    fn word(&self, index: usize) -> i32 {
        i32::from_le_bytes(self.as_chunks::<4>().0[index].map(|code| code as u8))
    }
}

/// Returns what has to be subtracted from the bytes of a format.
pub(super) const fn byte_offset(format: u8) -> i32 {
    if format == Q8_0 { 128 } else { offset(format) }
}

/// Returns the bytes of columns `8 v .. 8 v + 8` before the offset is subtracted.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn fours<const F: u8, const PART: usize>(parts: Parts<'_, PART>, v: usize) -> [__m512i; 2] {
    let load = |at: usize| load([parts[0], parts[1]], at);
    match F {
        Q4_0 | Q4K => nibbles(load(16 + 32 * v)),
        Q4_1 => nibbles(load(32 + 32 * v)),
        Q5_0 | Q5K => fives(load(16), load(48 + 32 * v), v),
        Q5_1 => fives(load(32), load(64 + 32 * v), v),
        Q8_0 => {
            let sign = _mm512_set1_epi8(-128);
            let (a, b) = (load(16 + 64 * v), load(48 + 64 * v));
            join(a, b).map(|bytes| _mm512_xor_si512(bytes, sign))
        }
        _ => {
            let [a, b, c, d] = quad::<F, PART>(parts, v);
            [_mm512_or_si512(a, _mm512_slli_epi16::<8>(c)), _mm512_or_si512(b, _mm512_slli_epi16::<8>(d))]
        }
    }
}

/// Returns the lower bytes of two vectors of 16-bit numbers, and the upper ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn join(a: __m512i, b: __m512i) -> [__m512i; 2] {
    let low = _mm512_set1_epi16(0xff);
    // The table of b ? a : c, by bits.
    let choose = |a, b, c| _mm512_ternarylogic_epi32::<0xe2>(a, b, c);
    [choose(a, low, _mm512_slli_epi16::<8>(b)), choose(_mm512_srli_epi16::<8>(a), low, b)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn nibbles(x: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(15);
    [_mm512_and_si512(x, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(x), mask)]
}

/// `high` holds the fifth bits of all 32 columns, one for each pair in a half lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn fives(high: __m512i, low: __m512i, v: usize) -> [__m512i; 2] {
    // To the fifth bit of the lower bytes, and of the upper ones.
    let [a, b, c, d] = match v {
        0 => [
            _mm512_slli_epi16::<4>(high),
            _mm512_slli_epi16::<10>(high),
            _mm512_slli_epi16::<3>(high),
            _mm512_slli_epi16::<9>(high),
        ],
        1 => [high, _mm512_slli_epi16::<6>(high), _mm512_srli_epi16::<1>(high), _mm512_slli_epi16::<5>(high)],
        2 => [
            _mm512_srli_epi16::<4>(high),
            _mm512_slli_epi16::<2>(high),
            _mm512_srli_epi16::<5>(high),
            _mm512_slli_epi16::<1>(high),
        ],
        _ => [
            _mm512_srli_epi16::<8>(high),
            _mm512_srli_epi16::<2>(high),
            _mm512_srli_epi16::<9>(high),
            _mm512_srli_epi16::<3>(high),
        ],
    };
    let (lower, upper) = (_mm512_set1_epi16(0x10), _mm512_set1_epi16(0x1000));
    // The table of a | (b & c).
    let with = |a, b, c| _mm512_ternarylogic_epi32::<0xf8>(a, b, c);
    let [first, second] = nibbles(low);
    [with(with(first, a, lower), b, upper), with(with(second, c, lower), d, upper)]
}
