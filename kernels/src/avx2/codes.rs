//! f32 activations to codes of 15 or 8 bits.
use std::arch::x86_64::*;

use super::{
    lanes,
    vectors::{store_codes, sum},
};
use crate::{activations::CodeBlock, scalar::codes::SMALLEST};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize_codes(x: &[f32], largest_code: f32, codes: &mut [i16], blocks: &mut [CodeBlock]) {
    for ((x, codes), block) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0).zip(blocks) {
        *block = quantize_block(x, largest_code, codes);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_block(x: &[f32; 32], largest_code: f32, codes: &mut [i16; 32]) -> CodeBlock {
    let (eights, _) = x.as_chunks::<8>();
    let x: [__m256; 4] =
        [lanes::load(&eights[0]), lanes::load(&eights[1]), lanes::load(&eights[2]), lanes::load(&eights[3])];
    // Ordered as integers, sizes are ordered as numbers, with infinity and NaN above all of them.
    let size = |x| _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
    let size = [size(x[0]), size(x[1]), size(x[2]), size(x[3])];
    let most = _mm256_max_epi32(_mm256_max_epi32(size[0], size[1]), _mm256_max_epi32(size[2], size[3]));
    let most = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let most = _mm_max_epi32(most, _mm_unpackhi_epi64(most, most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<1>(most));
    let largest = f32::from_bits(_mm_cvtsi128_si32(most) as u32);
    if !largest.is_finite() {
        codes.fill(0);
        return CodeBlock { scale: f32::NAN, scaled_total: f32::NAN, ..CodeBlock::default() };
    }
    if largest < SMALLEST {
        codes.fill(0);
        return CodeBlock::default();
    }
    let inverse = _mm256_set1_ps(largest_code / largest);
    let q = |x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
    let q = [q(x[0]), q(x[1]), q(x[2]), q(x[3])];
    let (to, _) = codes.as_chunks_mut::<16>();
    // Packing works in the two halves of a register; the permutation puts the quarters in order.
    store_codes(&mut to[0], _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(q[0], q[1])));
    store_codes(&mut to[1], _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(q[2], q[3])));
    let halves = [sum(_mm256_add_epi32(q[0], q[1])), sum(_mm256_add_epi32(q[2], q[3]))];
    let total = halves[0] + halves[1];
    let scale = largest / largest_code;
    CodeBlock { scale, scaled_total: scale * total as f32, total, halves }
}
