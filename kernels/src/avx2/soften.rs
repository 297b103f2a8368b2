//! The online softmax of a tile of few queries, out of registers.
use std::arch::x86_64::*;

use super::{
    ahead::Ahead,
    lanes,
    softmax::{exponentials, largest},
};
use crate::attention::{Cached, KEY_TILE, Softening};

/// Does what [`crate::attention::Soften`] says, given what turns a whole row of scores and a part of one to weights,
/// makes the largest so far theirs, and returns their sum.
#[inline(always)]
pub(crate) fn rows(
    scores: &mut [f32],
    count: usize,
    states: Softening<'_>,
    ahead: Cached<'_>,
    whole: impl Fn(&mut [f32; KEY_TILE], &mut f32) -> f32,
    some: impl Fn(&mut [f32], &mut f32) -> f32,
) {
    let Softening { largest: most, totals, factors } = states;
    let mut ahead = Ahead::new(ahead, factors.len());
    let rows = scores.as_chunks_mut::<KEY_TILE>().0.iter_mut();
    for (((row, most), total), factor) in rows.zip(most).zip(totals).zip(factors) {
        ahead.step();
        let before = *most;
        let sum = if count == KEY_TILE { whole(row, most) } else { some(&mut row[..count], most) };
        *factor = Softening::factor(before, *most);
        *total = *total * *factor + sum;
    }
}

/// Softens rows; those that are whole stay in registers from their largest score to their sum.
#[target_feature(enable = "avx2,fma")]
pub(super) fn soften(scores: &mut [f32], count: usize, states: Softening<'_>, ahead: Cached<'_>) {
    rows(scores, count, states, ahead, |row, most| whole(row, most), |row, most| some(row, most));
}

/// Turns scores to weights and returns their sum; `most` becomes the largest so far.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn whole(row: &mut [f32; KEY_TILE], most: &mut f32) -> f32 {
    let eights = row.as_chunks_mut::<8>().0;
    let mut held = [_mm256_setzero_ps(); KEY_TILE / 8];
    let mut high = _mm256_set1_ps(f32::NEG_INFINITY);
    for i in 0..KEY_TILE / 8 {
        held[i] = lanes::load(&eights[i]);
        // Where one operand is NaN the second comes out: what was found so far.
        high = _mm256_max_ps(held[i], high);
    }
    *most = most.max(lanes::largest(high));
    let (most, mut sum) = (_mm256_set1_ps(*most), _mm256_setzero_ps());
    for i in 0..KEY_TILE / 8 {
        let exponential = lanes::normal_exp(_mm256_sub_ps(held[i], most));
        lanes::store(&mut eights[i], exponential);
        sum = _mm256_add_ps(sum, exponential);
    }
    lanes::sum(sum)
}

/// Does so with a part of a row.
#[target_feature(enable = "avx2,fma")]
fn some(row: &mut [f32], most: &mut f32) -> f32 {
    *most = most.max(largest(row));
    exponentials(row, *most)
}
