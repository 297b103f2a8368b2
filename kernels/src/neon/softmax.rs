//! Softmax of rows, and its online form.
use std::arch::aarch64::*;

use super::lanes;
use crate::{scalar, softmax::SoftmaxKernels};

pub(super) const KERNELS: SoftmaxKernels = SoftmaxKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    largest: |x| unsafe { largest(x) },
    // SAFETY: as above.
    exponentials: |x, largest| unsafe { exponentials(x, largest) },
    // SAFETY: as above.
    exponential_sum: |x, largest| unsafe { exponential_sum(x, largest) },
    scale: super::activation::KERNELS.scale,
};

/// NaN is passed over, as `f32::max` does.
#[target_feature(enable = "neon")]
fn largest(x: &[f32]) -> f32 {
    let (fours, tail) = x.as_chunks::<4>();
    let high = fours.iter().fold(vdupq_n_f32(f32::NEG_INFINITY), |high, four| vmaxnmq_f32(lanes::load(four), high));
    tail.iter().copied().fold(vmaxnmvq_f32(high), f32::max)
}

#[target_feature(enable = "neon")]
fn exponentials(x: &mut [f32], largest: f32) -> f32 {
    let largest = vdupq_n_f32(largest);
    let mut sum = vdupq_n_f64(0.0);
    let (fours, tail) = x.as_chunks_mut::<4>();
    for four in fours {
        let exponential = lanes::exp(vsubq_f32(lanes::load(four), largest));
        lanes::store(four, exponential);
        sum = vaddq_f64(sum, lanes::widen_and_add(exponential));
    }
    let mut total = vaddvq_f64(sum);
    if !tail.is_empty() {
        lanes::store_tail(tail, lanes::exp(vsubq_f32(lanes::load_tail(tail), largest)));
        total += tail.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    total as f32
}

#[target_feature(enable = "neon")]
fn exponential_sum(x: &[f32], largest: f32) -> f64 {
    let (fours, tail) = x.as_chunks::<4>();
    let offset = vdupq_n_f32(largest);
    let mut sum = vdupq_n_f64(0.0);
    for four in fours {
        let terms = lanes::exp_of_negative(vsubq_f32(lanes::load(four), offset));
        sum = vaddq_f64(sum, lanes::widen_and_add(terms));
    }
    vaddvq_f64(sum) + scalar::exponential_sum(tail, largest)
}
