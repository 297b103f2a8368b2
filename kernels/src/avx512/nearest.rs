//! Bits that differ, counted eight words at a time where the processor counts bits.
use std::arch::x86_64::*;

use crate::{
    avx2,
    nearest::{DISTANCES_A_MASK, NearestKernels},
    scalar,
};

pub(super) const KERNELS: NearestKernels = NearestKernels {
    distances: |words, to, out| {
        if std::is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: this leaves only inside the table, which `detect` gives out, and the rest was seen here.
            unsafe { distances(words, to, out) }
        } else {
            (avx2::nearest::KERNELS.distances)(words, to, out);
        }
    },
    // SAFETY: this leaves only inside the table, which `detect` gives out.
    within: |distances, limit, masks| unsafe { within(distances, limit, masks) },
    ..avx2::nearest::KERNELS
};

#[target_feature(enable = "avx512f")]
fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn distances([first, second]: [&[u64]; 2], to: [u64; 2], out: &mut [u8]) {
    let [to_first, to_second] = to.map(|word| _mm512_set1_epi64(word.cast_signed()));
    let ((firsts, first), (seconds, second)) = (first.as_chunks::<8>(), second.as_chunks::<8>());
    let (outs, out) = out.as_chunks_mut::<8>();
    for ((first, second), out) in firsts.iter().zip(seconds).zip(outs) {
        let first = _mm512_popcnt_epi64(_mm512_xor_si512(load_words(first), to_first));
        let second = _mm512_popcnt_epi64(_mm512_xor_si512(load_words(second), to_second));
        let sums = _mm512_cvtepi64_epi8(_mm512_add_epi64(first, second));
        *out = _mm_cvtsi128_si64(sums).to_le_bytes();
    }
    (scalar::NEAREST.distances)([first, second], to, out);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn within(distances: &[u8], limit: u8, masks: &mut [u64]) {
    let limits = _mm512_set1_epi8(limit.cast_signed());
    let (blocks, rest) = distances.as_chunks::<DISTANCES_A_MASK>();
    let (of_blocks, of_rest) = masks.split_at_mut(blocks.len());
    for (block, mask) in blocks.iter().zip(of_blocks) {
        // SAFETY: 64 readable bytes, and `loadu` needs no alignment.
        let distances = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        *mask = _mm512_cmple_epu8_mask(distances, limits);
    }
    (scalar::NEAREST.within)(rest, limit, of_rest);
}
