//! `ln Σ exp(x)`: one pass for the largest, one for the sum.
use std::arch::x86_64::*;

use super::lanes;
use crate::scalar::{Largest, exp_sum};

#[target_feature(enable = "avx2,fma")]
pub(super) fn log_sum_exp_f32(logits: &[f32]) -> f64 {
    let (eights, tail) = logits.as_chunks::<8>();
    let mut high = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut unordered = _mm256_setzero_ps();
    for eight in eights {
        let x = lanes::load(eight);
        high = _mm256_max_ps(high, x);
        unordered = _mm256_or_ps(unordered, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    }
    let any_nan = _mm256_movemask_ps(unordered) != 0 || tail.iter().any(|x| x.is_nan());
    let largest = tail.iter().copied().fold(lanes::largest(high), f32::max);
    let largest = match Largest::of(largest, any_nan) {
        Largest::Result(result) => return result,
        Largest::Finite(largest) => largest,
    };
    let offset = _mm256_set1_ps(largest);
    let mut sum = _mm256_setzero_pd();
    for eight in eights {
        let terms = lanes::normal_exp(_mm256_sub_ps(lanes::load(eight), offset));
        sum = _mm256_add_pd(sum, lanes::widen_and_add(terms));
    }
    f64::from(largest) + (lanes::sum_f64(sum) + exp_sum(tail, largest)).ln()
}
