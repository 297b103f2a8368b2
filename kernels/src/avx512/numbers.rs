//! Cached numbers as vectors of sixteen.
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: `x` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_single(x: &[f32; 16]) -> [__m512; 1] {
    [load(x)]
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_half(x: &[u16; 16]) -> [__m512; 1] {
    // SAFETY: `x` is 32 readable bytes, and `loadu` needs no alignment.
    [_mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })]
}

/// Returns a block of `q8_0`, each number rounded as [`crate::dequantize_row`] does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn load_eight_bits(block: &[u8; 34]) -> [__m512; 2] {
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
pub(super) fn load_four_bits(block: &[u8; 18]) -> [__m512; 2] {
    let scale = broadcast(block[0], block[1]);
    nibbles(&block[2..].as_chunks().0[0]).map(|codes| {
        let codes = _mm_sub_epi8(codes, _mm_set1_epi8(8));
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), scale)
    })
}

/// Returns a block of `q5_1`, rounded likewise: the product, and then the sum with the minimum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn load_five_bits(block: &[u8; 24]) -> [__m512; 2] {
    let (scale, minimum) = (broadcast(block[0], block[1]), broadcast(block[2], block[3]));
    let high = [u16::from_le_bytes([block[4], block[5]]), u16::from_le_bytes([block[6], block[7]])];
    let [low, above] = nibbles(&block[8..].as_chunks().0[0]);
    [(low, high[0]), (above, high[1])].map(|(codes, high)| {
        let codes = _mm_mask_add_epi8(codes, high, codes, _mm_set1_epi8(16));
        _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), scale), minimum)
    })
}
