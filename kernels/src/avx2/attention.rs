//! The products inside a tile of attention.
use std::arch::x86_64::*;

use super::{ahead::Ahead, lanes};
use crate::{
    attention::{AttentionKernels, Cached, KEY_TILE, Operand, PANEL, Product, TileKernels},
    scalar::{transpose_keys, widen_half},
};

pub(crate) const KERNELS: AttentionKernels = AttentionKernels {
    f32: TileKernels {
        // SAFETY: these leave only inside the table, which `detect` gives out.
        transpose: |keys, d, out| unsafe { single::transpose(keys, d, out) },
        widen: |x, out| out.copy_from_slice(x),
        // SAFETY: as above.
        scores: |queries, keys, d, out, ahead| unsafe { single::scores(queries, keys, d, out, ahead) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, ahead| unsafe { single::combine(weights, values, d, sums, ahead) },
    },
    f16: TileKernels {
        // SAFETY: as above.
        transpose: |keys, d, out| unsafe { half::transpose(keys, d, out) },
        widen: super::half::KERNELS.widen,
        // SAFETY: as above.
        scores: |queries, keys, d, out, ahead| unsafe { half::scores(queries, keys, d, out, ahead) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, ahead| unsafe { half::combine(weights, values, d, sums, ahead) },
    },
    blocks: None,
    soften: None,
    widen_blocks: super::blocks::widen,
    // SAFETY: as above.
    multiply: |a, b, c, product| unsafe { multiply(a, b, c, product) },
};

/// Query heads whose scores, or weighted sums, stay in registers together.
const HEADS: usize = 3;
/// Keys whose scores stay in registers together.
const KEYS: usize = 4;
/// Vectors of columns whose weighted sums stay in registers together.
const COLUMNS: usize = 4;

/// Returns the sums of four vectors.
#[target_feature(enable = "avx2")]
fn sums(x: [__m256; KEYS]) -> [f32; KEYS] {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
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
                let mut groups = queries.chunks_exact(HEADS * d);
                let mut rows = out.chunks_exact_mut(HEADS * KEY_TILE);
                for (queries, out) in (&mut groups).zip(&mut rows) {
                    score_heads::<HEADS>(queries, keys, d, out, ahead);
                }
                let rest = groups.remainder();
                let start = (queries.len() - rest.len()) / d * KEY_TILE;
                match rest.len() / d {
                    2 => score_heads::<2>(rest, keys, d, &mut out[start..], ahead),
                    1 => score_heads::<1>(rest, keys, d, &mut out[start..], ahead),
                    _ => {}
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            fn score_heads<const G: usize>(
                queries: &[f32],
                keys: &[$type],
                d: usize,
                out: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let queries: [&[f32]; G] = std::array::from_fn(|g| &queries[g * d..][..d]);
                let count = keys.len() / d;
                for start in (0..count).step_by(KEYS) {
                    ahead.step();
                    // Past the last key it is taken again, so that each score is computed alike.
                    let key = |t: usize| &keys[(start + t).min(count - 1) * d..][..d];
                    let rows: [&[$type]; KEYS] = std::array::from_fn(key);
                    let mut products = [[_mm256_setzero_ps(); KEYS]; G];
                    for block in 0..d / 8 {
                        let eights: [__m256; KEYS] =
                            std::array::from_fn(|t| match rows[t][block * 8..].first_chunk() {
                                Some(eight) => $load(eight),
                                None => _mm256_setzero_ps(),
                            });
                        for (query, products) in queries.iter().zip(&mut products) {
                            let Some(query) = query[block * 8..].first_chunk() else { continue };
                            let query = lanes::load(query);
                            for (product, eight) in products.iter_mut().zip(eights) {
                                *product = _mm256_fmadd_ps(query, eight, *product);
                            }
                        }
                    }
                    for (g, products) in products.into_iter().enumerate() {
                        let mut found = sums(products);
                        for i in d / 8 * 8..d {
                            for (found, row) in found.iter_mut().zip(rows) {
                                *found += queries[g][i] * $widen(row[i]);
                            }
                        }
                        let valid = KEYS.min(count - start);
                        out[g * KEY_TILE + start..][..valid].copy_from_slice(&found[..valid]);
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn combine(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32], ahead: Cached<'_>) {
                let ahead = &mut Ahead::new(ahead, values.len() / d * d.div_ceil(8 * COLUMNS));
                let weights = weights.chunks(HEADS * KEY_TILE);
                for (weights, sums) in weights.zip(sums.chunks_mut(HEADS * d)) {
                    match sums.len() / d {
                        3 => combine_heads::<3>(weights, values, d, sums, ahead),
                        2 => combine_heads::<2>(weights, values, d, sums, ahead),
                        _ => combine_heads::<1>(weights, values, d, sums, ahead),
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            fn combine_heads<const G: usize>(
                weights: &[f32],
                values: &[$type],
                d: usize,
                sums: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let mut at = 0;
                while at + 8 * COLUMNS <= d {
                    combine_columns::<G, COLUMNS>(weights, values, d, at, sums, ahead);
                    at += 8 * COLUMNS;
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
                let weights: [&[f32]; G] = std::array::from_fn(|g| &weights[g * KEY_TILE..][..KEY_TILE]);
                let mut held = [[_mm256_setzero_ps(); C]; G];
                for (g, held) in held.iter_mut().enumerate() {
                    let (eights, _) = sums[g * d + at..][..C * 8].as_chunks();
                    for (held, eight) in held.iter_mut().zip(eights) {
                        *held = lanes::load(eight);
                    }
                }
                for (t, value) in values.chunks_exact(d).take(KEY_TILE).enumerate() {
                    ahead.step();
                    let (eights, _) = value[at..][..C * 8].as_chunks();
                    for (c, eight) in eights.iter().enumerate().take(C) {
                        let eight = $load(eight);
                        for (held, weights) in held.iter_mut().zip(weights) {
                            held[c] = _mm256_fmadd_ps(_mm256_set1_ps(weights[t]), eight, held[c]);
                        }
                    }
                }
                for (g, held) in held.into_iter().enumerate() {
                    let (eights, _) = sums[g * d + at..][..C * 8].as_chunks_mut();
                    for (held, eight) in held.into_iter().zip(eights) {
                        lanes::store(eight, held);
                    }
                }
            }
        }
    };
}

tile_kernels!(single, f32, lanes::load, |x: f32| x);
tile_kernels!(half, u16, lanes::load_half, widen_half);

/// Rows of a product that stay in registers together, beside two loads and a broadcast.
const ROWS: usize = 6;

#[target_feature(enable = "avx2,fma")]
fn multiply(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    for row in (0..product.m).step_by(ROWS) {
        let (a, c) = (Operand { values: &a.values[row * a.stride..], ..a }, &mut c[row * product.stride..]);
        for column in (0..product.n).step_by(PANEL) {
            let (b, c) = (Operand { values: &b.values[column..], ..b }, &mut c[column..]);
            match product.m - row {
                1 => block::<1>(a, b, c, product),
                2 => block::<2>(a, b, c, product),
                3 => block::<3>(a, b, c, product),
                4 => block::<4>(a, b, c, product),
                5 => block::<5>(a, b, c, product),
                _ => block::<ROWS>(a, b, c, product),
            }
        }
    }
}

/// Computes M rows and 16 columns.
#[target_feature(enable = "avx2,fma")]
fn block<const M: usize>(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let rows: [&[f32]; M] = std::array::from_fn(|row| &a.values[row * a.stride..][..product.k]);
    let mut held = [[_mm256_setzero_ps(); 2]; M];
    if product.accumulate {
        for (row, held) in held.iter_mut().enumerate() {
            if let ([left, right], _) = c[row * product.stride..][..PANEL].as_chunks() {
                *held = [lanes::load(left), lanes::load(right)];
            }
        }
    }
    for (i, b) in (0..product.k).zip(b.values.chunks(b.stride)) {
        let ([left, right], _) = b[..PANEL].as_chunks() else { continue };
        let (left, right) = (lanes::load(left), lanes::load(right));
        for (held, row) in held.iter_mut().zip(rows) {
            let x = _mm256_set1_ps(row[i]);
            *held = [_mm256_fmadd_ps(x, left, held[0]), _mm256_fmadd_ps(x, right, held[1])];
        }
    }
    for (row, [first, second]) in held.into_iter().enumerate() {
        if let ([left, right], _) = c[row * product.stride..][..PANEL].as_chunks_mut() {
            lanes::store(left, first);
            lanes::store(right, second);
        }
    }
}
