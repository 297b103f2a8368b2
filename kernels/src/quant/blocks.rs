//! The formats with a scale for 32 numbers: `d q`, or `d q + m`.
use super::f16_at;

/// Writes `value(code)` for 16 bytes of nibbles: the low ones are the first half of the block.
fn nibbles(codes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    for (k, byte) in codes.iter().enumerate() {
        out[k] = value(k, byte & 15);
        out[k + 16] = value(k + 16, byte >> 4);
    }
}

/// Returns the fifth bits of a block, bit k for number k.
fn fifth_bits(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn with_fifth(high: u32, k: usize, low: u8) -> u8 {
    low | (((high >> k) & 1) as u8) << 4
}

pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], out, |_, q| d * f32::from(q as i8 - 8));
}

pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], out, |_, q| d * f32::from(q) + m);
}

pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (f16_at(block, 0), fifth_bits(block, 2));
    nibbles(&block[6..], out, |k, q| d * f32::from(with_fifth(high, k, q) as i8 - 16));
}

pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (f16_at(block, 0), f16_at(block, 2), fifth_bits(block, 4));
    nibbles(&block[8..], out, |k, q| d * f32::from(with_fifth(high, k, q)) + m);
}

pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (q, out) in block[2..].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

/// The largest code of `q13_0`: 32 of them times the largest code of an activation add up to less than 2^31.
pub(crate) const Q13_LARGEST: i16 = 4095;

/// Returns the codes of a block of `q13_0`; larger ones than there are count as the largest.
pub(crate) fn q13_0_codes(block: &[u8]) -> impl Iterator<Item = i16> {
    let codes = block[2..].as_chunks::<2>().0.iter();
    codes.map(|code| i16::from_le_bytes(*code).clamp(-Q13_LARGEST, Q13_LARGEST))
}

pub(super) fn q13_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (q, out) in q13_0_codes(block).zip(out) {
        *out = d * f32::from(q);
    }
}
