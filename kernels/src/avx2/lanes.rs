//! Eight f32 at a time: loads, reductions, elementary functions.
use std::arch::x86_64::*;

#[target_feature(enable = "avx2")]
pub(super) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: `x` is 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn largest(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

#[target_feature(enable = "avx2")]
pub(super) fn sum_f64(x: __m256d) -> f64 {
    let x = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd::<1>(x));
    _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)))
}

/// Returns the eight values widened to f64 and added in pairs of halves.
#[target_feature(enable = "avx2")]
pub(super) fn widen_and_add(x: __m256) -> __m256d {
    _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x)))
}

/// Returns exp(x) for x ≤ 0, with relative error below 2 ulp, and 0 where it is subnormal.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; exp(r) by the terms of its series to degree 7 (the first one
/// left out is below 2^-27), then n into the exponent.
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp_of_negative(x: __m256) -> __m256 {
    const SMALLEST: f32 = -87.0;
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    // ln 2 in two parts, the first exact in 12 bits, so that n times it is exact.
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    let mut sum = _mm256_set1_ps(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(coefficient));
    }
    let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
    let scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), exponent));
    let in_range = _mm256_cmp_ps::<_CMP_GE_OQ>(x, _mm256_set1_ps(SMALLEST));
    _mm256_and_ps(scaled, in_range)
}
