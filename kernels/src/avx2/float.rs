//! Float weights: one fused multiply-add for a column of eight rows and a token.
use std::arch::x86_64::*;

use super::{
    gemv::FETCHED,
    matmul::fetch,
    vectors::{floats, halves, load_sums, store_floats, store_sums, upper_halves},
};
use crate::{
    activations::ActivationRows,
    format::Format,
    matmul::WeightGroups,
    matrix::layout::{self, Layout, ROWS},
    output::Tile,
    scalar::matmul::FLOAT_COLUMNS,
};

pub(crate) const F32: u8 = Format::F32 as u8;
pub(crate) const F16: u8 = Format::F16 as u8;
pub(crate) const BF16: u8 = Format::Bf16 as u8;

/// Tokens whose sums stay in registers.
const TOKENS: usize = 6;

/// Returns column `index` of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn column<const F: u8>(group: &[u8], index: usize) -> __m256 {
    match F {
        F16 => halves(group, 16 * index),
        BF16 => upper_halves(group, 16 * index),
        _ => floats(group, 32 * index),
    }
}

/// Writes the products of `S` groups and `M` tokens: for few tokens, straight from the weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn gemv<const F: u8, const S: usize, const M: usize>(
    places: [usize; S],
    groups: [&[u8]; S],
    activations: ActivationRows<'_>,
    first: usize,
    tile: &mut Tile<'_>,
) {
    let zero = [[_mm256_setzero_ps(); M]; S];
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
                    partial[s][t] = _mm256_fmadd_ps(weights, _mm256_set1_ps(x[t][index]), partial[s][t]);
                }
            }
        }
        for s in 0..S {
            for t in 0..M {
                sums[s][t] = _mm256_add_ps(sums[s][t], partial[s][t]);
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

/// Groups whose sums run side by side: each addition to a sum waits for the one before, and their places stay in
/// registers.
const SIDE_BY_SIDE: usize = 4;

/// Returns the products of `S` neighbouring groups, whose columns have `BYTES` bytes, with one token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn neighbours<const F: u8, const BYTES: usize, const S: usize>(groups: &[u8], x: &[f32]) -> [[f32; ROWS]; S] {
    let size = groups.len() / S;
    let mut columns: [&[[u8; BYTES]]; S] = [&[]; S];
    for s in 0..S {
        columns[s] = &groups[s * size..].as_chunks().0[..x.len()];
    }
    let mut sums = [_mm256_setzero_ps(); S];
    for index in 0..x.len() {
        let x = _mm256_set1_ps(x[index]);
        for s in 0..S {
            sums[s] = _mm256_fmadd_ps(column::<F>(&columns[s][index], 0), x, sums[s]);
        }
    }
    let mut values = [[0.0; ROWS]; S];
    for s in 0..S {
        store_sums(&mut values[s], _mm256_add_ps(_mm256_setzero_ps(), sums[s]));
    }
    values
}

/// Writes the products of all groups with few tokens and few columns, of `BYTES` bytes each.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn narrow<const F: u8, const BYTES: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    let size = Layout::of(weights.format).group(weights.columns);
    let chunks = weights.bytes.chunks(SIDE_BY_SIDE * size);
    let mut ahead = weights.ahead.up_to(FETCHED).shares(tile.groups().div_ceil(SIDE_BY_SIDE));
    for (index, groups) in chunks.enumerate() {
        fetch(ahead.next());
        for token in 0..activations.rows {
            let x = activations.row_floats(token);
            if groups.len() == SIDE_BY_SIDE * size {
                let sums = neighbours::<F, BYTES, SIDE_BY_SIDE>(groups, x);
                tile.put(token, SIDE_BY_SIDE * index, &sums);
            } else {
                for (at, group) in groups.chunks_exact(size).enumerate() {
                    let sums = neighbours::<F, BYTES, 1>(group, x);
                    tile.put(token, SIDE_BY_SIDE * index + at, &[sums[0]]);
                }
            }
        }
    }
}

/// Tokens whose sums wait beside each other while panel after panel is added: in the output, their rows lie so far
/// apart that one pushes the other out of the near cache.
const WAITING: usize = 32 * TOKENS;

/// Columns of a group of eight rows, in f32.
type Column = [u8; 4 * ROWS];

/// Adds the products of some columns of two groups to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const T: usize>(panel: [&[Column]; 2], x: [&[f32]; T], sums: &mut [[[f32; ROWS]; 2]; T]) {
    let mut partial = [[_mm256_setzero_ps(); 2]; T];
    for (index, (one, other)) in panel[0].iter().zip(panel[1]).enumerate() {
        let weights = [column::<F32>(one, 0), column::<F32>(other, 0)];
        for t in 0..T {
            let x = _mm256_set1_ps(x[t][index]);
            partial[t][0] = _mm256_fmadd_ps(weights[0], x, partial[t][0]);
            partial[t][1] = _mm256_fmadd_ps(weights[1], x, partial[t][1]);
        }
    }
    for t in 0..T {
        for half in 0..2 {
            let sum = _mm256_add_ps(load_sums(&sums[t][half]), partial[t][half]);
            store_sums(&mut sums[t][half], sum);
        }
    }
}

/// Adds the products of a panel, columns `from` on, to the sums of the tokens from `first` on, `T` of them.
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<const T: usize>(
    panel: [&[Column]; 2],
    activations: ActivationRows<'_>,
    (from, first): (usize, usize),
    sums: &mut [[[f32; ROWS]; 2]],
) {
    if let Some(sums) = sums.first_chunk_mut::<T>() {
        multiply(panel, activations.floats_of(first, from..from + panel[0].len()), sums);
    }
}

/// Returns some columns of a group in f32: where they are, or widened into `room`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened<'a, const F: u8>(
    group: &'a [u8],
    (from, count): (usize, usize),
    room: &'a mut [Column; FLOAT_COLUMNS],
) -> &'a [Column] {
    if F == F32 {
        return &group.as_chunks().0[from..from + count];
    }
    for (at, room) in room[..count].iter_mut().enumerate() {
        store_floats(room, column::<F>(group, from + at));
    }
    &room[..count]
}

/// Writes the products of all groups and tokens: for many tokens, 16 rows are widened once for [`WAITING`] of them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn gemm<const F: u8>(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let size = Layout::of(weights.format).group(weights.columns);
    let mut rooms = [[[0; 4 * ROWS]; FLOAT_COLUMNS]; 2];
    let mut all = [[[0.0; ROWS]; 2]; WAITING];
    for (index, groups) in weights.bytes.chunks(2 * size).enumerate() {
        let (one, other) = groups.split_at(size);
        // The last may have no neighbour: what comes of it twice, the tile has no place for.
        let other = if other.is_empty() { one } else { other };
        for start in (0..activations.rows).step_by(WAITING) {
            let waiting = &mut all[..WAITING.min(activations.rows - start)];
            waiting.fill([[0.0; ROWS]; 2]);
            for from in (0..weights.columns).step_by(FLOAT_COLUMNS) {
                let columns = (from, FLOAT_COLUMNS.min(weights.columns - from));
                let [room, next] = &mut rooms;
                let panel = [widened::<F>(one, columns, room), widened::<F>(other, columns, next)];
                for (at, sums) in waiting.chunks_mut(TOKENS).enumerate() {
                    let at = (from, start + at * TOKENS);
                    match sums.len() {
                        1 => tokens::<1>(panel, activations, at, sums),
                        2 => tokens::<2>(panel, activations, at, sums),
                        3 => tokens::<3>(panel, activations, at, sums),
                        4 => tokens::<4>(panel, activations, at, sums),
                        5 => tokens::<5>(panel, activations, at, sums),
                        _ => tokens::<6>(panel, activations, at, sums),
                    }
                }
            }
            for (t, sums) in waiting.iter().enumerate() {
                tile.put(start + t, 2 * index, sums);
            }
        }
    }
}
