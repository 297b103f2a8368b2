//! Rotary position embedding, applied.
use std::arch::aarch64::*;

use super::lanes;
use crate::{rope::RopeKernels, scalar::rotate_pair};

pub(super) const KERNELS: RopeKernels = RopeKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    interleaved: |heads, head_dim, cos, sin| unsafe { interleaved(heads, head_dim, cos, sin) },
    // SAFETY: as above.
    halves: |heads, head_dim, cos, sin| unsafe { halves(heads, head_dim, cos, sin) },
};

/// Returns `(x cos − y sin, x sin + y cos)`.
#[target_feature(enable = "neon")]
fn rotate(x: float32x4_t, y: float32x4_t, cos: &[f32; 4], sin: &[f32; 4]) -> (float32x4_t, float32x4_t) {
    let (cos, sin) = (lanes::load(cos), lanes::load(sin));
    (vfmsq_f32(vmulq_f32(x, cos), y, sin), vfmaq_f32(vmulq_f32(y, cos), x, sin))
}

#[target_feature(enable = "neon")]
fn interleaved(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let ((cos4, cos_tail), (sin4, sin_tail)) = (cos.as_chunks::<4>(), sin.as_chunks::<4>());
    for head in heads.chunks_exact_mut(head_dim) {
        let (rotating, _) = head.split_at_mut(2 * cos.len());
        let (eights, tail) = rotating.as_chunks_mut::<8>();
        for ((eight, cos), sin) in eights.iter_mut().zip(cos4).zip(sin4) {
            // SAFETY: `eight` is 32 readable bytes.
            let float32x4x2_t(x, y) = unsafe { vld2q_f32(eight.as_ptr()) };
            let (x, y) = rotate(x, y, cos, sin);
            // SAFETY: `eight` is 32 writable bytes.
            unsafe { vst2q_f32(eight.as_mut_ptr(), float32x4x2_t(x, y)) };
        }
        let (pairs, _) = tail.as_chunks_mut::<2>();
        for (([a, b], cos), sin) in pairs.iter_mut().zip(cos_tail).zip(sin_tail) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}

#[target_feature(enable = "neon")]
fn halves(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let ((cos4, cos_tail), (sin4, sin_tail)) = (cos.as_chunks::<4>(), sin.as_chunks::<4>());
    for head in heads.chunks_exact_mut(head_dim) {
        let (first, rest) = head.split_at_mut(cos.len());
        let (first4, first_tail) = first.as_chunks_mut::<4>();
        let (second4, second_tail) = rest[..cos.len()].as_chunks_mut::<4>();
        for (((a, b), cos), sin) in first4.iter_mut().zip(second4).zip(cos4).zip(sin4) {
            let (x, y) = rotate(lanes::load(a), lanes::load(b), cos, sin);
            lanes::store(a, x);
            lanes::store(b, y);
        }
        for (((a, b), cos), sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}
