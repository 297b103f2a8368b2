//! Exponentials of rows, sixteen at a time.
use std::arch::x86_64::*;

use crate::{
    avx2::{self, softmax::STRETCH},
    scalar,
    softmax::{EXP, SoftmaxKernels},
};

pub(super) const KERNELS: SoftmaxKernels = SoftmaxKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    largest: |x| unsafe { largest(x) },
    // SAFETY: as above.
    exponentials: |x, largest| unsafe { exponentials(x, largest) },
    // SAFETY: as above.
    exponential_sum: |x, largest| unsafe { exponential_sum(x, largest) },
    ..avx2::softmax::KERNELS
};

/// Returns the lanes that hold so many values.
fn lanes(count: usize) -> __mmask16 {
    if count >= 16 { __mmask16::MAX } else { (1 << count) - 1 }
}

#[target_feature(enable = "avx512f")]
fn load(x: &[f32]) -> __m512 {
    // SAFETY: only the lanes of values that are there are read.
    unsafe { _mm512_maskz_loadu_ps(lanes(x.len()), x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut high = _mm512_set1_ps(f32::NEG_INFINITY);
    for x in x.chunks(16) {
        // Where one operand is NaN the second comes out: what was found so far.
        high = _mm512_mask_max_ps(high, lanes(x.len()), load(x), high);
    }
    _mm512_reduce_max_ps(high)
}

/// Returns exp(x) within 2 ulp, as the `exp` of eight lanes does; the power of two is exact.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp(x: __m512) -> __m512 {
    // Beyond these the result is 0 or infinity. NaN passes: it is the second operand.
    let x = _mm512_min_ps(_mm512_set1_ps(89.0), _mm512_max_ps(_mm512_set1_ps(-104.0), x));
    let scaled = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(scaled);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let mut sum = _mm512_set1_ps(EXP[0]);
    for coefficient in &EXP[1..] {
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(*coefficient));
    }
    _mm512_scalef_ps(sum, n)
}

#[target_feature(enable = "avx512f")]
pub(super) fn exponentials(x: &mut [f32], largest: f32) -> f32 {
    let largest = _mm512_set1_ps(largest);
    let mut total = 0.0f64;
    for stretch in x.chunks_mut(STRETCH) {
        let mut sum = _mm512_setzero_ps();
        for x in stretch.chunks_mut(16) {
            let lanes = lanes(x.len());
            let exponential = exp(_mm512_sub_ps(load(x), largest));
            // SAFETY: only the lanes of values that are there are written.
            unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), lanes, exponential) };
            sum = _mm512_mask_add_ps(sum, lanes, sum, exponential);
        }
        total += f64::from(_mm512_reduce_add_ps(sum));
    }
    total as f32
}

#[target_feature(enable = "avx512f")]
fn exponential_sum(x: &[f32], largest: f32) -> f64 {
    let (stretches, tail) = x.as_chunks::<STRETCH>();
    let offset = _mm512_set1_ps(largest);
    let mut total = 0.0;
    for stretch in stretches {
        let mut sum = _mm512_setzero_ps();
        for x in stretch.as_chunks::<16>().0 {
            sum = _mm512_add_ps(sum, exp(_mm512_sub_ps(load(x), offset)));
        }
        total += f64::from(_mm512_reduce_add_ps(sum));
    }
    total + scalar::exponential_sum(tail, largest)
}
