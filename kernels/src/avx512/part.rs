//! Codes and scales of 32 columns of two groups of eight interleaved rows.
//!
//! The first group is in the lower half of each register, the second in the upper: the same steps as
//! in `avx2/part.rs`, on twice the rows.
use std::arch::x86_64::*;

use crate::avx2::part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q13_0};

/// Two parts, one of each group.
pub(super) type Parts<'a, const PART: usize> = [&'a [u8; PART]; 2];

/// Returns the 32 bytes at `at` of both.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn load(bytes: [&[u8]; 2], at: usize) -> __m512i {
    let bytes = [&bytes[0][at..at + 32], &bytes[1][at..at + 32]];
    // SAFETY: 32 readable bytes each, and `loadu` needs no alignment.
    let halves =
        unsafe { [_mm256_loadu_si256(bytes[0].as_ptr().cast()), _mm256_loadu_si256(bytes[1].as_ptr().cast())] };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1])
}

/// Returns the eight f16 at `at` of both as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves(bytes: [&[u8]; 2], at: usize) -> __m512 {
    let bytes = [&bytes[0][at..at + 16], &bytes[1][at..at + 16]];
    // SAFETY: 16 readable bytes each, and `loadu` needs no alignment.
    let halves = unsafe { [_mm_loadu_si128(bytes[0].as_ptr().cast()), _mm_loadu_si128(bytes[1].as_ptr().cast())] };
    _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(halves[0]), halves[1]))
}

/// Returns the eight bytes at `at` of both.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn bytes<const PART: usize>(parts: Parts<'_, PART>, at: usize) -> __m128i {
    let eight = |part: &[u8; PART]| {
        let (eight, _) = part[at..].split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        i64::from_le_bytes(*eight)
    };
    _mm_set_epi64x(eight(parts[1]), eight(parts[0]))
}

/// Returns the codes of columns `8 v .. 8 v + 8` before the offset is subtracted.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn quad<const F: u8, const PART: usize>(parts: Parts<'_, PART>, v: usize) -> [__m512i; 4] {
    let load = |at: usize| load([parts[0], parts[1]], at);
    match F {
        Q8_0 => {
            let (a, b) = (load(16 + 64 * v), load(48 + 64 * v));
            let low = |x| _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
            [low(a), _mm512_srai_epi16::<8>(a), low(b), _mm512_srai_epi16::<8>(b)]
        }
        Q13_0 => {
            let at = 16 + 128 * v;
            [load(at), load(at + 32), load(at + 64), load(at + 96)]
        }
        Q4_0 | Q4K => nibbles(load(16 + 32 * v)),
        Q4_1 => nibbles(load(32 + 32 * v)),
        Q5_0 | Q5K => fives(load(16), load(48 + 32 * v), v),
        Q5_1 => fives(load(32), load(64 + 32 * v), v),
        _ => sixes(load(16 + 32 * (v / 2)), load(80 + 32 * v), v % 2),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn nibbles(x: __m512i) -> [__m512i; 4] {
    let mask = _mm512_set1_epi16(15);
    [
        _mm512_and_si512(x, mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(x), mask),
        _mm512_and_si512(_mm512_srli_epi16::<8>(x), mask),
        _mm512_srli_epi16::<12>(x),
    ]
}

/// `high` holds the fifth bits of all 32 columns, one for each pair in a half lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn fives(high: __m512i, low: __m512i, v: usize) -> [__m512i; 4] {
    let fifth = match v {
        0 => [
            _mm512_slli_epi16::<4>(high),
            _mm512_slli_epi16::<3>(high),
            _mm512_slli_epi16::<2>(high),
            _mm512_slli_epi16::<1>(high),
        ],
        1 => [high, _mm512_srli_epi16::<1>(high), _mm512_srli_epi16::<2>(high), _mm512_srli_epi16::<3>(high)],
        2 => [
            _mm512_srli_epi16::<4>(high),
            _mm512_srli_epi16::<5>(high),
            _mm512_srli_epi16::<6>(high),
            _mm512_srli_epi16::<7>(high),
        ],
        _ => [
            _mm512_srli_epi16::<8>(high),
            _mm512_srli_epi16::<9>(high),
            _mm512_srli_epi16::<10>(high),
            _mm512_srli_epi16::<11>(high),
        ],
    };
    join(nibbles(low), fifth, 16)
}

/// `high` holds the two high bits of 16 columns, of which `second` picks eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sixes(high: __m512i, low: __m512i, second: usize) -> [__m512i; 4] {
    let top = if second == 0 {
        [_mm512_slli_epi16::<4>(high), _mm512_slli_epi16::<2>(high), high, _mm512_srli_epi16::<2>(high)]
    } else {
        [
            _mm512_srli_epi16::<4>(high),
            _mm512_srli_epi16::<6>(high),
            _mm512_srli_epi16::<8>(high),
            _mm512_srli_epi16::<10>(high),
        ]
    };
    join(nibbles(low), top, 48)
}

/// Returns `low | high & mask`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn join(mut low: [__m512i; 4], high: [__m512i; 4], mask: i16) -> [__m512i; 4] {
    let mask = _mm512_set1_epi16(mask);
    for j in 0..4 {
        // The table of a | (b & c).
        low[j] = _mm512_ternarylogic_epi32::<0xf8>(low[j], high[j], mask);
    }
    low
}

/// Returns the scales of two parts. `heads` are the heads of their blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn scales<const F: u8, const PART: usize>(heads: [&[u8]; 2], parts: Parts<'_, PART>) -> __m512 {
    match F {
        Q4K | Q5K => _mm512_mul_ps(halves(heads, 0), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(parts, 0)))),
        Q6K => halves(heads, 0),
        _ => halves([parts[0], parts[1]], 0),
    }
}

/// Returns the minima of two parts: what is subtracted from every number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn minima<const F: u8, const PART: usize>(heads: [&[u8]; 2], parts: Parts<'_, PART>) -> __m512 {
    match F {
        Q4K | Q5K => _mm512_mul_ps(halves(heads, 16), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(parts, 8)))),
        Q4_1 | Q5_1 => _mm512_sub_ps(_mm512_set1_ps(-0.0), halves([parts[0], parts[1]], 16)),
        _ => _mm512_setzero_ps(),
    }
}

/// Returns the integer scales of the first and the second sixteen columns (`q6_k`).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn half_scales<const PART: usize>(parts: Parts<'_, PART>) -> [__m512i; 2] {
    [_mm512_cvtepi8_epi32(bytes(parts, 0)), _mm512_cvtepi8_epi32(bytes(parts, 8))]
}

/// Returns two codes in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn pair(codes: &[i16; 32], index: usize) -> __m512i {
    let pair = [codes[2 * index], codes[2 * index + 1]];
    // SAFETY: arrays of two i16 and an i32 have the same size and no invalid values.
    _mm512_set1_epi32(unsafe { std::mem::transmute::<[i16; 2], i32>(pair) })
}
