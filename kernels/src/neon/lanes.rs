//! Four f32 at a time: loads, reductions, elementary functions.
use std::arch::aarch64::*;

use crate::softmax::EXP;

#[target_feature(enable = "neon")]
pub(super) fn load(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: `x` is 16 readable bytes.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[target_feature(enable = "neon")]
pub(super) fn store(x: &mut [f32; 4], value: float32x4_t) {
    // SAFETY: `x` is 16 writable bytes.
    unsafe { vst1q_f32(x.as_mut_ptr(), value) }
}

/// Returns four f16 widened, exactly.
#[target_feature(enable = "neon")]
pub(super) fn load_half(x: &[u16; 4]) -> float32x4_t {
    // SAFETY: `x` is 8 readable bytes.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(x.as_ptr()) }))
}

/// Stores four values as the nearest f16.
#[target_feature(enable = "neon")]
pub(super) fn store_half(x: &mut [u16; 4], value: float32x4_t) {
    // SAFETY: `x` is 8 writable bytes.
    unsafe { vst1_u16(x.as_mut_ptr(), vreinterpret_u16_f16(vcvt_f16_f32(value))) }
}

/// Returns up to three values, and zeros behind them.
#[target_feature(enable = "neon")]
pub(super) fn load_tail(x: &[f32]) -> float32x4_t {
    let mut four = [0.0; 4];
    four[..x.len()].copy_from_slice(x);
    load(&four)
}

/// Stores the first of four values, as many as there is room for.
#[target_feature(enable = "neon")]
pub(super) fn store_tail(x: &mut [f32], value: float32x4_t) {
    let mut four = [0.0; 4];
    store(&mut four, value);
    x.copy_from_slice(&four[..x.len()]);
}

/// Replaces each four values, and what is left as if there were four.
#[target_feature(enable = "neon")]
pub(super) fn map(x: &mut [f32], function: impl Fn(float32x4_t) -> float32x4_t) {
    let (fours, tail) = x.as_chunks_mut::<4>();
    for four in fours {
        store(four, function(load(four)));
    }
    if !tail.is_empty() {
        store_tail(tail, function(load_tail(tail)));
    }
}

/// Replaces each four values by a function of them and of their partners.
#[target_feature(enable = "neon")]
pub(super) fn combine(x: &mut [f32], y: &[f32], function: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) {
    let (fours, tail) = x.as_chunks_mut::<4>();
    let (partners, partner_tail) = y.as_chunks::<4>();
    for (four, partner) in fours.iter_mut().zip(partners) {
        store(four, function(load(four), load(partner)));
    }
    if !tail.is_empty() {
        store_tail(tail, function(load_tail(tail), load_tail(partner_tail)));
    }
}

/// Returns the four values widened to f64 and added in pairs of halves.
#[target_feature(enable = "neon")]
pub(super) fn widen_and_add(x: float32x4_t) -> float64x2_t {
    vaddq_f64(vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x))
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Returns x = n ln 2 + r as n and exp(r), |r| ≤ ln 2 / 2.
#[target_feature(enable = "neon")]
fn split_exp(x: float32x4_t) -> (float32x4_t, float32x4_t) {
    let n = vrndnq_f32(vmulq_n_f32(x, LOG2_E));
    // ln 2 in two parts, the first exact in 12 bits, so that n times it is exact.
    let r = vfmsq_f32(x, n, vdupq_n_f32(0.693_359_4));
    let r = vfmsq_f32(r, n, vdupq_n_f32(-2.121_944_4e-4));
    let mut sum = vdupq_n_f32(EXP[0]);
    for coefficient in &EXP[1..] {
        sum = vfmaq_f32(vdupq_n_f32(*coefficient), sum, r);
    }
    (n, sum)
}

/// Returns exp(x) for x ≤ 0, with relative error below 2 ulp, and 0 where it is subnormal; NaN stays NaN.
#[target_feature(enable = "neon")]
pub(super) fn exp_of_negative(x: float32x4_t) -> float32x4_t {
    const SMALLEST: f32 = -87.0;
    let (n, sum) = split_exp(x);
    let exponent = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
    let scaled = vaddq_s32(vreinterpretq_s32_f32(sum), exponent);
    let below = vcltq_f32(x, vdupq_n_f32(SMALLEST));
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(scaled), below))
}

/// Returns exp(x) within 2 ulp, subnormal results included; overflow gives infinity, NaN stays NaN.
///
/// As [`exp_of_negative`], but 2^n is multiplied in as two factors, which reach the whole range.
#[target_feature(enable = "neon")]
pub(super) fn exp(x: float32x4_t) -> float32x4_t {
    // Beyond these the result is 0 or infinity. These minima and maxima of NaN are NaN.
    let x = vminq_f32(vdupq_n_f32(89.0), vmaxq_f32(vdupq_n_f32(-104.0), x));
    let (n, sum) = split_exp(x);
    let n = vcvtq_s32_f32(n);
    let first = vshrq_n_s32::<1>(n);
    vmulq_f32(vmulq_f32(sum, power(first)), power(vsubq_s32(n, first)))
}

/// Returns 2^n for exponents of normal numbers.
#[target_feature(enable = "neon")]
fn power(n: int32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))))
}

/// Returns the transpose of four rows of four.
#[target_feature(enable = "neon")]
pub(super) fn transpose([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let wide = |x| vreinterpretq_f64_f32(x);
    let narrow = |x| vreinterpretq_f32_f64(x);
    let (ab_even, ab_odd) = (wide(vtrn1q_f32(a, b)), wide(vtrn2q_f32(a, b)));
    let (cd_even, cd_odd) = (wide(vtrn1q_f32(c, d)), wide(vtrn2q_f32(c, d)));
    [
        narrow(vtrn1q_f64(ab_even, cd_even)),
        narrow(vtrn1q_f64(ab_odd, cd_odd)),
        narrow(vtrn2q_f64(ab_even, cd_even)),
        narrow(vtrn2q_f64(ab_odd, cd_odd)),
    ]
}
