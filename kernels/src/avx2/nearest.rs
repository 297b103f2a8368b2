//! Bits that differ, counted sixteen pairs of words at a time, and products of 16-bit numbers.
use std::arch::x86_64::*;

use super::vectors::load_codes;
use crate::{
    nearest::{DISTANCES_A_MASK, NearestKernels},
    scalar,
};

/// Rows that are asked for before the one that is multiplied.
const AHEAD: usize = 8;

/// 16-bit numbers in a cache line.
const LINE: usize = 32;

pub(crate) const KERNELS: NearestKernels = NearestKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    distances: |words, to, out| unsafe { distances(words, to, out) },
    // SAFETY: as above.
    within: |distances, limit, masks| unsafe { within(distances, limit, masks) },
    // SAFETY: as above.
    dots: |rows, places, vector, out| unsafe { dots(rows, places, vector, out) },
};

#[target_feature(enable = "avx2")]
fn load_words(words: &[u64; 4]) -> __m256i {
    // SAFETY: 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Returns how many bits of each byte are set: a table has the answer for each half.
#[target_feature(enable = "avx2")]
fn bits_of_bytes(x: __m256i) -> __m256i {
    let counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let low = _mm256_set1_epi8(15);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(x), low);
    _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(x, low)), _mm256_shuffle_epi8(counts, high))
}

/// Returns in how many bits four pairs of words differ from one, each in 64 bits.
#[target_feature(enable = "avx2")]
fn four(first: &[u64; 4], second: &[u64; 4], to: [__m256i; 2]) -> __m256i {
    let first = bits_of_bytes(_mm256_xor_si256(load_words(first), to[0]));
    let second = bits_of_bytes(_mm256_xor_si256(load_words(second), to[1]));
    _mm256_sad_epu8(_mm256_add_epi8(first, second), _mm256_setzero_si256())
}

#[target_feature(enable = "avx2")]
fn distances([first, second]: [&[u64]; 2], to: [u64; 2], out: &mut [u8]) {
    let tos = [_mm256_set1_epi64x(to[0].cast_signed()), _mm256_set1_epi64x(to[1].cast_signed())];
    let ((firsts, first), (seconds, second)) = (first.as_chunks::<16>(), second.as_chunks::<16>());
    let (outs, out) = out.as_chunks_mut::<16>();
    // Of each four lanes the lower halves, and of each four numbers in four of those the bytes in order.
    let halves = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
    let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for ((first, second), out) in firsts.iter().zip(seconds).zip(outs) {
        let (first, second) = (first.as_chunks::<4>().0, second.as_chunks::<4>().0);
        let a = four(&first[0], &second[0], tos);
        let b = _mm256_slli_epi64::<8>(four(&first[1], &second[1], tos));
        let c = _mm256_slli_epi64::<16>(four(&first[2], &second[2], tos));
        let d = _mm256_slli_epi64::<24>(four(&first[3], &second[3], tos));
        let all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        let bytes = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(all, halves));
        // SAFETY: 16 writable bytes, and `storeu` needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_shuffle_epi8(bytes, order)) };
    }
    (scalar::NEAREST.distances)([first, second], to, out);
}

#[target_feature(enable = "avx2")]
fn within(distances: &[u8], limit: u8, masks: &mut [u64]) {
    let limits = _mm256_set1_epi8(limit.cast_signed());
    let (blocks, rest) = distances.as_chunks::<DISTANCES_A_MASK>();
    let (of_blocks, of_rest) = masks.split_at_mut(blocks.len());
    for (block, mask) in blocks.iter().zip(of_blocks) {
        let half = |at: usize| {
            // SAFETY: 32 readable bytes, and `loadu` needs no alignment.
            let x = unsafe { _mm256_loadu_si256(block[at..at + 32].as_ptr().cast()) };
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(x, limits), x)).cast_unsigned()
        };
        *mask = u64::from(half(0)) | u64::from(half(32)) << 32;
    }
    (scalar::NEAREST.within)(rest, limit, of_rest);
}

#[target_feature(enable = "avx2")]
fn dots(rows: &[i16], places: &[u32], vector: &[i16], out: &mut [i32]) {
    let row = |place: u32| scalar::row(rows, place, vector.len());
    places.iter().take(AHEAD).for_each(|place| fetch(row(*place)));
    for (at, (place, out)) in places.iter().zip(out).enumerate() {
        if let Some(next) = places.get(at + AHEAD) {
            fetch(row(*next));
        }
        *out = dot(row(*place), vector);
    }
}

fn fetch(row: &[i16]) {
    for line in row.chunks(LINE) {
        // SAFETY: a hint, which reads nothing and which all x86-64 have.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[target_feature(enable = "avx2")]
fn dot(x: &[i16], y: &[i16]) -> i32 {
    let ((xs, x), (ys, y)) = (x.as_chunks::<32>(), y.as_chunks::<32>());
    let mut sums = [_mm256_setzero_si256(); 2];
    for (x, y) in xs.iter().zip(ys) {
        for ((x, y), sum) in x.as_chunks::<16>().0.iter().zip(y.as_chunks::<16>().0).zip(&mut sums) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(load_codes(x), load_codes(y)));
        }
    }
    let sum = _mm256_add_epi32(sums[0], sums[1]);
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    let sum = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)));
    sum.wrapping_add(scalar::dot(x, y))
}
