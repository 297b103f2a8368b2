//! Codes and scales of 32 columns of eight interleaved rows, as 16-bit numbers in lanes.
//!
//! The layout is described in `matrix/layout.rs`. Formats are constants here, so that each gets its
//! own straight-line code.
use std::arch::x86_64::*;

use super::vectors::{halves, load, signed, unsigned};
use crate::format::Format;

pub(crate) const Q4_0: u8 = Format::Q4_0 as u8;
pub(crate) const Q4_1: u8 = Format::Q4_1 as u8;
pub(crate) const Q5_0: u8 = Format::Q5_0 as u8;
pub(crate) const Q5_1: u8 = Format::Q5_1 as u8;
pub(crate) const Q8_0: u8 = Format::Q8_0 as u8;
pub(crate) const Q13_0: u8 = Format::Q13_0 as u8;
pub(crate) const Q4K: u8 = Format::Q4K as u8;
pub(crate) const Q5K: u8 = Format::Q5K as u8;
pub(crate) const Q6K: u8 = Format::Q6K as u8;

/// Returns what has to be subtracted from the codes of a format.
pub(crate) const fn offset(format: u8) -> i32 {
    match format {
        Q4_0 => 8,
        Q5_0 => 16,
        Q6K => 32,
        _ => 0,
    }
}

/// Returns what has to be subtracted from what [`quad`] gives: bytes are taken apart without a sign, which shifts
/// of a register, fewer than other steps a cycle on some processors, would carry along.
pub(crate) const fn raised(format: u8) -> i32 {
    if format == Q8_0 { 128 } else { offset(format) }
}

/// Returns whether a format has minima.
pub(crate) const fn has_minima(format: u8) -> bool {
    matches!(format, Q4_1 | Q5_1 | Q4K | Q5K)
}

/// Returns the codes of columns `8 v .. 8 v + 8` before [`raised`] is subtracted: four vectors, each
/// of two adjacent columns of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quad<const F: u8, const PART: usize>(part: &[u8; PART], v: usize) -> [__m256i; 4] {
    match F {
        Q8_0 => {
            let (sign, mask) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(0xff));
            let bytes = |at: usize| _mm256_xor_si256(load(part, at), sign);
            let (a, b) = (bytes(16 + 64 * v), bytes(48 + 64 * v));
            let low = |x| _mm256_and_si256(x, mask);
            [low(a), _mm256_srli_epi16::<8>(a), low(b), _mm256_srli_epi16::<8>(b)]
        }
        Q13_0 => {
            let at = 16 + 128 * v;
            [load(part, at), load(part, at + 32), load(part, at + 64), load(part, at + 96)]
        }
        Q4_0 | Q4K => nibbles(load(part, 16 + 32 * v)),
        Q4_1 => nibbles(load(part, 32 + 32 * v)),
        Q5_0 | Q5K => fives(load(part, 16), load(part, 48 + 32 * v), v),
        Q5_1 => fives(load(part, 32), load(part, 64 + 32 * v), v),
        _ => sixes(load(part, 16 + 32 * (v / 2)), load(part, 80 + 32 * v), v % 2),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(x: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi16(15);
    [
        _mm256_and_si256(x, mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask),
        _mm256_and_si256(_mm256_srli_epi16::<8>(x), mask),
        _mm256_srli_epi16::<12>(x),
    ]
}

/// `high` holds the fifth bits of all 32 columns, one for each pair in a half lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fives(high: __m256i, low: __m256i, v: usize) -> [__m256i; 4] {
    let four = match v {
        0 => high,
        1 => _mm256_srli_epi16::<4>(high),
        2 => _mm256_srli_epi16::<8>(high),
        _ => _mm256_srli_epi16::<12>(high),
    };
    let four = _mm256_and_si256(four, _mm256_set1_epi16(15));
    join(nibbles(low), [four; 4], const { [tops(0, 1), tops(1, 1), tops(2, 1), tops(3, 1)] })
}

/// `high` holds the two high bits of 16 columns, of which `second` picks eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sixes(high: __m256i, low: __m256i, second: usize) -> [__m256i; 4] {
    let [first, second] = if second == 0 {
        [high, _mm256_srli_epi16::<4>(high)]
    } else {
        [_mm256_srli_epi16::<8>(high), _mm256_srli_epi16::<12>(high)]
    };
    let mask = _mm256_set1_epi16(15);
    let (first, second) = (_mm256_and_si256(first, mask), _mm256_and_si256(second, mask));
    let (lower, upper) = const { (tops(0, 3), tops(2, 3)) };
    join(nibbles(low), [first, first, second, second], [lower, upper, lower, upper])
}

/// Returns for each number below 16 its bits from `shift` on, as many as `mask` has, as bits four and five.
const fn tops(shift: usize, mask: u8) -> [u8; 16] {
    let mut table = [0; 16];
    let mut n = 0;
    while n < 16 {
        table[n] = (n as u8 >> shift & mask) << 4;
        n += 1;
    }
    table
}

/// Returns `low | table[high]`: a table is one step where a shift and a mask are two, and leaves the unit for shifts,
/// of which some processors have one, to others.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn join(mut low: [__m256i; 4], high: [__m256i; 4], tables: [[u8; 16]; 4]) -> [__m256i; 4] {
    for j in 0..4 {
        // SAFETY: 16 readable bytes, and `loadu` needs no alignment.
        let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(tables[j].as_ptr().cast()) });
        low[j] = _mm256_or_si256(low[j], _mm256_shuffle_epi8(table, high[j]));
    }
    low
}

/// Returns the scales of a part. `head` is the head of its block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn scales<const F: u8, const PART: usize>(head: &[u8], part: &[u8; PART]) -> __m256 {
    match F {
        Q4K | Q5K => _mm256_mul_ps(halves(head, 0), _mm256_cvtepi32_ps(unsigned(part, 0))),
        Q6K => halves(head, 0),
        _ => halves(part, 0),
    }
}

/// Returns the minima of a part: what is subtracted from every number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn minima<const F: u8, const PART: usize>(head: &[u8], part: &[u8; PART]) -> __m256 {
    match F {
        Q4K | Q5K => _mm256_mul_ps(halves(head, 16), _mm256_cvtepi32_ps(unsigned(part, 8))),
        Q4_1 | Q5_1 => _mm256_xor_ps(halves(part, 16), _mm256_set1_ps(-0.0)),
        _ => _mm256_setzero_ps(),
    }
}

/// Returns the integer scales of the first and the second sixteen columns (`q6_k`).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn half_scales<const PART: usize>(part: &[u8; PART]) -> [__m256i; 2] {
    [signed(part, 0), signed(part, 8)]
}
