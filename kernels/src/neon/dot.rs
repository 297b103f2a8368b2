//! Integer weights times tokens, where the processor multiplies bytes.
//!
//! A walk through the weights as in `gemv`. Weights need no unpacking worth keeping, so many tokens
//! are taken four at a time, and what is made once for all rows is the split of their codes.
use std::arch::aarch64::*;

use super::{
    bytes::{Split, products, split},
    part::{add_scaled, scales, settle},
    vectors::{Floats, load_sums, store_sums},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each},
    matmul::WeightGroups,
    matrix::layout::{self, COLUMNS, Layout, ROWS},
    output::Tile,
};

/// Parts whose codes are split at a time: they stay in the first-level cache.
const PARTS: usize = 32;
/// Tokens whose sums stay in registers.
const TOKENS: usize = 4;

/// Adds a part to the results of `M` tokens.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add<const F: u8, const PART: usize, const M: usize>(
    results: &mut [Floats; M],
    head: &[u8],
    part: &[u8; PART],
    codes: &[Split; M],
    sums: &[&CodeBlock; M],
) {
    let products = products::<F, PART, M>(part, codes);
    let scales = scales::<F, PART>(head, part);
    for t in 0..M {
        let products = settle::<F, PART>(products[t], part, sums[t]);
        add_scaled::<F>(&mut results[t], products, scales, sums[t]);
    }
}

/// Returns the codes of `M` tokens, split.
#[inline]
#[target_feature(enable = "neon")]
fn split_all<const F: u8, const M: usize>(codes: &[&[i16; COLUMNS]; M]) -> [Split; M] {
    codes.map(|codes| split::<F>(codes))
}

/// Writes the products of `S` groups, given by their places in the tile and their bytes, and `M`
/// tokens from `first` on.
#[target_feature(enable = "neon,dotprod")]
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
            let (codes, sums) = (split_all::<F, M>(&each(&codes, at)), each(&sums, at));
            for s in 0..S {
                add::<F, PART, M>(&mut results[s], blocks[s], parts[s], &codes, &sums);
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

/// Writes the products of all groups and `M` tokens from `first` on.
#[target_feature(enable = "neon,dotprod")]
fn tokens<const F: u8, const HEAD: usize, const PART: usize, const M: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    first: usize,
    tile: &mut Tile<'_>,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let (size, group_size) = (HEAD + parts_of_block * PART, Layout::of(weights.format).group(weights.columns));
    let codes = activations.codes_of::<M>(first);
    let sums = activations.blocks_of::<M>(first);
    let mut splits = [split_all::<F, M>(&[&[0; COLUMNS]; M]); PARTS];
    for from in (0..weights.columns / COLUMNS).step_by(PARTS) {
        let splits = &mut splits[..PARTS.min(weights.columns / COLUMNS - from)];
        for (at, split) in splits.iter_mut().enumerate() {
            *split = split_all::<F, M>(&each(&codes, from + at));
        }
        for (place, group) in weights.bytes.chunks_exact(group_size).enumerate() {
            let mut results = [[vdupq_n_f32(0.0); 2]; M];
            let mut values = [0.0; ROWS];
            if from > 0 {
                for t in 0..M {
                    tile.get(first + t, place, std::array::from_mut(&mut values));
                    results[t] = load_sums(&values);
                }
            }
            for (at, split) in (from..).zip(&*splits) {
                let block = &group[at / parts_of_block * size..][..size];
                let part = &block[HEAD..].as_chunks::<PART>().0[at % parts_of_block];
                add::<F, PART, M>(&mut results, block, part, split, &each(&sums, at));
            }
            for t in 0..M {
                store_sums(&mut values, results[t]);
                tile.put(first + t, place, &[values]);
            }
        }
    }
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn gemm<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    for first in (0..activations.rows).step_by(TOKENS) {
        match activations.rows - first {
            1 => tokens::<F, HEAD, PART, 1>(weights, activations, first, tile),
            2 => tokens::<F, HEAD, PART, 2>(weights, activations, first, tile),
            3 => tokens::<F, HEAD, PART, 3>(weights, activations, first, tile),
            _ => tokens::<F, HEAD, PART, TOKENS>(weights, activations, first, tile),
        }
    }
}
