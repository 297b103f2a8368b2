//! f32 activations to codes of 15 or 8 bits.
use std::arch::aarch64::*;

use super::lanes;
use crate::{activations::CodeBlock, scalar::codes::SMALLEST};

#[target_feature(enable = "neon")]
pub(super) fn quantize_codes(x: &[f32], largest_code: f32, codes: &mut [i16], blocks: &mut [CodeBlock]) {
    for ((x, codes), block) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0).zip(blocks) {
        *block = quantize_block(x, largest_code, codes);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn quantize_block(x: &[f32; 32], largest_code: f32, codes: &mut [i16; 32]) -> CodeBlock {
    let mut fours = [vdupq_n_f32(0.0); 8];
    let mut most = vdupq_n_f32(0.0);
    for (four, x) in fours.iter_mut().zip(x.as_chunks().0) {
        *four = lanes::load(x);
        // A maximum of NaN and a number is NaN here.
        most = vmaxq_f32(most, vabsq_f32(*four));
    }
    let largest = vmaxvq_f32(most);
    if !largest.is_finite() {
        codes.fill(0);
        return CodeBlock { scale: f32::NAN, scaled_total: f32::NAN, ..CodeBlock::default() };
    }
    if largest < SMALLEST {
        codes.fill(0);
        return CodeBlock::default();
    }
    let inverse = largest_code / largest;
    let mut sums = [vdupq_n_s32(0); 2];
    for (i, (pair, codes)) in fours.as_chunks::<2>().0.iter().zip(codes.as_chunks_mut::<8>().0).enumerate() {
        let [a, b] = pair.map(|four| vcvtnq_s32_f32(vmulq_n_f32(four, inverse)));
        sums[i / 2] = vaddq_s32(sums[i / 2], vaddq_s32(a, b));
        // SAFETY: `codes` is 16 writable bytes.
        unsafe { vst1q_s16(codes.as_mut_ptr(), vqmovn_high_s32(vqmovn_s32(a), b)) };
    }
    let halves = sums.map(|sums| vaddvq_s32(sums));
    let total = halves[0] + halves[1];
    let scale = largest / largest_code;
    CodeBlock { scale, scaled_total: scale * total as f32, total, halves }
}
