//! Multiply-adds and nothing else. What reads is AVX2's: wider loads bring no more from memory.
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply_adds(rounds: usize) -> f32 {
    let mut chains = [_mm512_set1_ps(1.0); 12];
    let factor = _mm512_set1_ps(std::hint::black_box(0.999_9));
    // A register holds sixteen lanes: two rounds.
    for _ in 0..rounds / 2 {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(*chain, factor, factor);
        }
    }
    chains.into_iter().map(|chain| _mm512_reduce_add_ps(chain)).sum()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply_add_pairs(rounds: usize) -> i32 {
    let mut chains = [_mm512_set1_epi32(1); 12];
    let factor = _mm512_set1_epi16(std::hint::black_box(3));
    // A register holds 32 16-bit numbers: four rounds.
    for _ in 0..rounds / 4 {
        for chain in &mut chains {
            *chain = _mm512_dpwssd_epi32(*chain, *chain, factor);
        }
    }
    chains.into_iter().fold(0, |sum, chain| sum.wrapping_add(_mm512_reduce_add_epi32(chain)))
}
