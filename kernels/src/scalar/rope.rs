//! Rotary position embedding, applied.
use crate::rope::RopeKernels;

pub(crate) const KERNELS: RopeKernels = RopeKernels { interleaved, halves };

pub(crate) fn rotate_pair(a: &mut f32, b: &mut f32, cos: f32, sin: f32) {
    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
}

fn interleaved(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(head_dim) {
        let (pairs, _) = head.as_chunks_mut::<2>();
        for (([a, b], cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}

fn halves(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(head_dim) {
        let (first, rest) = head.split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
            rotate_pair(a, b, *cos, *sin);
        }
    }
}
