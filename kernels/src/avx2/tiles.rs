//! Scores and weighted sums of few queries, out of registers.
use std::arch::x86_64::*;

use super::{ahead::Ahead, lanes};
use crate::{
    attention::{Cached, KEY_TILE, TileKernels},
    scalar::{transpose_keys, widen_half},
};

pub(super) const SINGLE: TileKernels<f32> = TileKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    transpose: |keys, d, out| unsafe { single::transpose(keys, d, out) },
    widen: |x, out| out.copy_from_slice(x),
    // SAFETY: as above.
    scores: |queries, keys, d, out, ahead| unsafe { single::scores(queries, keys, d, out, ahead) },
    // SAFETY: as above.
    combine: |weights, values, d, sums, ahead| unsafe { single::combine(weights, values, d, sums, ahead) },
};

pub(super) const HALF: TileKernels<u16> = TileKernels {
    // SAFETY: as above.
    transpose: |keys, d, out| unsafe { half::transpose(keys, d, out) },
    widen: super::half::KERNELS.widen,
    // SAFETY: as above.
    scores: |queries, keys, d, out, ahead| unsafe { half::scores(queries, keys, d, out, ahead) },
    // SAFETY: as above.
    combine: |weights, values, d, sums, ahead| unsafe { half::combine(weights, values, d, sums, ahead) },
};

/// Query heads that are taken together, so that what is cached is loaded and widened once for them.
const HEADS: usize = 6;
/// Keys whose scores are added up together.
const KEYS: usize = 4;
/// Vectors of products or sums that stay in registers, of the 16 there are.
const HELD: usize = 12;

/// Returns how many of the heads in so many numbers are taken together. A division would take as long as a few keys.
#[inline]
pub(crate) fn heads(numbers: usize, d: usize) -> usize {
    (2..=HEADS).rev().find(|heads| heads * d <= numbers).unwrap_or(1)
}

/// Returns the sums of four vectors, which come as sums of neighbours of two each.
#[inline]
#[target_feature(enable = "avx2")]
fn sums([left, right]: [__m256; 2]) -> [f32; KEYS] {
    let pairs = _mm256_hadd_ps(left, right);
    let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut out = [0.0; KEYS];
    // SAFETY: `out` is 16 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// The functions of one cached type, from its load of eight lanes and its scalar meaning.
macro_rules! tile_kernels {
    ($module:ident, $type:ty, $load:path, $widen:expr) => {
        mod $module {
            use super::*;

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn transpose(keys: &[$type], d: usize, out: &mut [f32]) {
                let groups = keys.chunks_exact(8 * d);
                let (done, rest) = (groups.len() * 8, groups.remainder());
                for (group, keys) in groups.enumerate() {
                    let rows: [&[$type]; 8] = std::array::from_fn(|t| &keys[t * d..][..d]);
                    for block in 0..d / 8 {
                        let square = rows.map(|row| match row[block * 8..].first_chunk() {
                            Some(eight) => $load(eight),
                            None => _mm256_setzero_ps(),
                        });
                        for (i, column) in lanes::transpose(square).into_iter().enumerate() {
                            let at = (block * 8 + i) * KEY_TILE + group * 8;
                            if let Some(eight) = out[at..].first_chunk_mut() {
                                lanes::store(eight, column);
                            }
                        }
                    }
                    for i in d / 8 * 8..d {
                        for (t, row) in rows.iter().enumerate() {
                            out[i * KEY_TILE + group * 8 + t] = $widen(row[i]);
                        }
                    }
                }
                if !rest.is_empty() {
                    transpose_keys(rest, d, &mut out[done..], $widen);
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn scores(queries: &[f32], keys: &[$type], d: usize, out: &mut [f32], ahead: Cached<'_>) {
                let ahead = &mut Ahead::new(ahead, keys.len().div_ceil(KEYS * d));
                let (mut queries, mut out) = (queries, out);
                while !queries.is_empty() {
                    let heads = heads(queries.len(), d);
                    match heads {
                        6 => score_heads::<6, 2>(queries, keys, d, out, ahead),
                        5 => score_heads::<5, 2>(queries, keys, d, out, ahead),
                        4 => score_heads::<4, 2>(queries, keys, d, out, ahead),
                        3 => score_heads::<3, 4>(queries, keys, d, out, ahead),
                        2 => score_heads::<2, 4>(queries, keys, d, out, ahead),
                        _ => score_heads::<1, 4>(queries, keys, d, out, ahead),
                    }
                    queries = &queries[heads * d..];
                    out = &mut out[heads * KEY_TILE..];
                }
            }

            /// Returns the products of G heads with K keys.
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn products<const G: usize, const K: usize>(
                queries: &[&[[f32; 8]]; G],
                keys: &[$type],
                starts: [usize; K],
                blocks: usize,
            ) -> [[__m256; K]; G] {
                let mut heads: [&[[f32; 8]]; G] = [&[]; G];
                for g in 0..G {
                    heads[g] = &queries[g][..blocks];
                }
                let mut rows: [&[[$type; 8]]; K] = [&[]; K];
                for t in 0..K {
                    rows[t] = &keys[starts[t]..].as_chunks().0[..blocks];
                }
                let mut products = [[_mm256_setzero_ps(); K]; G];
                for block in 0..blocks {
                    let mut loaded = [_mm256_setzero_ps(); K];
                    for t in 0..K {
                        loaded[t] = $load(&rows[t][block]);
                    }
                    for g in 0..G {
                        let query = lanes::load(&heads[g][block]);
                        for t in 0..K {
                            products[g][t] = _mm256_fmadd_ps(query, loaded[t], products[g][t]);
                        }
                    }
                }
                products
            }

            /// Writes the scores of G heads, K keys of four at a time.
            #[target_feature(enable = "avx2,fma,f16c")]
            fn score_heads<const G: usize, const K: usize>(
                queries: &[f32],
                keys: &[$type],
                d: usize,
                out: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let mut heads: [&[[f32; 8]]; G] = [&[]; G];
                for g in 0..G {
                    heads[g] = queries[g * d..][..d].as_chunks().0;
                }
                // A copy stays in registers.
                let mut own = *ahead;
                let count = keys.len() / d;
                for start in (0..count).step_by(KEYS) {
                    own.step();
                    // Past the last key it is taken again, so that each score is computed alike.
                    let key = |t: usize| (start + t).min(count - 1) * d;
                    let mut partial = [[_mm256_setzero_ps(); 2]; G];
                    for from in (0..KEYS).step_by(K) {
                        let mut starts = [0; K];
                        for t in 0..K {
                            starts[t] = key(from + t);
                        }
                        let products = products(&heads, keys, starts, d / 8);
                        for g in 0..G {
                            for t in (0..K).step_by(2) {
                                partial[g][(from + t) / 2] = _mm256_hadd_ps(products[g][t], products[g][t + 1]);
                            }
                        }
                    }
                    for g in 0..G {
                        let mut found = sums(partial[g]);
                        for i in d / 8 * 8..d {
                            for t in 0..KEYS {
                                found[t] += queries[g * d + i] * $widen(keys[key(t) + i]);
                            }
                        }
                        let out = &mut out[g * KEY_TILE + start..];
                        match out.first_chunk_mut() {
                            Some(four) if count - start >= KEYS => *four = found,
                            _ => out.iter_mut().zip(found).take(count - start).for_each(|(out, found)| *out = found),
                        }
                    }
                }
                *ahead = own;
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn combine(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32], ahead: Cached<'_>) {
                let ahead = &mut Ahead::new(ahead, values.len() / d * d.div_ceil(8 * HELD / 3));
                let (mut weights, mut sums) = (weights, sums);
                while !sums.is_empty() {
                    let heads = heads(sums.len(), d);
                    match heads {
                        6 => combine_heads::<6, 2>(weights, values, d, sums, ahead),
                        5 => combine_heads::<5, 2>(weights, values, d, sums, ahead),
                        4 => combine_heads::<4, 3>(weights, values, d, sums, ahead),
                        3 => combine_heads::<3, 4>(weights, values, d, sums, ahead),
                        2 => combine_heads::<2, 4>(weights, values, d, sums, ahead),
                        _ => combine_heads::<1, 4>(weights, values, d, sums, ahead),
                    }
                    weights = &weights[heads * KEY_TILE..];
                    sums = &mut sums[heads * d..];
                }
            }

            /// Adds to the sums of G heads, C vectors of columns at a time.
            #[target_feature(enable = "avx2,fma,f16c")]
            fn combine_heads<const G: usize, const C: usize>(
                weights: &[f32],
                values: &[$type],
                d: usize,
                sums: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let mut at = 0;
                while at + 8 * C <= d {
                    combine_columns::<G, C>(weights, values, d, at, sums, ahead);
                    at += 8 * C;
                }
                while at + 8 <= d {
                    combine_columns::<G, 1>(weights, values, d, at, sums, ahead);
                    at += 8;
                }
                for (t, value) in values.chunks_exact(d).enumerate() {
                    for i in at..d {
                        for g in 0..G {
                            sums[g * d + i] = weights[g * KEY_TILE + t].mul_add($widen(value[i]), sums[g * d + i]);
                        }
                    }
                }
            }

            /// Adds to C vectors of columns from `at` on, of G heads.
            #[target_feature(enable = "avx2,fma,f16c")]
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
                let mut held = [[_mm256_setzero_ps(); C]; G];
                for g in 0..G {
                    heads[g] = &weights[g * KEY_TILE..][..KEY_TILE];
                    let (eights, _) = sums[g * d + at..][..C * 8].as_chunks();
                    for c in 0..C {
                        held[g][c] = lanes::load(&eights[c]);
                    }
                }
                let mut rest = values;
                for t in 0..KEY_TILE {
                    let Some((value, others)) = rest.split_at_checked(d) else { break };
                    rest = others;
                    own.step();
                    let (eights, _) = value[at..][..C * 8].as_chunks();
                    // What is fewer stays in registers beside the sums: values or weights.
                    if C < G {
                        let mut loaded = [_mm256_setzero_ps(); C];
                        for c in 0..C {
                            loaded[c] = $load(&eights[c]);
                        }
                        for g in 0..G {
                            let weight = _mm256_set1_ps(heads[g][t]);
                            for c in 0..C {
                                held[g][c] = _mm256_fmadd_ps(weight, loaded[c], held[g][c]);
                            }
                        }
                    } else {
                        let mut weights = [_mm256_setzero_ps(); G];
                        for g in 0..G {
                            weights[g] = _mm256_set1_ps(heads[g][t]);
                        }
                        for c in 0..C {
                            let loaded = $load(&eights[c]);
                            for g in 0..G {
                                held[g][c] = _mm256_fmadd_ps(weights[g], loaded, held[g][c]);
                            }
                        }
                    }
                }
                for g in 0..G {
                    let (eights, _) = sums[g * d + at..][..C * 8].as_chunks_mut();
                    for c in 0..C {
                        lanes::store(&mut eights[c], held[g][c]);
                    }
                }
                *ahead = own;
            }
        }
    };
}

tile_kernels!(single, f32, lanes::load, |x: f32| x);
tile_kernels!(half, u16, lanes::load_half, widen_half);
