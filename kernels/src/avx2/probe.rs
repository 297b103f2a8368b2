//! Reads, and multiply-adds, and nothing else.
use std::arch::x86_64::*;

use super::{lanes, vectors::load};

/// Far streams. Two that are told what comes, as products have, read no faster.
const STREAMS: usize = 4;
/// Bytes of a stream before the next one's turn.
const GRAIN: usize = 256;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn read(bytes: &[u8]) -> u64 {
    let grains = bytes.len() / (STREAMS * GRAIN);
    let streams: [&[[u8; GRAIN]]; STREAMS] =
        std::array::from_fn(|stream| bytes[stream * grains * GRAIN..][..grains * GRAIN].as_chunks().0);
    let mut sums = [_mm256_setzero_si256(); STREAMS];
    for grain in 0..grains {
        for (sum, stream) in sums.iter_mut().zip(&streams) {
            for at in 0..GRAIN / 32 {
                *sum = _mm256_xor_si256(*sum, load(&stream[grain], 32 * at));
            }
        }
    }
    let all = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
    let all = _mm_xor_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    let rest = bytes[STREAMS * grains * GRAIN..].as_chunks::<8>().0;
    let rest = rest.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word));
    (_mm_cvtsi128_si64(all) ^ _mm_cvtsi128_si64(_mm_unpackhi_epi64(all, all))) as u64 ^ rest
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_adds(rounds: usize) -> f32 {
    let mut chains = [_mm256_set1_ps(1.0); 12];
    let factor = _mm256_set1_ps(std::hint::black_box(0.999_9));
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = _mm256_fmadd_ps(*chain, factor, factor);
        }
    }
    let mut sum = 0.0;
    for chain in chains {
        sum += lanes::sum_f64(lanes::widen_and_add(chain));
    }
    sum as f32
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_add_pairs(rounds: usize) -> i32 {
    let mut chains = [_mm256_set1_epi32(1); 12];
    let factor = _mm256_set1_epi16(std::hint::black_box(3));
    // A register holds sixteen 16-bit numbers: two rounds.
    for _ in 0..rounds / 2 {
        for chain in &mut chains {
            *chain = _mm256_add_epi32(*chain, _mm256_madd_epi16(*chain, factor));
        }
    }
    let sum = chains.into_iter().fold(_mm256_setzero_si256(), |sum, chain| _mm256_add_epi32(sum, chain));
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
}
