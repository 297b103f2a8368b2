//! Numbers to blocks with a scale for 32, with llama.cpp's roundings (`ggml-quants.c`, and the `gguf`
//! Python package, which agree).
use half::f16;

use super::blocks::Q13_LARGEST;

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

/// Returns the greatest distance from zero of numbers that are finite; as whole numbers, bits without the sign
/// are in the same order, and vectors compare them.
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().map(|x| x.to_bits() & !(1 << 31)).max().unwrap_or(0))
}

/// Returns what `x.round() as i8` does, ties away from zero, in steps that become vectors where `round` would
/// be a call for each number.
fn nearest(x: f32) -> i8 {
    let x = x.clamp(-128.0, 127.0);
    let whole = x as i32;
    let rest = x - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
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
    let d = largest(x) / 127.0;
    let inverse = inverse(d);
    put_f16(block, 0, d);
    for (to, x) in block[2..].iter_mut().zip(x) {
        *to = nearest(x * inverse) as u8;
    }
}

/// Codes are those of the scale as it is stored, which is rounded up: then none is cut off.
pub(super) fn q13_0(x: &[f32], block: &mut [u8]) {
    let exact = largest(x) / f32::from(Q13_LARGEST);
    let nearest = f16::from_f32(exact);
    let d = if nearest.to_f32() < exact { f16::from_bits(nearest.to_bits() + 1) } else { nearest };
    block[..2].copy_from_slice(&d.to_le_bytes());
    let inverse = inverse(d.to_f32());
    for (to, x) in block[2..].as_chunks_mut::<2>().0.iter_mut().zip(x) {
        *to = ((x * inverse).round_ties_even() as i16).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_whole_number_is_that_of_round() {
        let same = |x: f32| assert_eq!(nearest(x), x.round() as i8, "{x:e}");
        for step in -300 * 64..=300 * 64 {
            let x = step as f32 / 64.0;
            [x, x.next_up(), x.next_down()].into_iter().for_each(same);
        }
        for exponent in 0..=255u32 {
            for bits in [exponent << 23, exponent << 23 | 0x7f_ffff, exponent << 23 | 0x40_0001] {
                [f32::from_bits(bits), -f32::from_bits(bits)].into_iter().for_each(same);
            }
        }
    }

    #[test]
    fn the_largest_is_the_furthest_from_zero() {
        for x in [&[0.0f32, -0.0][..], &[-3.0, 2.0], &[1.0e-45, -1.0e-40], &[f32::MIN, f32::MAX, 1.0], &[]] {
            assert_eq!(largest(x).to_bits(), furthest(x).abs().to_bits(), "{x:?}");
        }
    }
}
