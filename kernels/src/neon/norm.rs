//! Normalisation of rows.
use std::arch::aarch64::*;

use super::lanes;
use crate::{norm::NormKernels, scalar::inverse_root};

pub(super) const KERNELS: NormKernels = NormKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    rms_norm: |x, weight, eps, out| unsafe { rms_norm(x, weight, eps, out) },
    // SAFETY: as above.
    add_rms_norm: |stream, delta, weight, eps, out| unsafe { add_rms_norm(stream, delta, weight, eps, out) },
    // SAFETY: as above.
    layer_norm: |x, weight, bias, eps, out| unsafe { layer_norm(x, weight, bias, eps, out) },
};

/// Returns Σ (x − mean)² over a row, in f64.
#[target_feature(enable = "neon")]
fn squares(x: &[f32], mean: f64) -> f64 {
    let mean2 = vdupq_n_f64(mean);
    let (mut low, mut high) = (vdupq_n_f64(0.0), vdupq_n_f64(0.0));
    let (fours, tail) = x.as_chunks::<4>();
    for four in fours {
        let x = lanes::load(four);
        let a = vsubq_f64(vcvt_f64_f32(vget_low_f32(x)), mean2);
        let b = vsubq_f64(vcvt_high_f64_f32(x), mean2);
        low = vfmaq_f64(low, a, a);
        high = vfmaq_f64(high, b, b);
    }
    let rest: f64 = tail.iter().map(|x| (f64::from(*x) - mean) * (f64::from(*x) - mean)).sum();
    vaddvq_f64(vaddq_f64(low, high)) + rest
}

#[target_feature(enable = "neon")]
fn mean(x: &[f32]) -> f64 {
    let (fours, tail) = x.as_chunks::<4>();
    let sum = fours.iter().fold(vdupq_n_f64(0.0), |sum, four| vaddq_f64(sum, lanes::widen_and_add(lanes::load(four))));
    (vaddvq_f64(sum) + tail.iter().map(|x| f64::from(*x)).sum::<f64>()) / x.len() as f64
}

#[target_feature(enable = "neon")]
fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = inverse_root(squares(x, 0.0) / x.len() as f64, eps);
    out.copy_from_slice(x);
    lanes::combine(out, weight, |x, weight| vmulq_f32(vmulq_n_f32(x, factor), weight));
}

#[target_feature(enable = "neon")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        norm_row(x, weight, eps, out);
    }
}

#[target_feature(enable = "neon")]
fn add_rms_norm(stream: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let rows = stream.chunks_exact_mut(width).zip(delta.chunks_exact(width)).zip(out.chunks_exact_mut(width));
    for ((stream, delta), out) in rows {
        lanes::combine(stream, delta, |x, y| vaddq_f32(x, y));
        norm_row(stream, weight, eps, out);
    }
}

#[target_feature(enable = "neon")]
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let mean = mean(x);
        let factor = inverse_root(squares(x, mean) / x.len() as f64, eps);
        for (out, x) in out.iter_mut().zip(x) {
            *out = (f64::from(*x) - mean) as f32;
        }
        lanes::combine(out, weight, |x, weight| vmulq_f32(vmulq_n_f32(x, factor), weight));
        lanes::combine(out, bias, |x, bias| vaddq_f32(x, bias));
    }
}
