//! Float weights times many tokens: 32 rows widened once, twelve tokens at a time.
use std::arch::x86_64::*;

use crate::{
    activations::ActivationRows,
    avx2::{float::column, vectors::store_sums},
    matmul::WeightGroups,
    matrix::layout::{Layout, ROWS},
    output::Tile,
    scalar::matmul::FLOAT_COLUMNS,
};

/// Groups of rows in a panel.
const GROUPS: usize = 4;
/// Tokens whose sums stay in registers.
const TOKENS: usize = 12;

/// A column of four groups.
type Column = [[f32; ROWS]; GROUPS];

/// Adds a panel's products to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply<const T: usize>(panel: &[Column], x: [&[f32]; T], sums: &mut [Column; T]) {
    let mut partial = [[_mm512_setzero_ps(); 2]; T];
    for (index, weights) in panel.iter().enumerate() {
        let (weights, _) = weights.as_flattened().as_chunks::<16>();
        // SAFETY: 64 readable bytes each, and `loadu` needs no alignment.
        let weights = unsafe { [_mm512_loadu_ps(weights[0].as_ptr()), _mm512_loadu_ps(weights[1].as_ptr())] };
        for t in 0..T {
            let x = _mm512_set1_ps(x[t][index]);
            partial[t][0] = _mm512_fmadd_ps(weights[0], x, partial[t][0]);
            partial[t][1] = _mm512_fmadd_ps(weights[1], x, partial[t][1]);
        }
    }
    for t in 0..T {
        let (to, _) = sums[t].as_flattened_mut().as_chunks_mut::<16>();
        for half in 0..2 {
            // SAFETY: 64 readable and writable bytes, and neither access needs alignment.
            unsafe {
                let sum = _mm512_add_ps(_mm512_loadu_ps(to[half].as_ptr()), partial[t][half]);
                _mm512_storeu_ps(to[half].as_mut_ptr(), sum);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn tokens<const T: usize>(
    panel: &[Column],
    activations: ActivationRows<'_>,
    (from, first, group): (usize, usize, usize),
    tile: &mut Tile<'_>,
) -> usize {
    let mut sums = [[[0.0; ROWS]; GROUPS]; T];
    if from > 0 {
        for (t, sums) in sums.iter_mut().enumerate() {
            tile.get(first + t, group, sums);
        }
    }
    multiply(panel, activations.floats_of(first, from..from + panel.len()), &mut sums);
    for (t, sums) in sums.iter().enumerate() {
        tile.put(first + t, group, sums);
    }
    T
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn gemm<const F: u8>(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let size = Layout::of(weights.format).group(weights.columns);
    let mut panel = [[[0.0; ROWS]; GROUPS]; FLOAT_COLUMNS];
    for (index, groups) in weights.bytes.chunks(GROUPS * size).enumerate() {
        for from in (0..weights.columns).step_by(FLOAT_COLUMNS) {
            let panel = &mut panel[..FLOAT_COLUMNS.min(weights.columns - from)];
            for (at, group) in groups.chunks_exact(size).enumerate() {
                for (offset, panel) in panel.iter_mut().enumerate() {
                    store_sums(&mut panel[at], column::<F>(group, from + offset));
                }
            }
            let mut first = 0;
            while first < activations.rows {
                let at = (from, first, GROUPS * index);
                first += match activations.rows - first {
                    1 => tokens::<1>(panel, activations, at, tile),
                    2 => tokens::<2>(panel, activations, at, tile),
                    3 => tokens::<3>(panel, activations, at, tile),
                    4 | 5 => tokens::<4>(panel, activations, at, tile),
                    6 | 7 => tokens::<6>(panel, activations, at, tile),
                    8..TOKENS => tokens::<8>(panel, activations, at, tile),
                    _ => tokens::<TOKENS>(panel, activations, at, tile),
                };
            }
        }
    }
}
