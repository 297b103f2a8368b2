//! f32 activations to codes of 15 or 8 bits.
use crate::activations::CodeBlock;

/// Blocks whose largest number is below this are zero: the inverse of their scale would overflow.
pub(crate) const SMALLEST: f32 = 2.0e-34;

pub(crate) fn quantize_codes(x: &[f32], largest_code: f32, codes: &mut [i16], blocks: &mut [CodeBlock]) {
    for ((x, codes), block) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0).zip(blocks) {
        *block = quantize_block(x, largest_code, codes);
    }
}

fn quantize_block(x: &[f32; 32], largest_code: f32, codes: &mut [i16; 32]) -> CodeBlock {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if !x.iter().all(|x| x.is_finite()) {
        codes.fill(0);
        return CodeBlock { scale: f32::NAN, scaled_total: f32::NAN, ..CodeBlock::default() };
    }
    if largest < SMALLEST {
        codes.fill(0);
        return CodeBlock::default();
    }
    let inverse = largest_code / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse).round_ties_even() as i16;
    }
    let halves = [&codes[..16], &codes[16..]].map(|half| half.iter().map(|code| i32::from(*code)).sum());
    let total = halves[0] + halves[1];
    let scale = largest / largest_code;
    CodeBlock { scale, scaled_total: scale * total as f32, total, halves }
}
