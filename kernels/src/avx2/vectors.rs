//! Loads, stores and conversions of packed weights, codes and sums.
use std::arch::x86_64::*;

use crate::matrix::layout::ROWS;

/// Returns the 32 bytes at `at`.
///
/// # Panics
///
/// If there are fewer; where the length is known, the check is compiled away.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Returns the eight f16 at `at` as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn halves(bytes: &[u8], at: usize) -> __m256 {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes, and `loadu` needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Returns the eight bf16 at `at` as f32.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn upper_halves(bytes: &[u8], at: usize) -> __m256 {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes, and `loadu` needs no alignment.
    let words = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words)))
}

/// Returns the eight f32 at `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn floats(bytes: &[u8], at: usize) -> __m256 {
    _mm256_castsi256_ps(load(bytes, at))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load8(bytes: &[u8], at: usize) -> __m128i {
    let (eight, _) = bytes[at..].split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    _mm_cvtsi64_si128(i64::from_le_bytes(*eight))
}

/// Returns the eight unsigned bytes at `at` as i32.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn unsigned(bytes: &[u8], at: usize) -> __m256i {
    _mm256_cvtepu8_epi32(load8(bytes, at))
}

/// Returns the eight signed bytes at `at` as i32.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn signed(bytes: &[u8], at: usize) -> __m256i {
    _mm256_cvtepi8_epi32(load8(bytes, at))
}

/// Returns two codes in every lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn pair(codes: &[i16; 32], index: usize) -> __m256i {
    let pair = [codes[2 * index], codes[2 * index + 1]];
    // SAFETY: arrays of two i16 and an i32 have the same size and no invalid values.
    _mm256_set1_epi32(unsafe { std::mem::transmute::<[i16; 2], i32>(pair) })
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_codes(codes: &[i16; 16]) -> __m256i {
    // SAFETY: 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_codes(to: &mut [i16; 16], codes: __m256i) {
    // SAFETY: 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), codes) };
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_sums(sums: &[f32; ROWS]) -> __m256 {
    // SAFETY: 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_ps(sums.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_sums(to: &mut [f32; ROWS], sums: __m256) {
    // SAFETY: 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sums) };
}

/// Writes eight numbers as their bytes, which [`floats`] reads.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_floats(to: &mut [u8; 4 * ROWS], x: __m256) {
    // SAFETY: 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr().cast(), x) };
}

/// Returns the sum of the eight numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sum(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_unpackhi_epi64(x, x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<1>(x)))
}
