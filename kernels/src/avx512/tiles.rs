//! Scores and weighted sums of few queries, out of registers, sixteen columns at a time.
use std::arch::x86_64::*;

use crate::{
    attention::{BlockKernels, Cached, KEY_TILE, TileKernels},
    avx2::{self, ahead::Ahead},
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

/// Query heads whose scores, or weighted sums, stay in registers together: 24 of the 32 there are.
const HEADS: usize = 6;
/// Keys whose scores stay in registers together.
const KEYS: usize = 4;
/// Vectors of columns whose weighted sums stay in registers together.
const COLUMNS: usize = 4;

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: `x` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_single(x: &[f32; 16]) -> [__m512; 1] {
    [load(x)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_half(x: &[u16; 16]) -> [__m512; 1] {
    // SAFETY: `x` is 32 readable bytes, and `loadu` needs no alignment.
    [_mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })]
}

/// Returns a block of `q8_0`, each number rounded as [`crate::dequantize_row`] does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_eight_bits(block: &[u8; 34]) -> [__m512; 2] {
    let scale = _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([block[0], block[1]])));
    // SAFETY: the bytes 2 to 33 are readable, and `loadu` needs no alignment.
    let codes =
        unsafe { [_mm_loadu_si128(block.as_ptr().add(2).cast()), _mm_loadu_si128(block.as_ptr().add(18).cast())] };
    [
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes[0])), scale),
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes[1])), scale),
    ]
}

/// Returns 16 bytes' low nibbles, which come first, and their high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn nibbles(bytes: &[u8; 16]) -> [__m128i; 2] {
    // SAFETY: 16 readable bytes, and `loadu` needs no alignment.
    let all = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let mask = _mm_set1_epi8(15);
    [_mm_and_si128(all, mask), _mm_and_si128(_mm_srli_epi16::<4>(all), mask)]
}

/// Returns an f16 in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn broadcast(low: u8, high: u8) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([low, high])))
}

/// Returns a block of `q4_0`, rounded likewise.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_four_bits(block: &[u8; 18]) -> [__m512; 2] {
    let scale = broadcast(block[0], block[1]);
    nibbles(&block[2..].as_chunks().0[0]).map(|codes| {
        let codes = _mm_sub_epi8(codes, _mm_set1_epi8(8));
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), scale)
    })
}

/// Returns a block of `q5_1`, rounded likewise: the product, and then the sum with the minimum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_five_bits(block: &[u8; 24]) -> [__m512; 2] {
    let (scale, minimum) = (broadcast(block[0], block[1]), broadcast(block[2], block[3]));
    let high = [u16::from_le_bytes([block[4], block[5]]), u16::from_le_bytes([block[6], block[7]])];
    let [low, above] = nibbles(&block[8..].as_chunks().0[0]);
    [(low, high[0]), (above, high[1])].map(|(codes, high)| {
        let codes = _mm_mask_add_epi8(codes, high, codes, _mm_set1_epi8(16));
        _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), scale), minimum)
    })
}

/// Returns the sums of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums([a, b, c, d]: [__m512; KEYS]) -> __m128 {
    let fold = |x, y| _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(x, y), _mm512_shuffle_f32x4::<0xEE>(x, y));
    let (ab, cd) = (fold(a, b), fold(c, d));
    let quarters = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
    let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0b01_00_11_10>(quarters));
    let whole = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
    _mm512_castps512_ps128(_mm512_maskz_compress_ps(0b0001_0001_0001_0001, whole))
}

/// Writes the first values of a vector, as many as there is room for: a copy of a length the compiler does not
/// know would be a call, which keeps no vector in a register.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn store_some(out: &mut [f32], values: __m128) {
    let mask = (1_u8 << out.len().min(KEYS)) - 1;
    // SAFETY: only what the mask names is written, and `out` has at least that many.
    unsafe { _mm_mask_storeu_ps(out.as_mut_ptr(), mask, values) };
}

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
                let ahead = &mut Ahead::new(ahead, keys.len().div_ceil(KEYS * stride(d)));
                for (queries, out) in queries.chunks(HEADS * d).zip(out.chunks_mut(HEADS * KEY_TILE)) {
                    match queries.len() / d {
                        6 => score_heads::<6>(queries, keys, d, out, ahead),
                        5 => score_heads::<5>(queries, keys, d, out, ahead),
                        4 => score_heads::<4>(queries, keys, d, out, ahead),
                        3 => score_heads::<3>(queries, keys, d, out, ahead),
                        2 => score_heads::<2>(queries, keys, d, out, ahead),
                        _ => score_heads::<1>(queries, keys, d, out, ahead),
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn score_heads<const G: usize>(
                queries: &[f32],
                keys: &[$type],
                d: usize,
                out: &mut [f32],
                ahead: &mut Ahead,
            ) {
                let (stride, chunks) = (stride(d), d / (16 * $vectors));
                let mut heads: [&[[f32; 16]]; G] = [&[]; G];
                for g in 0..G {
                    heads[g] = &queries[g * d..][..d].as_chunks().0[..chunks * $vectors];
                }
                let count = keys.len() / stride;
                for start in (0..count).step_by(KEYS) {
                    ahead.step();
                    let mut rows: [&[[$type; $chunk]]; KEYS] = [&[]; KEYS];
                    for t in 0..KEYS {
                        // Past the last key it is taken again, so that each score is computed alike.
                        let key = &keys[(start + t).min(count - 1) * stride..][..stride];
                        rows[t] = &key.as_chunks().0[..chunks];
                    }
                    let mut products = [[_mm512_setzero_ps(); KEYS]; G];
                    for chunk in 0..chunks {
                        let mut loaded = [[_mm512_setzero_ps(); $vectors]; KEYS];
                        for t in 0..KEYS {
                            loaded[t] = $load(&rows[t][chunk]);
                        }
                        for v in 0..$vectors {
                            for g in 0..G {
                                let query = load(&heads[g][chunk * $vectors + v]);
                                for t in 0..KEYS {
                                    products[g][t] = _mm512_fmadd_ps(query, loaded[t][v], products[g][t]);
                                }
                            }
                        }
                    }
                    let valid = KEYS.min(count - start);
                    for g in 0..G {
                        store_some(&mut out[g * KEY_TILE + start..][..valid], sums(products[g]));
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            pub(super) fn combine(weights: &[f32], values: &[$type], d: usize, sums: &mut [f32], ahead: Cached<'_>) {
                let passes = d.div_ceil(16 * COLUMNS);
                let ahead = &mut Ahead::new(ahead, values.len() / stride(d) * passes);
                for (weights, sums) in weights.chunks(HEADS * KEY_TILE).zip(sums.chunks_mut(HEADS * d)) {
                    match sums.len() / d {
                        6 => combine_heads::<6>(weights, values, d, sums, ahead),
                        5 => combine_heads::<5>(weights, values, d, sums, ahead),
                        4 => combine_heads::<4>(weights, values, d, sums, ahead),
                        3 => combine_heads::<3>(weights, values, d, sums, ahead),
                        2 => combine_heads::<2>(weights, values, d, sums, ahead),
                        _ => combine_heads::<1>(weights, values, d, sums, ahead),
                    }
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
                for (t, value) in values.chunks_exact(stride(d)).take(KEY_TILE).enumerate() {
                    ahead.step();
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
            }
        }
    };
}

tile_kernels!(single, f32, 16, 1, load_single);
tile_kernels!(half, u16, 16, 1, load_half);
tile_kernels!(eight_bits, u8, 34, 2, load_eight_bits);
tile_kernels!(five_bits, u8, 24, 2, load_five_bits);
tile_kernels!(four_bits, u8, 18, 2, load_four_bits);
