//! Float weights: two fused multiply-adds for a column of eight rows and a token.
use std::arch::aarch64::*;

use super::vectors::{Floats, floats, halves, load_sums, store_sums, upper_halves};
use crate::{
    activations::ActivationRows,
    format::Format,
    matmul::WeightGroups,
    matrix::layout::{self, Layout, ROWS},
    output::Tile,
    scalar::matmul::FLOAT_COLUMNS,
};

pub(super) const F32: u8 = Format::F32 as u8;
pub(super) const F16: u8 = Format::F16 as u8;
pub(super) const BF16: u8 = Format::Bf16 as u8;

/// Tokens whose sums stay in registers.
const TOKENS: usize = 6;

/// Returns column `index` of a group.
#[inline]
#[target_feature(enable = "neon")]
fn column<const F: u8>(group: &[u8], index: usize) -> Floats {
    match F {
        F16 => halves(group, 16 * index),
        BF16 => upper_halves(group, 16 * index),
        _ => floats(group, 32 * index),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(sums: &mut Floats, weights: Floats, x: f32) {
    *sums = [vfmaq_n_f32(sums[0], weights[0], x), vfmaq_n_f32(sums[1], weights[1], x)];
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Floats, b: Floats) -> Floats {
    [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])]
}

/// Writes the products of `S` groups and `M` tokens: for few tokens, straight from the weights.
#[target_feature(enable = "neon")]
pub(super) fn gemv<const F: u8, const S: usize, const M: usize>(
    places: [usize; S],
    groups: [&[u8]; S],
    activations: ActivationRows<'_>,
    first: usize,
    tile: &mut Tile<'_>,
) {
    let zero = [[[vdupq_n_f32(0.0); 2]; M]; S];
    let mut sums = zero;
    let column_bytes = if F == F32 { 4 * ROWS } else { 2 * ROWS };
    for from in (0..activations.columns).step_by(FLOAT_COLUMNS) {
        let count = FLOAT_COLUMNS.min(activations.columns - from);
        let groups = layout::blocks(&groups, column_bytes * from, column_bytes * count);
        let x = activations.floats_of::<M>(first, from..from + count);
        let mut partial = zero;
        for index in 0..count {
            for s in 0..S {
                let weights = column::<F>(groups[s], index);
                for t in 0..M {
                    multiply_add(&mut partial[s][t], weights, x[t][index]);
                }
            }
        }
        for s in 0..S {
            for t in 0..M {
                sums[s][t] = add(sums[s][t], partial[s][t]);
            }
        }
    }
    for s in 0..S {
        for t in 0..M {
            let mut values = [0.0; ROWS];
            store_sums(&mut values, sums[s][t]);
            tile.put(first + t, places[s], &[values]);
        }
    }
}

/// Two groups, widened: `[column][group][row]`.
type Panel = [[[f32; ROWS]; 2]; FLOAT_COLUMNS];

/// Adds a panel's products to the sums of `T` tokens.
#[target_feature(enable = "neon")]
fn multiply<const T: usize>(panel: &[[[f32; ROWS]; 2]], x: [&[f32]; T], sums: &mut [[[f32; ROWS]; 2]; T]) {
    let mut partial = [[[vdupq_n_f32(0.0); 2]; 2]; T];
    for (index, weights) in panel.iter().enumerate() {
        let weights = [load_sums(&weights[0]), load_sums(&weights[1])];
        for t in 0..T {
            for half in 0..2 {
                multiply_add(&mut partial[t][half], weights[half], x[t][index]);
            }
        }
    }
    for t in 0..T {
        for half in 0..2 {
            let sum = add(load_sums(&sums[t][half]), partial[t][half]);
            store_sums(&mut sums[t][half], sum);
        }
    }
}

#[target_feature(enable = "neon")]
fn tokens<const T: usize>(
    panel: &[[[f32; ROWS]; 2]],
    activations: ActivationRows<'_>,
    (from, first, group): (usize, usize, usize),
    tile: &mut Tile<'_>,
) {
    let mut sums = [[[0.0; ROWS]; 2]; T];
    if from > 0 {
        for (t, sums) in sums.iter_mut().enumerate() {
            tile.get(first + t, group, sums);
        }
    }
    multiply(panel, activations.floats_of(first, from..from + panel.len()), &mut sums);
    for (t, sums) in sums.iter().enumerate() {
        tile.put(first + t, group, sums);
    }
}

/// Writes the products of all groups and tokens: for many tokens, 16 rows are widened once.
#[target_feature(enable = "neon")]
pub(super) fn gemm<const F: u8>(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let size = Layout::of(weights.format).group(weights.columns);
    let mut panel: Panel = [[[0.0; ROWS]; 2]; FLOAT_COLUMNS];
    for (index, groups) in weights.bytes.chunks(2 * size).enumerate() {
        for from in (0..weights.columns).step_by(FLOAT_COLUMNS) {
            let panel = &mut panel[..FLOAT_COLUMNS.min(weights.columns - from)];
            for (half, group) in groups.chunks_exact(size).enumerate() {
                for (at, panel) in panel.iter_mut().enumerate() {
                    store_sums(&mut panel[half], column::<F>(group, from + at));
                }
            }
            for first in (0..activations.rows).step_by(TOKENS) {
                let at = (from, first, 2 * index);
                match activations.rows - first {
                    1 => tokens::<1>(panel, activations, at, tile),
                    2 => tokens::<2>(panel, activations, at, tile),
                    3 => tokens::<3>(panel, activations, at, tile),
                    4 => tokens::<4>(panel, activations, at, tile),
                    5 => tokens::<5>(panel, activations, at, tile),
                    _ => tokens::<6>(panel, activations, at, tile),
                }
            }
        }
    }
}
