//! Cached blocks of 32 numbers as f32, each number rounded as [`crate::dequantize_row`] does.
use std::arch::x86_64::*;

use crate::attention::Cached;

/// Writes blocks as f32.
pub(super) fn widen(blocks: Cached<'_>, out: &mut [f32]) {
    // SAFETY: this leaves only inside the table, which `detect` gives out.
    unsafe {
        match blocks {
            Cached::F32(_) | Cached::F16(_) => {}
            Cached::Q8_0(blocks) => eight_bits(blocks, out),
            Cached::Q5_1(blocks) => five_bits(blocks, out),
            Cached::Q4_0(blocks) => four_bits(blocks, out),
        }
    }
}

/// Returns an f16 in all lanes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half(low: u8, high: u8) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([low, high])))
}

/// Writes eight signed bytes times a scale, and a minimum more where there is one.
#[inline]
#[target_feature(enable = "avx2")]
fn put(codes: __m128i, scale: __m256, minimum: Option<__m256>, out: &mut [f32; 8]) {
    let product = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), scale);
    let value = minimum.map_or(product, |minimum| _mm256_add_ps(product, minimum));
    // SAFETY: `out` is 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) };
}

/// Writes a block's codes, a byte each.
#[inline]
#[target_feature(enable = "avx2")]
fn put_block(codes: [__m128i; 2], scale: __m256, minimum: Option<__m256>, out: &mut [f32; 32]) {
    let (parts, _) = out.as_chunks_mut::<8>();
    for (half, codes) in codes.into_iter().enumerate() {
        put(codes, scale, minimum, &mut parts[2 * half]);
        put(_mm_srli_si128::<8>(codes), scale, minimum, &mut parts[2 * half + 1]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Returns 16 bytes' low nibbles, which come first, and their high ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: &[u8; 16]) -> [__m128i; 2] {
    let (all, mask) = (load(bytes), _mm_set1_epi8(15));
    [_mm_and_si128(all, mask), _mm_and_si128(_mm_srli_epi16::<4>(all), mask)]
}

#[target_feature(enable = "avx2,f16c")]
fn eight_bits(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks.as_chunks::<34>().0.iter().zip(out.as_chunks_mut().0) {
        let (codes, _) = block[2..].as_chunks::<16>();
        put_block([load(&codes[0]), load(&codes[1])], half(block[0], block[1]), None, out);
    }
}

#[target_feature(enable = "avx2,f16c")]
fn four_bits(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut().0) {
        let codes = nibbles(&block[2..].as_chunks().0[0]).map(|codes| _mm_sub_epi8(codes, _mm_set1_epi8(8)));
        put_block(codes, half(block[0], block[1]), None, out);
    }
}

#[target_feature(enable = "avx2,f16c")]
fn five_bits(blocks: &[u8], out: &mut [f32]) {
    // Byte k of a half takes its bit from byte k / 8 of that half's two.
    let bytes = _mm_set_epi8(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    let bits = _mm_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
    for (block, out) in blocks.as_chunks::<24>().0.iter().zip(out.as_chunks_mut().0) {
        let mut codes = nibbles(&block[8..].as_chunks().0[0]);
        for (at, codes) in codes.iter_mut().enumerate() {
            let high = _mm_set1_epi16(i16::from_le_bytes([block[4 + 2 * at], block[5 + 2 * at]]));
            let set = _mm_cmpeq_epi8(_mm_and_si128(_mm_shuffle_epi8(high, bytes), bits), bits);
            *codes = _mm_or_si128(*codes, _mm_and_si128(set, _mm_set1_epi8(16)));
        }
        put_block(codes, half(block[0], block[1]), Some(half(block[2], block[3])), out);
    }
}
