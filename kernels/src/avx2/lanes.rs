//! Eight f32 at a time: loads, reductions, elementary functions.
use std::arch::x86_64::*;

use crate::softmax::EXP;

#[target_feature(enable = "avx2")]
pub(super) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: `x` is 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn store(x: &mut [f32; 8], value: __m256) {
    // SAFETY: `x` is 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), value) }
}

/// Returns eight f16 widened, exactly.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn load_half(x: &[u16; 8]) -> __m256 {
    // SAFETY: `x` is 16 readable bytes, and `loadu` needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// Stores eight values as the nearest f16.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn store_half(x: &mut [u16; 8], value: __m256) {
    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
    // SAFETY: `x` is 16 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm_storeu_si128(x.as_mut_ptr().cast(), halves) }
}

/// Returns up to seven values, and zeros behind them.
#[target_feature(enable = "avx2")]
pub(super) fn load_tail(x: &[f32]) -> __m256 {
    let mut eight = [0.0; 8];
    eight[..x.len()].copy_from_slice(x);
    load(&eight)
}

/// Stores the first of eight values, as many as there is room for.
#[target_feature(enable = "avx2")]
pub(super) fn store_tail(x: &mut [f32], value: __m256) {
    let mut eight = [0.0; 8];
    store(&mut eight, value);
    x.copy_from_slice(&eight[..x.len()]);
}

/// Replaces each eight values, and what is left as if there were eight.
#[target_feature(enable = "avx2,fma")]
pub(super) fn map(x: &mut [f32], function: impl Fn(__m256) -> __m256) {
    let (eights, tail) = x.as_chunks_mut::<8>();
    for eight in eights {
        store(eight, function(load(eight)));
    }
    if !tail.is_empty() {
        store_tail(tail, function(load_tail(tail)));
    }
}

/// Replaces each eight values by a function of them and of their partners.
#[target_feature(enable = "avx2,fma")]
pub(super) fn combine(x: &mut [f32], y: &[f32], function: impl Fn(__m256, __m256) -> __m256) {
    let (eights, tail) = x.as_chunks_mut::<8>();
    let (partners, partner_tail) = y.as_chunks::<8>();
    for (eight, partner) in eights.iter_mut().zip(partners) {
        store(eight, function(load(eight), load(partner)));
    }
    if !tail.is_empty() {
        store_tail(tail, function(load_tail(tail), load_tail(partner_tail)));
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn largest(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

/// Returns the sum of the eight values.
#[target_feature(enable = "avx2")]
pub(super) fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
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

/// Returns exp(x) as a number to be scaled and the power of two to scale it with: x = n ln 2 + r with |r| ≤ ln 2 / 2.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split_exp(x: __m256) -> (__m256, __m256i) {
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    // ln 2 in two parts, the first exact in 12 bits, so that n times it is exact.
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    let mut sum = _mm256_set1_ps(EXP[0]);
    for coefficient in &EXP[1..] {
        sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(*coefficient));
    }
    (sum, _mm256_cvtps_epi32(n))
}

/// Returns exp(x) for x ≤ 88, with relative error below 2 ulp, and 0 where it is subnormal; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn normal_exp(x: __m256) -> __m256 {
    const SMALLEST: f32 = -87.0;
    let (sum, n) = split_exp(x);
    let scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), _mm256_slli_epi32::<23>(n)));
    _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(SMALLEST)))
}

/// Returns exp(x) for x ≤ 0, of several vectors side by side, with relative error below 1e-7 and 3e-9 times |x|; where it
/// would be subnormal, something as small comes. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp_of_negative<const N: usize>(mut x: [__m256; N]) -> [__m256; N] {
    const SMALLEST: f32 = -87.0;
    // A number is whole beside this one, and stands in the last bits of their sum.
    let shift = _mm256_set1_ps(12_582_912.0);
    let (mut n, mut sum) = (x, [_mm256_set1_ps(EXP[0]); N]);
    for i in 0..N {
        // NaN passes: it is the second operand.
        x[i] = _mm256_max_ps(_mm256_set1_ps(SMALLEST), x[i]);
        n[i] = _mm256_fmadd_ps(x[i], _mm256_set1_ps(std::f32::consts::LOG2_E), shift);
    }
    for i in 0..N {
        x[i] = _mm256_fnmadd_ps(_mm256_sub_ps(n[i], shift), _mm256_set1_ps(std::f32::consts::LN_2), x[i]);
    }
    for coefficient in &EXP[1..] {
        for i in 0..N {
            sum[i] = _mm256_fmadd_ps(sum[i], x[i], _mm256_set1_ps(*coefficient));
        }
    }
    for i in 0..N {
        let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[i]));
        sum[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum[i]), power));
    }
    sum
}

/// Returns exp(x) within 2 ulp, subnormal results included; overflow gives infinity, NaN stays NaN.
///
/// 2^n is multiplied in as two factors, which reach the whole range.
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp(x: __m256) -> __m256 {
    // Beyond these the result is 0 or infinity. NaN passes: it is the second operand.
    let x = _mm256_min_ps(_mm256_set1_ps(89.0), _mm256_max_ps(_mm256_set1_ps(-104.0), x));
    let (sum, n) = split_exp(x);
    let first = _mm256_srai_epi32::<1>(n);
    let power = |n: __m256i| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
    _mm256_mul_ps(_mm256_mul_ps(sum, power(first)), power(_mm256_sub_epi32(n, first)))
}

/// Returns the transpose of eight rows of eight.
#[target_feature(enable = "avx2")]
pub(super) fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pair = |x, y| (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    let ((ab_low, ab_high), (cd_low, cd_high)) = (pair(a, b), pair(c, d));
    let ((ef_low, ef_high), (gh_low, gh_high)) = (pair(e, f), pair(g, h));
    let four = |x, y| (_mm256_shuffle_ps::<0b01_00_01_00>(x, y), _mm256_shuffle_ps::<0b11_10_11_10>(x, y));
    let ((c0, c1), (c2, c3)) = (four(ab_low, cd_low), four(ab_high, cd_high));
    let ((d0, d1), (d2, d3)) = (four(ef_low, gh_low), four(ef_high, gh_high));
    let low = |x, y| _mm256_permute2f128_ps::<0x20>(x, y);
    let high = |x, y| _mm256_permute2f128_ps::<0x31>(x, y);
    [low(c0, d0), low(c1, d1), low(c2, d2), low(c3, d3), high(c0, d0), high(c1, d1), high(c2, d2), high(c3, d3)]
}
