//! The online softmax of a tile of few queries, out of registers.
use std::arch::x86_64::*;

use super::{
    numbers::load,
    softmax::{exp, exponentials, largest},
};
use crate::{
    attention::{Cached, KEY_TILE, Softening},
    avx2::soften::rows,
};

/// Softens rows; those that are whole stay in registers from their largest score to their sum.
#[target_feature(enable = "avx512f")]
pub(super) fn soften(scores: &mut [f32], count: usize, states: Softening<'_>, ahead: Cached<'_>) {
    rows(scores, count, states, ahead, |row, most| whole(row, most), |row, most| some(row, most));
}

/// Turns scores to weights and returns their sum; `most` becomes the largest so far.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole(row: &mut [f32; KEY_TILE], most: &mut f32) -> f32 {
    let sixteens = row.as_chunks_mut::<16>().0;
    let mut held = [_mm512_setzero_ps(); KEY_TILE / 16];
    let mut high = _mm512_set1_ps(f32::NEG_INFINITY);
    for i in 0..KEY_TILE / 16 {
        held[i] = load(&sixteens[i]);
        // Where one operand is NaN the second comes out: what was found so far.
        high = _mm512_max_ps(held[i], high);
    }
    *most = most.max(_mm512_reduce_max_ps(high));
    let (most, mut sum) = (_mm512_set1_ps(*most), _mm512_setzero_ps());
    for i in 0..KEY_TILE / 16 {
        let exponential = exp(_mm512_sub_ps(held[i], most));
        // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
        unsafe { _mm512_storeu_ps(sixteens[i].as_mut_ptr(), exponential) };
        sum = _mm512_add_ps(sum, exponential);
    }
    _mm512_reduce_add_ps(sum)
}

/// Does so with a part of a row.
#[target_feature(enable = "avx512f")]
fn some(row: &mut [f32], most: &mut f32) -> f32 {
    *most = most.max(largest(row));
    exponentials(row, *most)
}
