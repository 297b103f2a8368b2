//! The products inside a tile of attention.
use std::arch::aarch64::*;

use super::lanes;
use crate::{
    attention::{AttentionKernels, KEY_TILE, Operand, PANEL, Product, TileKernels, widen_blocks},
    scalar::{transpose_keys, widen_half},
};

pub(super) const KERNELS: AttentionKernels = AttentionKernels {
    f32: TileKernels {
        // SAFETY: these leave only inside the table, which `detect` gives out.
        transpose: |keys, d, out| unsafe { single::transpose(keys, d, out) },
        widen: |x, out| out.copy_from_slice(x),
        // SAFETY: as above.
        scores: |queries, keys, d, out, _| unsafe { single::scores(queries, keys, d, out) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, _| unsafe { single::combine(weights, values, d, sums) },
    },
    f16: TileKernels {
        // SAFETY: as above.
        transpose: |keys, d, out| unsafe { half::transpose(keys, d, out) },
        widen: super::half::KERNELS.widen,
        // SAFETY: as above.
        scores: |queries, keys, d, out, _| unsafe { half::scores(queries, keys, d, out) },
        // SAFETY: as above.
        combine: |weights, values, d, sums, _| unsafe { half::combine(weights, values, d, sums) },
    },
    blocks: None,
    soften: None,
    widen_blocks,
    // SAFETY: as above.
    multiply: |a, b, c, product| unsafe { multiply(a, b, c, product) },
};

/// Query heads whose scores, or weighted sums, stay in registers together.
const HEADS: usize = 3;
/// Keys whose scores stay in registers together.
const KEYS: usize = 4;

/// Returns the sums of four vectors.
#[target_feature(enable = "neon")]
fn sums([a, b, c, d]: [float32x4_t; KEYS]) -> [f32; KEYS] {
    let mut out = [0.0; KEYS];
    lanes::store(&mut out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
    out
}

/// The functions of one cached type, from its load of four lanes and its scalar meaning.
macro_rules! tile_kernels {
    ($module:ident, $type:ty, $load:path, $widen:expr) => {
        mod $module {
            use super::*;

            #[target_feature(enable = "neon")]
            pub(super) fn transpose(keys: &[$type], d: usize, out: &mut [f32]) {
                let groups = keys.chunks_exact(4 * d);
                let (done, rest) = (groups.len() * 4, groups.remainder());
                for (group, keys) in groups.enumerate() {
                    let rows: [&[$type]; 4] = std::array::from_fn(|t| &keys[t * d..][..d]);
                    for block in 0..d / 4 {
                        let square = rows.map(|row| match row[block * 4..].first_chunk() {
                            Some(four) => $load(four),
                            None => vdupq_n_f32(0.0),
                        });
                        for (i, column) in lanes::transpose(square).into_iter().enumerate() {
                            let at = (block * 4 + i) * KEY_TILE + group * 4;
                            if let Some(four) = out[at..].first_chunk_mut() {
                                lanes::store(four, column);
                            }
                        }
                    }
                    for i in d / 4 * 4..d {
                        for (t, row) in rows.iter().enumerate() {
                            out[i * KEY_TILE + group * 4 + t] = $widen(row[i]);
                        }
                    }
                }
                if !rest.is_empty() {
                    transpose_keys(rest, d, &mut out[done..], $widen);
                }
            }

            #[target_feature(enable = "neon")]
            pub(super) fn scores(queries: &[f32], keys: &[$type], d: usize, out: &mut [f32]) {
                let groups = queries.chunks(HEADS * d);
                for (queries, out) in groups.zip(out.chunks_mut(HEADS * KEY_TILE)) {
                    match queries.len() / d {
                        3 => score_heads::<3>(queries, keys, d, out),
                        2 => score_heads::<2>(queries, keys, d, out),
                        _ => score_heads::<1>(queries, keys, d, out),
                    }
                }
            }

            #[target_feature(enable = "neon")]
            fn score_heads<const G: usize>(queries: &[f32], keys: &[$type], d: usize, out: &mut [f32]) {
                let queries: [&[f32]; G] = std::array::from_fn(|g| &queries[g * d..][..d]);
                let count = keys.len() / d;
                for start in (0..count).step_by(KEYS) {
                    // Past the last key it is taken again, so that each score is computed alike.
                    let key = |t: usize| &keys[(start + t).min(count - 1) * d..][..d];
                    let rows: [&[$type]; KEYS] = std::array::from_fn(key);
                    let mut products = [[vdupq_n_f32(0.0); KEYS]; G];
                    for block in 0..d / 4 {
                        let fours: [float32x4_t; KEYS] =
                            std::array::from_fn(|t| match rows[t][block * 4..].first_chunk() {
                                Some(four) => $load(four),
                                None => vdupq_n_f32(0.0),
                            });
                        for (query, products) in queries.iter().zip(&mut products) {
                            let Some(query) = query[block * 4..].first_chunk() else { continue };
                            let query = lanes::load(query);
                            for (product, four) in products.iter_mut().zip(fours) {
                                *product = vfmaq_f32(*product, query, four);
                            }
                        }
                    }
                    for (g, products) in products.into_iter().enumerate() {
                        let mut found = sums(products);
                        for i in d / 4 * 4..d {
                            for (found, row) in found.iter_mut().zip(rows) {
                                *found += queries[g][i] * $widen(row[i]);
                            }
                        }
                        let valid = KEYS.min(count - start);
                        out[g * KEY_TILE + start..][..valid].copy_from_slice(&found[..valid]);
                    }
                }
            }

            #[target_feature(enable = "neon")]
            pub(super) fn combine(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32]) {
                let weights = weights.chunks(HEADS * KEY_TILE);
                for (weights, sums) in weights.zip(sums.chunks_mut(HEADS * d)) {
                    match sums.len() / d {
                        3 => combine_heads::<3>(weights, values, d, sums),
                        2 => combine_heads::<2>(weights, values, d, sums),
                        _ => combine_heads::<1>(weights, values, d, sums),
                    }
                }
            }

            #[target_feature(enable = "neon")]
            fn combine_heads<const G: usize>(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32]) {
                let mut at = 0;
                while at + 32 <= d {
                    combine_columns::<G, 8>(weights, values, d, at, sums);
                    at += 32;
                }
                while at + 4 <= d {
                    combine_columns::<G, 1>(weights, values, d, at, sums);
                    at += 4;
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
            #[target_feature(enable = "neon")]
            fn combine_columns<const G: usize, const C: usize>(
                weights: &[f32],
                values: &[$type],
                d: usize,
                at: usize,
                sums: &mut [f32],
            ) {
                let weights: [&[f32]; G] = std::array::from_fn(|g| &weights[g * KEY_TILE..][..KEY_TILE]);
                let mut held = [[vdupq_n_f32(0.0); C]; G];
                for (g, held) in held.iter_mut().enumerate() {
                    let (fours, _) = sums[g * d + at..][..C * 4].as_chunks();
                    for (held, four) in held.iter_mut().zip(fours) {
                        *held = lanes::load(four);
                    }
                }
                for (t, value) in values.chunks_exact(d).take(KEY_TILE).enumerate() {
                    let (fours, _) = value[at..][..C * 4].as_chunks();
                    for (c, four) in fours.iter().enumerate().take(C) {
                        let four = $load(four);
                        for (held, weights) in held.iter_mut().zip(weights) {
                            held[c] = vfmaq_n_f32(held[c], four, weights[t]);
                        }
                    }
                }
                for (g, held) in held.into_iter().enumerate() {
                    let (fours, _) = sums[g * d + at..][..C * 4].as_chunks_mut();
                    for (held, four) in held.into_iter().zip(fours) {
                        lanes::store(four, held);
                    }
                }
            }
        }
    };
}

tile_kernels!(single, f32, lanes::load, |x: f32| x);
tile_kernels!(half, u16, lanes::load_half, widen_half);

/// Rows of a product that stay in registers together, beside four loads and a broadcast.
const ROWS: usize = 6;
/// Vectors in a row of a panel.
const VECTORS: usize = PANEL / 4;

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn block<const M: usize>(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let rows: [&[f32]; M] = std::array::from_fn(|row| &a.values[row * a.stride..][..product.k]);
    let mut held = [[vdupq_n_f32(0.0); VECTORS]; M];
    if product.accumulate {
        for (row, held) in held.iter_mut().enumerate() {
            let (fours, _) = c[row * product.stride..][..PANEL].as_chunks();
            for (held, four) in held.iter_mut().zip(fours) {
                *held = lanes::load(four);
            }
        }
    }
    for (i, b) in (0..product.k).zip(b.values.chunks(b.stride)) {
        let mut loaded = [vdupq_n_f32(0.0); VECTORS];
        for (loaded, four) in loaded.iter_mut().zip(b[..PANEL].as_chunks().0) {
            *loaded = lanes::load(four);
        }
        for (held, row) in held.iter_mut().zip(rows) {
            for (held, loaded) in held.iter_mut().zip(loaded) {
                *held = vfmaq_n_f32(*held, loaded, row[i]);
            }
        }
    }
    for (row, held) in held.into_iter().enumerate() {
        let (fours, _) = c[row * product.stride..][..PANEL].as_chunks_mut();
        for (held, four) in held.into_iter().zip(fours) {
            lanes::store(four, held);
        }
    }
}
