//! Reads, and multiply-adds, and nothing else.
use std::arch::aarch64::*;

use super::bytes::dot;

/// Far streams, as many as a product has.
const STREAMS: usize = 4;
/// Bytes of a stream before the next one's turn.
const GRAIN: usize = 256;

#[target_feature(enable = "neon")]
pub(super) fn read(bytes: &[u8]) -> u64 {
    let grains = bytes.len() / (STREAMS * GRAIN);
    let streams: [&[[u8; GRAIN]]; STREAMS] =
        std::array::from_fn(|stream| bytes[stream * grains * GRAIN..][..grains * GRAIN].as_chunks().0);
    let mut sums = [vdupq_n_u8(0); STREAMS];
    for grain in 0..grains {
        for (sum, stream) in sums.iter_mut().zip(&streams) {
            for sixteen in stream[grain].as_chunks::<16>().0 {
                // SAFETY: 16 readable bytes.
                *sum = veorq_u8(*sum, unsafe { vld1q_u8(sixteen.as_ptr()) });
            }
        }
    }
    let all = vreinterpretq_u64_u8(veorq_u8(veorq_u8(sums[0], sums[1]), veorq_u8(sums[2], sums[3])));
    let rest = bytes[STREAMS * grains * GRAIN..].as_chunks::<8>().0;
    let rest = rest.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word));
    vgetq_lane_u64::<0>(all) ^ vgetq_lane_u64::<1>(all) ^ rest
}

#[target_feature(enable = "neon")]
pub(super) fn multiply_adds(rounds: usize) -> f32 {
    // As many chains as lanes of the round's definition make.
    let mut chains = [vdupq_n_f32(1.0); crate::MULTIPLY_ADDS_A_ROUND / 4];
    let factor = vdupq_n_f32(std::hint::black_box(0.999_9));
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = vfmaq_f32(factor, *chain, factor);
        }
    }
    chains.iter().fold(0.0, |sum, chain| sum + vaddvq_f32(*chain))
}

#[target_feature(enable = "neon")]
pub(super) fn multiply_add_words(rounds: usize) -> i32 {
    let mut chains = [vdupq_n_s32(1); crate::MULTIPLY_ADDS_A_ROUND / 4];
    let factor = vdup_n_s16(std::hint::black_box(3));
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = vmlal_s16(*chain, vmovn_s32(*chain), factor);
        }
    }
    chains.iter().fold(0, |sum, chain| sum.wrapping_add(vaddvq_s32(*chain)))
}

/// Codes are split into two bytes, so that two dot products of sixteen bytes are sixteen multiply-adds.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply_add_bytes(rounds: usize) -> i32 {
    let mut chains = [vdupq_n_s32(1); crate::MULTIPLY_ADDS_A_ROUND / 8];
    let factor = vdupq_n_s8(std::hint::black_box(3));
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = dot::<0>(*chain, factor, vreinterpretq_s8_s32(*chain));
        }
    }
    chains.iter().fold(0, |sum, chain| sum.wrapping_add(vaddvq_s32(*chain)))
}
