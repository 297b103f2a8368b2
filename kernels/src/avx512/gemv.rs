//! Integer weights times a few tokens, two groups of rows in a register.
use std::arch::x86_64::*;

use super::{
    bytes::{Codes, byte_offset, fours},
    part::{half_scales, minima, quad, scales},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each},
    avx2::part::{Q6K, has_minima, offset},
    matrix::layout::{self, COLUMNS, ROWS},
    output::Tile,
};

/// Sums of `P` pairs of groups and `M` tokens.
type Products<const P: usize, const M: usize> = [[__m512i; M]; P];

/// Adds columns `8 V .. 8 V + 8` of the parts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn add<const F: u8, const PART: usize, const P: usize, const M: usize, const V: usize, C: Codes>(
    products: &mut Products<P, M>,
    parts: &[[&[u8; PART]; P]; 2],
    codes: &[&C; M],
) {
    for p in 0..P {
        if C::ARE_BYTES {
            let weights = fours::<F, PART>([parts[0][p], parts[1][p]], V);
            for j in 0..2 {
                for t in 0..M {
                    let word = _mm512_set1_epi32(codes[t].word(2 * V + j));
                    products[p][t] = _mm512_dpbusd_epi32(products[p][t], weights[j], word);
                }
            }
            continue;
        }
        let weights = quad::<F, PART>([parts[0][p], parts[1][p]], V);
        for j in 0..4 {
            for t in 0..M {
                let word = _mm512_set1_epi32(codes[t].word(4 * V + j));
                products[p][t] = _mm512_dpwssd_epi32(products[p][t], weights[j], word);
            }
        }
    }
}

/// Writes the products of `P` pairs of groups, given by their places in the tile and their bytes
/// (first all first ones, then all second ones), and `M` tokens from `first` on.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn gemv<const F: u8, const HEAD: usize, const PART: usize, const P: usize, const M: usize, C: Codes>(
    places: [[usize; P]; 2],
    groups: [[&[u8]; P]; 2],
    activations: ActivationRows<'_>,
    first: usize,
    tile: &mut Tile<'_>,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let size = HEAD + parts_of_block * PART;
    let codes = C::of::<M>(activations, first);
    let sums = activations.blocks_of::<M>(first);
    let mut results = [[_mm512_setzero_ps(); M]; P];
    for block in 0..activations.columns / (COLUMNS * parts_of_block) {
        let at = block * size;
        let blocks = [layout::blocks(&groups[0], at, size), layout::blocks(&groups[1], at, size)];
        for part in 0..parts_of_block {
            let parts =
                [layout::parts::<HEAD, PART, P>(&blocks[0], part), layout::parts::<HEAD, PART, P>(&blocks[1], part)];
            let at = block * parts_of_block + part;
            let (codes, sums) = (each(&codes, at), each(&sums, at));
            let products = products::<F, PART, P, M, C>(&parts, &codes, &sums);
            for p in 0..P {
                let heads = [blocks[0][p], blocks[1][p]];
                let parts = [parts[0][p], parts[1][p]];
                let scales = scales::<F, PART>(heads, parts);
                for t in 0..M {
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(sums[t].scale));
                    results[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[p][t]), scale, results[p][t]);
                }
                if has_minima(F) {
                    let minima = minima::<F, PART>(heads, parts);
                    for t in 0..M {
                        let total = _mm512_set1_ps(sums[t].scaled_total);
                        results[p][t] = _mm512_fnmadd_ps(minima, total, results[p][t]);
                    }
                }
            }
        }
    }
    for p in 0..P {
        for t in 0..M {
            let mut values = [0.0; 2 * ROWS];
            // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), results[p][t]) };
            let (halves, _) = values.as_chunks::<ROWS>();
            for (places, half) in places.iter().zip(halves) {
                tile.put(first + t, places[p], std::array::from_ref(half));
            }
        }
    }
}

/// Returns the sums of the products of a part, in integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn products<const F: u8, const PART: usize, const P: usize, const M: usize, C: Codes>(
    parts: &[[&[u8; PART]; P]; 2],
    codes: &[&C; M],
    sums: &[&CodeBlock; M],
) -> Products<P, M> {
    let offset = if C::ARE_BYTES { byte_offset(F) } else { offset(F) };
    // Two sums, because a sum waits several cycles for the one before.
    let (mut first, mut second) = ([[_mm512_setzero_si512(); M]; P], [[_mm512_setzero_si512(); M]; P]);
    add::<F, PART, P, M, 0, C>(&mut first, parts, codes);
    add::<F, PART, P, M, 2, C>(&mut second, parts, codes);
    add::<F, PART, P, M, 1, C>(&mut first, parts, codes);
    add::<F, PART, P, M, 3, C>(&mut second, parts, codes);
    for p in 0..P {
        for t in 0..M {
            let (a, b) = (first[p][t], second[p][t]);
            first[p][t] = if F == Q6K {
                let scales = half_scales([parts[0][p], parts[1][p]]);
                let less = |products, half: usize| {
                    _mm512_sub_epi32(products, _mm512_set1_epi32(offset * sums[t].halves[half]))
                };
                let a = _mm512_mullo_epi32(less(a, 0), scales[0]);
                _mm512_add_epi32(a, _mm512_mullo_epi32(less(b, 1), scales[1]))
            } else {
                let all = _mm512_add_epi32(a, b);
                if offset > 0 { _mm512_sub_epi32(all, _mm512_set1_epi32(offset * sums[t].total)) } else { all }
            };
        }
    }
    first
}
