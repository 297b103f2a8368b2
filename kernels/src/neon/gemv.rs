//! Integer weights times a few tokens: every weight is read once.
//!
//! A thread walks through several groups of rows at once that lie far apart, because one stream of
//! loads does not keep a core's share of the memory bandwidth busy.
use std::arch::aarch64::*;

use super::{
    part::{add_scaled, columns, scales, settle},
    vectors::{Integers, load_codes, store_sums},
};
use crate::{
    activations::{ActivationRows, each},
    matrix::layout::{self, COLUMNS, ROWS},
    output::Tile,
};

/// Adds the products of eight columns of weights with eight codes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn multiply(sums: &mut Integers, weights: &[int16x8_t; 8], x: int16x8_t) {
    macro_rules! column {
        ($($column:literal)+) => {
            $(
                sums[0] = vmlal_laneq_s16::<$column>(sums[0], vget_low_s16(weights[$column]), x);
                sums[1] = vmlal_high_laneq_s16::<$column>(sums[1], weights[$column], x);
            )+
        };
    }
    column!(0 1 2 3 4 5 6 7);
}

/// Adds columns `8 V .. 8 V + 8` of a part.
#[inline]
#[target_feature(enable = "neon")]
fn add<const F: u8, const PART: usize, const M: usize, const V: usize>(
    products: &mut [[Integers; 2]; M],
    part: &[u8; PART],
    codes: &[&[i16; COLUMNS]; M],
) {
    let weights = columns::<F, PART>(part, V);
    for t in 0..M {
        multiply(&mut products[t][V / 2], &weights, load_codes(&codes[t].as_chunks().0[V]));
    }
}

/// Returns the products of a part and `M` tokens, for each token those of the first and of the second
/// sixteen columns.
#[inline]
#[target_feature(enable = "neon")]
fn products<const F: u8, const PART: usize, const M: usize>(
    part: &[u8; PART],
    codes: &[&[i16; COLUMNS]; M],
) -> [[Integers; 2]; M] {
    let mut all = [[[vdupq_n_s32(0); 2]; 2]; M];
    add::<F, PART, M, 0>(&mut all, part, codes);
    add::<F, PART, M, 1>(&mut all, part, codes);
    add::<F, PART, M, 2>(&mut all, part, codes);
    add::<F, PART, M, 3>(&mut all, part, codes);
    all
}

/// Writes the products of `S` groups, given by their places in the tile and their bytes, and `M`
/// tokens from `first` on.
#[target_feature(enable = "neon")]
pub(super) fn gemv<const F: u8, const HEAD: usize, const PART: usize, const S: usize, const M: usize>(
    places: [usize; S],
    groups: [&[u8]; S],
    activations: ActivationRows<'_>,
    first: usize,
    tile: &mut Tile<'_>,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let size = HEAD + parts_of_block * PART;
    let codes = activations.codes_of::<M>(first);
    let sums = activations.blocks_of::<M>(first);
    let mut results = [[[vdupq_n_f32(0.0); 2]; M]; S];
    for block in 0..activations.columns / (COLUMNS * parts_of_block) {
        let blocks = layout::blocks(&groups, block * size, size);
        for part in 0..parts_of_block {
            let parts = layout::parts::<HEAD, PART, S>(&blocks, part);
            let at = block * parts_of_block + part;
            let (codes, sums) = (each(&codes, at), each(&sums, at));
            for s in 0..S {
                let products = products::<F, PART, M>(parts[s], &codes);
                let scales = scales::<F, PART>(blocks[s], parts[s]);
                for t in 0..M {
                    let products = settle::<F, PART>(products[t], parts[s], sums[t]);
                    add_scaled::<F>(&mut results[s][t], products, scales, sums[t]);
                }
            }
        }
    }
    for s in 0..S {
        for t in 0..M {
            let mut values = [0.0; ROWS];
            store_sums(&mut values, results[s][t]);
            tile.put(first + t, places[s], &[values]);
        }
    }
}
