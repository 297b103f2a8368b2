//! Normalisation of rows.
use std::arch::x86_64::*;

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
#[target_feature(enable = "avx2,fma")]
fn squares(x: &[f32], mean: f64) -> f64 {
    let mean4 = _mm256_set1_pd(mean);
    let (mut low, mut high) = (_mm256_setzero_pd(), _mm256_setzero_pd());
    let (eights, tail) = x.as_chunks::<8>();
    for eight in eights {
        let x = lanes::load(eight);
        let a = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), mean4);
        let b = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x)), mean4);
        low = _mm256_fmadd_pd(a, a, low);
        high = _mm256_fmadd_pd(b, b, high);
    }
    let rest: f64 = tail.iter().map(|x| (f64::from(*x) - mean) * (f64::from(*x) - mean)).sum();
    lanes::sum_f64(_mm256_add_pd(low, high)) + rest
}

#[target_feature(enable = "avx2")]
fn mean(x: &[f32]) -> f64 {
    let (eights, tail) = x.as_chunks::<8>();
    let sum = eights
        .iter()
        .fold(_mm256_setzero_pd(), |sum, eight| _mm256_add_pd(sum, lanes::widen_and_add(lanes::load(eight))));
    (lanes::sum_f64(sum) + tail.iter().map(|x| f64::from(*x)).sum::<f64>()) / x.len() as f64
}

#[target_feature(enable = "avx2,fma")]
fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = inverse_root(squares(x, 0.0) / x.len() as f64, eps);
    out.copy_from_slice(x);
    let factor = _mm256_set1_ps(factor);
    lanes::combine(out, weight, |x, weight| _mm256_mul_ps(_mm256_mul_ps(x, factor), weight));
}

#[target_feature(enable = "avx2,fma")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        norm_row(x, weight, eps, out);
    }
}

#[target_feature(enable = "avx2,fma")]
fn add_rms_norm(stream: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let rows = stream.chunks_exact_mut(width).zip(delta.chunks_exact(width)).zip(out.chunks_exact_mut(width));
    for ((stream, delta), out) in rows {
        lanes::combine(stream, delta, |x, y| _mm256_add_ps(x, y));
        norm_row(stream, weight, eps, out);
    }
}

#[target_feature(enable = "avx2,fma")]
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let mean = mean(x);
        let factor = inverse_root(squares(x, mean) / x.len() as f64, eps);
        for (out, x) in out.iter_mut().zip(x) {
            *out = (f64::from(*x) - mean) as f32;
        }
        let factor = _mm256_set1_ps(factor);
        lanes::combine(out, weight, |x, weight| _mm256_mul_ps(_mm256_mul_ps(x, factor), weight));
        lanes::combine(out, bias, |x, bias| _mm256_add_ps(x, bias));
    }
}
