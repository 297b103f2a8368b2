//! Numbers to blocks with a scale for 32, with llama.cpp's roundings (`ggml-quants.c`, and the `gguf`
//! Python package, which agree).
use half::f16;

fn put_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Returns the number that is furthest from zero, the first of those.
fn furthest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most })
}

fn bounds(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
}

/// Returns the code of a number, by truncation; NaN becomes 0.
fn code(value: f64, most: u8) -> u8 {
    (value as i32).clamp(0, i32::from(most)) as u8
}

fn put_nibbles(to: &mut [u8], codes: &[u8; 32]) {
    for (k, to) in to.iter_mut().enumerate() {
        *to = (codes[k] & 15) | (codes[k + 16] & 15) << 4;
    }
}

fn put_fifth(to: &mut [u8], codes: &[u8; 32]) {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (k, code)| bits | u32::from(code >> 4) << k);
    to.copy_from_slice(&bits.to_le_bytes());
}

/// Returns the codes of numbers around zero and their scale: the furthest becomes code 0.
fn around_zero(x: &[f32], middle: f32) -> (f32, [u8; 32]) {
    let d = furthest(x) / -middle;
    let inverse = f64::from(inverse(d));
    let most = (2.0 * middle) as u8 - 1;
    (d, std::array::from_fn(|k| code(f64::from(x[k]) * inverse + f64::from(middle) + 0.5, most)))
}

/// Returns the codes of numbers above a minimum, their scale and the minimum.
fn above_minimum(x: &[f32], most: u8) -> (f32, f32, [u8; 32]) {
    let (low, high) = bounds(x);
    let d = (high - low) / f32::from(most);
    let inverse = inverse(d);
    (d, low, std::array::from_fn(|k| code(f64::from((x[k] - low) * inverse + 0.5), most)))
}

pub(super) fn q4_0(x: &[f32], block: &mut [u8]) {
    let (d, codes) = around_zero(x, 8.0);
    put_f16(block, 0, d);
    put_nibbles(&mut block[2..], &codes);
}

pub(super) fn q4_1(x: &[f32], block: &mut [u8]) {
    let (d, m, codes) = above_minimum(x, 15);
    put_f16(block, 0, d);
    put_f16(block, 2, m);
    put_nibbles(&mut block[4..], &codes);
}

pub(super) fn q5_0(x: &[f32], block: &mut [u8]) {
    let (d, codes) = around_zero(x, 16.0);
    put_f16(block, 0, d);
    put_fifth(&mut block[2..6], &codes);
    put_nibbles(&mut block[6..], &codes);
}

pub(super) fn q5_1(x: &[f32], block: &mut [u8]) {
    let (d, m, codes) = above_minimum(x, 31);
    put_f16(block, 0, d);
    put_f16(block, 2, m);
    put_fifth(&mut block[4..8], &codes);
    put_nibbles(&mut block[8..], &codes);
}

pub(super) fn q8_0(x: &[f32], block: &mut [u8]) {
    let d = furthest(x).abs() / 127.0;
    let inverse = inverse(d);
    put_f16(block, 0, d);
    for (to, x) in block[2..].iter_mut().zip(x) {
        *to = (x * inverse).round() as i8 as u8;
    }
}
