//! Sums of the numbers in vectors, several vectors at once, and how they are written.
//!
//! However many there are, the numbers of each are added in the same order: those half a vector apart, then a
//! quarter and so on.
use std::arch::x86_64::*;

/// Returns a vector whose quarter `t` has four numbers that add up to vector `t`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    let fold = |x, y| _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(x, y), _mm512_shuffle_f32x4::<0xEE>(x, y));
    let (ab, cd) = (fold(a, b), fold(c, d));
    _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd))
}

/// Returns the sums of the quarters of one vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn of_quarters(x: __m512) -> __m128 {
    let pairs = _mm512_add_ps(x, _mm512_permute_ps::<0b01_00_11_10>(x));
    let whole = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
    _mm512_castps512_ps128(_mm512_maskz_compress_ps(0b0001_0001_0001_0001, whole))
}

/// Returns the sums of the quarters of four vectors: at `4 t + j` that of quarter `t` of vector `j`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn of_sixteen_quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    let pairs =
        |x, y| _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(x, y), _mm512_shuffle_ps::<0b11_10_11_10>(x, y));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm512_shuffle_ps::<0b11_01_11_01>(ab, cd))
}

/// Writes a vector to the first sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(out: &mut [f32], values: __m512) {
    let out = &mut out[..16];
    // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
}

/// Writes the first values of a vector, as many as there is room for: a copy of a length the compiler does not
/// know would be a call, which keeps no vector in a register.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn store_some(out: &mut [f32], values: __m128) {
    let mask = (1_u8 << out.len().min(4)) - 1;
    // SAFETY: only what the mask names is written, and `out` has at least that many.
    unsafe { _mm_mask_storeu_ps(out.as_mut_ptr(), mask, values) };
}
