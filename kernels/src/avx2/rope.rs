//! Rotary position embedding, applied.
use std::arch::x86_64::*;

use super::lanes;
use crate::{rope::RopeKernels, scalar::rotate_pair};

pub(super) const KERNELS: RopeKernels = RopeKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    interleaved: |heads, head_dim, cos, sin| unsafe { interleaved(heads, head_dim, cos, sin) },
    // SAFETY: as above.
    halves: |heads, head_dim, cos, sin| unsafe { halves(heads, head_dim, cos, sin) },
};

/// Returns four values, each twice.
#[target_feature(enable = "avx2")]
fn twice(x: &[f32; 4]) -> __m256 {
    // SAFETY: `x` is 16 readable bytes, and `loadu` needs no alignment.
    let x = _mm256_castps128_ps256(unsafe { _mm_loadu_ps(x.as_ptr()) });
    _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
}

#[target_feature(enable = "avx2,fma")]
fn interleaved(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let ((cos4, cos_tail), (sin4, sin_tail)) = (cos.as_chunks::<4>(), sin.as_chunks::<4>());
    for head in heads.chunks_exact_mut(head_dim) {
        let (rotating, _) = head.split_at_mut(2 * cos.len());
        let (eights, tail) = rotating.as_chunks_mut::<8>();
        for ((eight, cos), sin) in eights.iter_mut().zip(cos4).zip(sin4) {
            let x = lanes::load(eight);
            let swapped = _mm256_permute_ps::<0b10_11_00_01>(x);
            lanes::store(eight, _mm256_fmaddsub_ps(x, twice(cos), _mm256_mul_ps(swapped, twice(sin))));
        }
        let (pairs, _) = tail.as_chunks_mut::<2>();
        for (([a, b], cos), sin) in pairs.iter_mut().zip(cos_tail).zip(sin_tail) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn halves(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let ((cos8, cos_tail), (sin8, sin_tail)) = (cos.as_chunks::<8>(), sin.as_chunks::<8>());
    for head in heads.chunks_exact_mut(head_dim) {
        let (first, rest) = head.split_at_mut(cos.len());
        let (first8, first_tail) = first.as_chunks_mut::<8>();
        let (second8, second_tail) = rest[..cos.len()].as_chunks_mut::<8>();
        for (((a, b), cos), sin) in first8.iter_mut().zip(second8).zip(cos8).zip(sin8) {
            let (x, y, cos, sin) = (lanes::load(a), lanes::load(b), lanes::load(cos), lanes::load(sin));
            lanes::store(a, _mm256_fmsub_ps(x, cos, _mm256_mul_ps(y, sin)));
            lanes::store(b, _mm256_fmadd_ps(x, sin, _mm256_mul_ps(y, cos)));
        }
        for (((a, b), cos), sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}
