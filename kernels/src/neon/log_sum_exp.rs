//! `ln Σ exp(x)`: one pass for the largest, one for the sum.
use std::arch::aarch64::*;

use super::lanes;
use crate::scalar::{Largest, exp_sum};

#[target_feature(enable = "neon")]
pub(super) fn log_sum_exp_f32(logits: &[f32]) -> f64 {
    let (fours, tail) = logits.as_chunks::<4>();
    // A maximum of NaN and a number is NaN here, and stays it.
    let high = fours.iter().fold(vdupq_n_f32(f32::NEG_INFINITY), |high, four| vmaxq_f32(high, lanes::load(four)));
    let high = vmaxvq_f32(high);
    let any_nan = high.is_nan() || tail.iter().any(|x| x.is_nan());
    let largest = match Largest::of(tail.iter().copied().fold(high, f32::max), any_nan) {
        Largest::Result(result) => return result,
        Largest::Finite(largest) => largest,
    };
    let offset = vdupq_n_f32(largest);
    let mut sum = vdupq_n_f64(0.0);
    for four in fours {
        let terms = lanes::exp_of_negative(vsubq_f32(lanes::load(four), offset));
        sum = vaddq_f64(sum, lanes::widen_and_add(terms));
    }
    f64::from(largest) + (vaddvq_f64(sum) + exp_sum(tail, largest)).ln()
}
