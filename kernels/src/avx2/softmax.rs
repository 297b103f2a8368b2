//! Softmax of rows, and its online form.
use std::arch::x86_64::*;

use super::lanes;
use crate::{scalar, softmax::SoftmaxKernels};

pub(crate) const KERNELS: SoftmaxKernels = SoftmaxKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    largest: |x| unsafe { largest(x) },
    // SAFETY: as above.
    exponentials: |x, largest| unsafe { exponentials(x, largest) },
    // SAFETY: as above.
    exponential_sum: |x, largest| unsafe { exponential_sum(x, largest) },
    scale: super::activation::KERNELS.scale,
};

/// Values whose exponentials are added in f32, before the sum goes on in f64.
pub(crate) const STRETCH: usize = 64;

#[target_feature(enable = "avx2")]
pub(super) fn largest(x: &[f32]) -> f32 {
    let (eights, tail) = x.as_chunks::<8>();
    let mut high = _mm256_set1_ps(f32::NEG_INFINITY);
    for eight in eights {
        // Where one operand is NaN the second comes out: what was found so far.
        high = _mm256_max_ps(lanes::load(eight), high);
    }
    tail.iter().copied().fold(lanes::largest(high), f32::max)
}

/// Returns exp(x − largest), at most exp(88). NaN passes: it is the second operand.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn relative(x: __m256, largest: __m256) -> __m256 {
    lanes::normal_exp(_mm256_min_ps(_mm256_set1_ps(88.0), _mm256_sub_ps(x, largest)))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn exponentials(x: &mut [f32], largest: f32) -> f32 {
    let largest = _mm256_set1_ps(largest);
    let mut total = 0.0f64;
    for stretch in x.chunks_mut(STRETCH) {
        let mut sum = _mm256_setzero_ps();
        let (eights, tail) = stretch.as_chunks_mut::<8>();
        for eight in eights {
            let exponential = relative(lanes::load(eight), largest);
            lanes::store(eight, exponential);
            sum = _mm256_add_ps(sum, exponential);
        }
        total += f64::from(lanes::sum(sum));
        if !tail.is_empty() {
            lanes::store_tail(tail, relative(lanes::load_tail(tail), largest));
            total += tail.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
    }
    total as f32
}

/// Vectors whose exponentials are computed side by side: each step of one waits for the one before.
const SIDE_BY_SIDE: usize = 4;

#[target_feature(enable = "avx2,fma")]
fn exponential_sum(x: &[f32], largest: f32) -> f64 {
    let (stretches, tail) = x.as_chunks::<STRETCH>();
    let offset = _mm256_set1_ps(largest);
    let mut total = _mm256_setzero_pd();
    for stretch in stretches {
        let mut sums = [_mm256_setzero_ps(); SIDE_BY_SIDE];
        for eights in stretch.as_chunks::<8>().0.as_chunks::<SIDE_BY_SIDE>().0 {
            let mut differences = sums;
            for i in 0..SIDE_BY_SIDE {
                differences[i] = _mm256_sub_ps(lanes::load(&eights[i]), offset);
            }
            let terms = lanes::exp_of_negative(differences);
            for i in 0..SIDE_BY_SIDE {
                sums[i] = _mm256_add_ps(sums[i], terms[i]);
            }
        }
        let [a, b, c, d] = sums;
        total = _mm256_add_pd(total, lanes::widen_and_add(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d))));
    }
    lanes::sum_f64(total) + scalar::exponential_sum(tail, largest)
}
