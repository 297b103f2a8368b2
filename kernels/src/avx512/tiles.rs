//! Scores and weighted sums of few queries, out of registers, sixteen columns at a time.
use std::arch::x86_64::*;

use super::{
    numbers::{load, load_eight_bits, load_five_bits, load_four_bits, load_half, load_single},
    sums::{of_quarters, of_sixteen_quarters, quarters, store, store_some},
};
use crate::{
    attention::{BlockKernels, Cached, KEY_TILE, TileKernels},
    avx2::{self, ahead::Ahead, tiles::heads},
};

pub(super) const SINGLE: TileKernels<f32> = TileKernels {
    scores: |queries, keys, d, out, ahead| {
        if d.is_multiple_of(16) {
            // SAFETY: these leave only inside the table, which `detect` gives out.
            unsafe { single::scores(queries, keys, d, out, ahead) }
        } else {
            (avx2::attention::KERNELS.f32.scores)(queries, keys, d, out, ahead);
        }
    },
    combine: |weights, values, d, sums, ahead| {
        if d.is_multiple_of(16) {
            // SAFETY: as above.
            unsafe { single::combine(weights, values, d, sums, ahead) }
        } else {
            (avx2::attention::KERNELS.f32.combine)(weights, values, d, sums, ahead);
        }
    },
    ..avx2::attention::KERNELS.f32
};

pub(super) const HALF: TileKernels<u16> = TileKernels {
    scores: |queries, keys, d, out, ahead| {
        if d.is_multiple_of(16) {
            // SAFETY: as above.
            unsafe { half::scores(queries, keys, d, out, ahead) }
        } else {
            (avx2::attention::KERNELS.f16.scores)(queries, keys, d, out, ahead);
        }
    },
    combine: |weights, values, d, sums, ahead| {
        if d.is_multiple_of(16) {
            // SAFETY: as above.
            unsafe { half::combine(weights, values, d, sums, ahead) }
        } else {
            (avx2::attention::KERNELS.f16.combine)(weights, values, d, sums, ahead);
        }
    },
    ..avx2::attention::KERNELS.f16
};

/// Of `q8_0`, `q5_1` and `q4_0`.
pub(super) const BLOCKS: [BlockKernels; 3] = [
    BlockKernels {
        // SAFETY: as above.
        scores: |queries, keys, d, out, ahead| unsafe { eight_bits::scores(queries, keys, d, out, ahead) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, ahead| unsafe { eight_bits::combine(weights, values, d, sums, ahead) },
    },
    BlockKernels {
        // SAFETY: as above.
        scores: |queries, keys, d, out, ahead| unsafe { five_bits::scores(queries, keys, d, out, ahead) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, ahead| unsafe { five_bits::combine(weights, values, d, sums, ahead) },
    },
    BlockKernels {
        // SAFETY: as above.
        scores: |queries, keys, d, out, ahead| unsafe { four_bits::scores(queries, keys, d, out, ahead) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, ahead| unsafe { four_bits::combine(weights, values, d, sums, ahead) },
    },
];

/// Keys whose scores stay in registers together.
const KEYS: usize = 4;
/// Keys whose scores are added up and written together.
const LINE: usize = 4 * KEYS;
/// Vectors of columns whose weighted sums stay in registers together.
const COLUMNS: usize = 4;

/// The functions of one cached type: how many elements are loaded at once, to how many vectors.
macro_rules! tile_kernels {
    ($module:ident, $type:ty, $chunk:literal, $vectors:literal, $load:path) => {
        mod $module {
            use super::*;

            /// Returns the elements of a row of D numbers.
            fn stride(d: usize) -> usize {
                d / (16 * $vectors) * $chunk
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            pub(super) fn scores(queries: &[f32], keys: &[$type], d: usize, out: &mut [f32], ahead: Cached<'_>) {
                let count = keys.len() / stride(d);
                let ahead = &mut Ahead::new(ahead, count.div_ceil(KEYS));
                let (mut queries, mut out) = (queries, out);
                while !queries.is_empty() {
                    let heads = heads(queries.len(), d);
                    match heads {
                        6 => score_heads::<6>(queries, keys, count, d, out, ahead),
                        5 => score_heads::<5>(queries, keys, count, d, out, ahead),
                        4 => score_heads::<4>(queries, keys, count, d, out, ahead),
                        3 => score_heads::<3>(queries, keys, count, d, out, ahead),
                        2 => score_heads::<2>(queries, keys, count, d, out, ahead),
                        _ => score_heads::<1>(queries, keys, count, d, out, ahead),
                    }
                    queries = &queries[heads * d..];
                    out = &mut out[heads * KEY_TILE..];
                }
            }

            /// Returns the products of G heads with as many keys, whose rows begin at the places given.
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn products<const G: usize>(
                heads: &[&[[f32; 16]]; G],
                keys: &[$type],
                starts: [usize; KEYS],
                chunks: usize,
            ) -> [[__m512; KEYS]; G] {
                let mut queries: [&[[f32; 16]]; G] = [&[]; G];
                for g in 0..G {
                    queries[g] = &heads[g][..chunks * $vectors];
                }
                let mut rows: [&[[$type; $chunk]]; KEYS] = [&[]; KEYS];
                for t in 0..KEYS {
                    rows[t] = &keys[starts[t]..].as_chunks().0[..chunks];
                }
                let mut products = [[_mm512_setzero_ps(); KEYS]; G];
                for chunk in 0..chunks {
                    let mut loaded = [[_mm512_setzero_ps(); $vectors]; KEYS];
                    for t in 0..KEYS {
                        loaded[t] = $load(&rows[t][chunk]);
                    }
                    for v in 0..$vectors {
                        for g in 0..G {
                            let query = load(&queries[g][chunk * $vectors + v]);
                            for t in 0..KEYS {
                                products[g][t] = _mm512_fmadd_ps(query, loaded[t][v], products[g][t]);
                            }
                        }
                    }
                }
                products
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn score_heads<const G: usize>(
                queries: &[f32],
                keys: &[$type],
                count: usize,
                d: usize,
                out: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let (stride, chunks) = (stride(d), d / (16 * $vectors));
                let mut heads: [&[[f32; 16]]; G] = [&[]; G];
                for g in 0..G {
                    heads[g] = queries[g * d..][..d].as_chunks().0;
                }
                // A copy stays in registers.
                let mut own = *ahead;
                let (mut start, mut rest) = (0, keys);
                while let Some((keys, others)) = rest.split_at_checked(LINE * stride) {
                    let mut partial = [[_mm512_setzero_ps(); 4]; G];
                    for j in 0..4 {
                        own.step();
                        // Four apart, so that their sums come out in the order of the keys.
                        let starts = [j * stride, (j + 4) * stride, (j + 8) * stride, (j + 12) * stride];
                        let products = products(&heads, keys, starts, chunks);
                        for g in 0..G {
                            partial[g][j] = quarters(products[g]);
                        }
                    }
                    for g in 0..G {
                        store(&mut out[g * KEY_TILE + start..], of_sixteen_quarters(partial[g]));
                    }
                    (start, rest) = (start + LINE, others);
                }
                let count = count - start;
                for at in (0..count).step_by(KEYS) {
                    own.step();
                    // Past the last key it is taken again, so that each score is computed alike.
                    let starts = [at, at + 1, at + 2, at + 3].map(|t| t.min(count - 1) * stride);
                    let products = products(&heads, rest, starts, chunks);
                    let valid = KEYS.min(count - at);
                    for g in 0..G {
                        store_some(&mut out[g * KEY_TILE + start + at..][..valid], of_quarters(quarters(products[g])));
                    }
                }
                *ahead = own;
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            pub(super) fn combine(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32], ahead: Cached<'_>) {
                let ahead = &mut Ahead::new(ahead, values.len() / stride(d) * d.div_ceil(16 * COLUMNS));
                let (mut weights, mut sums) = (weights, sums);
                while !sums.is_empty() {
                    let heads = heads(sums.len(), d);
                    match heads {
                        6 => combine_heads::<6>(weights, values, d, sums, ahead),
                        5 => combine_heads::<5>(weights, values, d, sums, ahead),
                        4 => combine_heads::<4>(weights, values, d, sums, ahead),
                        3 => combine_heads::<3>(weights, values, d, sums, ahead),
                        2 => combine_heads::<2>(weights, values, d, sums, ahead),
                        _ => combine_heads::<1>(weights, values, d, sums, ahead),
                    }
                    weights = &weights[heads * KEY_TILE..];
                    sums = &mut sums[heads * d..];
                }
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn combine_heads<const G: usize>(
                weights: &[f32],
                values: &[$type],
                d: usize,
                sums: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let chunks = d / (16 * $vectors);
                let mut at = 0;
                while at + COLUMNS / $vectors <= chunks {
                    combine_columns::<G, { COLUMNS / $vectors }>(weights, values, d, at, sums, ahead);
                    at += COLUMNS / $vectors;
                }
                while at < chunks {
                    combine_columns::<G, 1>(weights, values, d, at, sums, ahead);
                    at += 1;
                }
            }

            /// Adds to C chunks of columns from chunk `at` on, of G heads.
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn combine_columns<const G: usize, const C: usize>(
                weights: &[f32],
                values: &[$type],
                d: usize,
                at: usize,
                sums: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let mut own = *ahead;
                let mut heads: [&[f32]; G] = [&[]; G];
                let mut held = [[[_mm512_setzero_ps(); $vectors]; C]; G];
                for g in 0..G {
                    heads[g] = &weights[g * KEY_TILE..][..KEY_TILE];
                    let (columns, _) = sums[g * d + at * 16 * $vectors..][..C * 16 * $vectors].as_chunks();
                    for c in 0..C {
                        for v in 0..$vectors {
                            held[g][c][v] = load(&columns[c * $vectors + v]);
                        }
                    }
                }
                let (stride, mut rest) = (stride(d), values);
                for t in 0..KEY_TILE {
                    let Some((value, others)) = rest.split_at_checked(stride) else { break };
                    rest = others;
                    own.step();
                    let (chunks, _) = value[at * $chunk..][..C * $chunk].as_chunks();
                    for c in 0..C {
                        let loaded = $load(&chunks[c]);
                        for g in 0..G {
                            let weight = _mm512_set1_ps(heads[g][t]);
                            for v in 0..$vectors {
                                held[g][c][v] = _mm512_fmadd_ps(weight, loaded[v], held[g][c][v]);
                            }
                        }
                    }
                }
                for g in 0..G {
                    let (columns, _) = sums[g * d + at * 16 * $vectors..][..C * 16 * $vectors].as_chunks_mut::<16>();
                    for c in 0..C {
                        for v in 0..$vectors {
                            // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
                            unsafe { _mm512_storeu_ps(columns[c * $vectors + v].as_mut_ptr(), held[g][c][v]) };
                        }
                    }
                }
                *ahead = own;
            }
        }
    };
}

tile_kernels!(single, f32, 16, 1, load_single);
tile_kernels!(half, u16, 16, 1, load_half);
tile_kernels!(eight_bits, u8, 34, 2, load_eight_bits);
tile_kernels!(five_bits, u8, 24, 2, load_five_bits);
tile_kernels!(four_bits, u8, 18, 2, load_four_bits);
