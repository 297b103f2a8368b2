//! Numbers to blocks of 256 with integer scales: a search for the scales that lose least.
//!
//! The formats fix how blocks are read, not how scales are found. Here some scales near the one that
//! spans the numbers are tried; for each the codes are rounded and the scale (and minimum) that fit
//! these codes best are solved for; the one with the smallest weighted squared error stays.
use half::f16;

use super::sub_scales::pack_scales_and_minima;

/// Scales that are tried, in codes more or fewer than the format has.
const TRIALS: std::ops::RangeInclusive<i32> = -9..=9;

/// A scale, a minimum to subtract (not negative), and what they lose.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    minimum: f32,
    error: f32,
}

fn code(x: f32, most: u8) -> f32 {
    x.round_ties_even().clamp(0.0, f32::from(most))
}

/// Returns the scale and the minimum with which `x ≈ scale * code - minimum` for codes of 0 to `most`.
fn fit(x: &[f32], most: u8) -> Fit {
    let size = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    // Large numbers matter more in a product, small ones not nothing.
    let weight = |x: f32| size + x.abs();
    let low = x.iter().fold(0.0f32, |low, x| low.min(*x));
    let high = x.iter().fold(low, |high, x| high.max(*x));
    let mut best = Fit { scale: 0.0, minimum: -low, error: f32::INFINITY };
    if high <= low {
        return best;
    }
    for trial in TRIALS {
        let inverse = (f32::from(most) + 0.1 * trial as f32) / (high - low);
        let [mut ww, mut wc, mut wcc, mut wx, mut wcx] = [0.0f32; 5];
        for x in x {
            let (w, c) = (weight(*x), code((x - low) * inverse, most));
            ww += w;
            wc += w * c;
            wcc += w * c * c;
            wx += w * x;
            wcx += w * c * x;
        }
        let determinant = ww * wcc - wc * wc;
        let mut scale = (ww * wcx - wx * wc) / determinant;
        let mut minimum = (wc * wcx - wcc * wx) / determinant;
        // Also where all codes are equal, so that any pair on a line fits.
        if determinant <= 0.0 || minimum < 0.0 {
            minimum = 0.0;
            scale = if wcc > 0.0 { wcx / wcc } else { 0.0 };
        }
        let error =
            x.iter().map(|x| weight(*x) * (scale * code((x - low) * inverse, most) - minimum - x).powi(2)).sum::<f32>();
        if error < best.error {
            best = Fit { scale, minimum, error };
        }
    }
    best
}

/// Returns eight numbers as integers of up to six bits and the f16 they are to be multiplied with.
fn six_bits(values: &[f32; 8]) -> (f16, [u8; 8]) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(*value));
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    (f16::from_f32(largest / 63.0), values.map(|value| code(value * inverse, 63) as u8))
}

/// Writes the scales and minima of a block and returns its codes.
fn with_minima(x: &[f32], block: &mut [u8], most: u8) -> [u8; 256] {
    let fits: [Fit; 8] = std::array::from_fn(|j| fit(&x[32 * j..][..32], most));
    let (d, scales) = six_bits(&fits.map(|fit| fit.scale));
    let (minimum, minima) = six_bits(&fits.map(|fit| fit.minimum));
    block[0..2].copy_from_slice(&d.to_le_bytes());
    block[2..4].copy_from_slice(&minimum.to_le_bytes());
    block[4..16].copy_from_slice(&pack_scales_and_minima(&scales, &minima));
    std::array::from_fn(|k| {
        let scale = d.to_f32() * f32::from(scales[k / 32]);
        let minimum = minimum.to_f32() * f32::from(minima[k / 32]);
        if scale > 0.0 { code((x[k] + minimum) / scale, most) as u8 } else { 0 }
    })
}

fn put_nibbles(to: &mut [u8], codes: &[u8; 256]) {
    for (at, to) in to.iter_mut().enumerate() {
        let k = at / 32 * 64 + at % 32;
        *to = (codes[k] & 15) | (codes[k + 32] & 15) << 4;
    }
}

pub(super) fn q4_k(x: &[f32], block: &mut [u8]) {
    let codes = with_minima(x, block, 15);
    put_nibbles(&mut block[16..], &codes);
}

pub(super) fn q5_k(x: &[f32], block: &mut [u8]) {
    let codes = with_minima(x, block, 31);
    block[16..48].fill(0);
    for (k, code) in codes.iter().enumerate() {
        block[16 + k % 32] |= (code >> 4) << (k / 32);
    }
    put_nibbles(&mut block[48..], &codes);
}

/// Returns the scale with which `x ≈ scale * code` for codes of -32 to 31.
fn fit_around_zero(x: &[f32]) -> f32 {
    let furthest = x.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    if furthest == 0.0 {
        return 0.0;
    }
    let (mut best, mut gain) = (0.0, 0.0);
    for trial in TRIALS {
        let inverse = -(32.0 + 0.1 * trial as f32) / furthest;
        let (mut wcx, mut wcc) = (0.0f32, 0.0f32);
        for x in x {
            let (w, c) = (x * x, (x * inverse).round_ties_even().clamp(-32.0, 31.0));
            wcx += w * c * x;
            wcc += w * c * c;
        }
        // The weighted squared error is a constant less this.
        if wcc > 0.0 && wcx * wcx > gain * wcc {
            (best, gain) = (wcx / wcc, wcx * wcx / wcc);
        }
    }
    best
}

pub(super) fn q6_k(x: &[f32], block: &mut [u8]) {
    let scales: [f32; 16] = std::array::from_fn(|j| fit_around_zero(&x[16 * j..][..16]));
    let furthest = scales.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let d = f16::from_f32(furthest / -128.0);
    let inverse = if furthest == 0.0 { 0.0 } else { -128.0 / furthest };
    let scales = scales.map(|scale| (scale * inverse).round_ties_even().clamp(-128.0, 127.0) as i8);
    block[..192].fill(0);
    block[208..].copy_from_slice(&d.to_le_bytes());
    for (k, x) in x.iter().enumerate() {
        let scale = d.to_f32() * f32::from(scales[k / 16]);
        let code = if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even().clamp(-32.0, 31.0) };
        let code = (code as i8 + 32) as u8;
        block[k / 128 * 64 + k % 64] |= (code & 15) << (4 * (k % 128 / 64));
        block[128 + k / 128 * 32 + k % 32] |= (code >> 4) << (2 * (k % 128 / 32));
        block[192 + k / 16] = scales[k / 16] as u8;
    }
}
