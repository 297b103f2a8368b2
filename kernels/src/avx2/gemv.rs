//! Integer weights times a few tokens: every weight is read once.
//!
//! A thread walks through several groups of rows at once that lie far apart, because one stream of
//! loads does not keep a core's share of the memory bandwidth busy, and neighbouring ones are worse
//! than one. Products take long enough for a processor to stop reading in advance, so it is told what
//! comes: with that, two streams are enough for one token (`q8_0` from memory on Zen 1: 93 % of what
//! is read without multiplying, four 85 %, and 83 % if it is not told).
use std::arch::x86_64::*;

use super::{
    part::{Q6K, half_scales, has_minima, minima, quad, raised, scales},
    vectors::{pair, store_sums},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each},
    matmul::CACHE_LINE,
    matrix::layout::{self, COLUMNS, ROWS},
    output::Tile,
};

/// So many bytes before they are multiplied, weights are fetched.
pub(crate) const FETCHED: usize = 1536;

/// Sums of `S` groups and `M` tokens.
type Products<const S: usize, const M: usize> = [[__m256i; M]; S];

/// Adds columns `8 V .. 8 V + 8` of a part.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const F: u8, const PART: usize, const S: usize, const M: usize, const V: usize>(
    products: &mut Products<S, M>,
    parts: &[&[u8; PART]; S],
    codes: &[&[i16; COLUMNS]; M],
) {
    for s in 0..S {
        let weights = quad::<F, PART>(parts[s], V);
        for j in 0..4 {
            for t in 0..M {
                let product = _mm256_madd_epi16(weights[j], pair(codes[t], 4 * V + j));
                products[s][t] = _mm256_add_epi32(products[s][t], product);
            }
        }
    }
}

/// Writes the products of `S` groups, given by their places in the tile and their bytes, and `M`
/// tokens from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn gemv<const F: u8, const HEAD: usize, const PART: usize, const S: usize, const M: usize>(
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
    let mut results = [[_mm256_setzero_ps(); M]; S];
    for block in 0..activations.columns / (COLUMNS * parts_of_block) {
        let blocks = layout::blocks(&groups, block * size, size);
        for part in 0..parts_of_block {
            let parts = layout::parts::<HEAD, PART, S>(&blocks, part);
            let at = block * parts_of_block + part;
            let (codes, sums) = (each(&codes, at), each(&sums, at));
            fetch(&parts);
            let products = products::<F, PART, S, M>(&parts, &codes, &sums);
            for s in 0..S {
                let scales = scales::<F, PART>(blocks[s], parts[s]);
                for t in 0..M {
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(sums[t].scale));
                    results[s][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[s][t]), scale, results[s][t]);
                }
                if has_minima(F) {
                    let minima = minima::<F, PART>(blocks[s], parts[s]);
                    for t in 0..M {
                        let total = _mm256_set1_ps(sums[t].scaled_total);
                        results[s][t] = _mm256_fnmadd_ps(minima, total, results[s][t]);
                    }
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

/// Has what comes after some parts brought near: in each stream the rest of its group or the beginning of the next.
#[inline]
#[target_feature(enable = "avx2")]
fn fetch<const PART: usize, const S: usize>(parts: &[&[u8; PART]; S]) {
    for part in parts {
        for line in (FETCHED..FETCHED + PART).step_by(CACHE_LINE) {
            // A hint, which reads nothing, wherever it points.
            _mm_prefetch::<_MM_HINT_T0>(part.as_ptr().wrapping_add(line).cast());
        }
    }
}

/// Returns the sums of the products of a part, in integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const F: u8, const PART: usize, const S: usize, const M: usize>(
    parts: &[&[u8; PART]; S],
    codes: &[&[i16; COLUMNS]; M],
    sums: &[&CodeBlock; M],
) -> Products<S, M> {
    let zero = [[_mm256_setzero_si256(); M]; S];
    let mut all = zero;
    add::<F, PART, S, M, 0>(&mut all, parts, codes);
    add::<F, PART, S, M, 1>(&mut all, parts, codes);
    if F == Q6K {
        let mut second = zero;
        add::<F, PART, S, M, 2>(&mut second, parts, codes);
        add::<F, PART, S, M, 3>(&mut second, parts, codes);
        for s in 0..S {
            let scales = half_scales(parts[s]);
            for t in 0..M {
                let less = |products, half: usize| {
                    _mm256_sub_epi32(products, _mm256_set1_epi32(raised(F) * sums[t].halves[half]))
                };
                let first = _mm256_mullo_epi32(less(all[s][t], 0), scales[0]);
                all[s][t] = _mm256_add_epi32(first, _mm256_mullo_epi32(less(second[s][t], 1), scales[1]));
            }
        }
    } else {
        add::<F, PART, S, M, 2>(&mut all, parts, codes);
        add::<F, PART, S, M, 3>(&mut all, parts, codes);
        if raised(F) > 0 {
            for products in &mut all {
                for t in 0..M {
                    products[t] = _mm256_sub_epi32(products[t], _mm256_set1_epi32(raised(F) * sums[t].total));
                }
            }
        }
    }
    all
}
