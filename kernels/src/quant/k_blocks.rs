//! The formats with 256 numbers in a block, whose scales are integers themselves.
use super::{
    f16_at,
    sub_scales::{scales_and_minima, signed_scales},
};

/// 16 bytes of scales (low four bits) and minima (high four), 64 of codes, two f16.
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, minimum) = (f16_at(block, 80), f16_at(block, 82));
    for (k, out) in out.iter_mut().enumerate() {
        let scale = block[k / 16];
        let code = q2_k_code(block, k);
        *out = d * f32::from(scale & 15) * f32::from(code) - minimum * f32::from(scale >> 4);
    }
}

/// Each 128 numbers share 32 bytes; bits 2j and 2j + 1 are the j-th 32 of them.
pub(crate) fn q2_k_code(block: &[u8], k: usize) -> u8 {
    (block[16 + k / 128 * 32 + k % 32] >> (2 * (k % 128 / 32))) & 3
}

/// 32 bytes of high bits, 64 of low bits, 12 of scales, an f16.
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 108);
    let scales = signed_scales(&block[96..108]);
    for (k, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(scales[k / 16]) * f32::from(q3_k_code(block, k));
    }
}

/// The two low bits lie as in [`q2_k_code`]; bit k / 32 of high byte k % 32 is the third, and
/// where it is 0 the number is 4 less.
pub(crate) fn q3_k_code(block: &[u8], k: usize) -> i8 {
    let low = (block[32 + k / 128 * 32 + k % 32] >> (2 * (k % 128 / 32))) & 3;
    let high = (block[k % 32] >> (k / 32)) & 1;
    (low | high << 2) as i8 - 4
}

/// Two f16, 12 bytes of scales and minima, 128 of codes.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    with_minima(block, out, q4_k_code);
}

/// Each 64 numbers share 32 bytes: the low nibbles first.
pub(crate) fn q4_k_code(block: &[u8], k: usize) -> u8 {
    (block[16 + k / 64 * 32 + k % 32] >> (4 * (k % 64 / 32))) & 15
}

/// Two f16, 12 bytes of scales and minima, 32 of fifth bits, 128 of low ones.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    with_minima(block, out, q5_k_code);
}

/// The low four bits lie as in [`q4_k_code`]; bit k / 32 of high byte k % 32 is the fifth.
pub(crate) fn q5_k_code(block: &[u8], k: usize) -> u8 {
    let low = (block[48 + k / 64 * 32 + k % 32] >> (4 * (k % 64 / 32))) & 15;
    low | ((block[16 + k % 32] >> (k / 32)) & 1) << 4
}

fn with_minima(block: &[u8], out: &mut [f32], code: fn(&[u8], usize) -> u8) {
    let (d, minimum) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    for (k, out) in out.iter_mut().enumerate() {
        let (d, m) = (d * f32::from(scales[k / 32]), minimum * f32::from(minima[k / 32]));
        *out = d * f32::from(code(block, k)) - m;
    }
}

/// 128 bytes of low nibbles, 64 of high bits, 16 of scales, an f16.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 208);
    for (k, out) in out.iter_mut().enumerate() {
        let scale = block[192 + k / 16] as i8;
        *out = d * f32::from(scale) * f32::from(q6_k_code(block, k) as i8 - 32);
    }
}

/// Each 128 numbers share 64 bytes of nibbles, the low ones the first 64 of them, and 32 bytes of
/// high bits, of which bits 2j and 2j + 1 are the j-th 32.
pub(crate) fn q6_k_code(block: &[u8], k: usize) -> u8 {
    let low = (block[k / 128 * 64 + k % 64] >> (4 * (k % 128 / 64))) & 15;
    let high = (block[128 + k / 128 * 32 + k % 32] >> (2 * (k % 128 / 32))) & 3;
    low | high << 4
}
