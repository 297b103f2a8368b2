//! Blocks of 32 values: `q4_0` `q4_1` `q5_0` `q5_1` `q8_0` (layouts of ggml's `ggml-common.h`).
use half::f16;

use super::{
    TensorType,
    fit::{self, Search},
};

/// Values in a block.
pub(super) const VALUES: usize = 32;

/// llama.cpp's candidates where there is an importance matrix.
const SEARCH: Search = Search { first: -0.9, step: 0.05, count: 36, absolute: false };

/// Stores a row as blocks of a type of 32 values.
pub(super) fn row(kind: TensorType, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    let blocks = values.chunks_exact(VALUES).zip(out.chunks_exact_mut(kind.block_bytes()));
    for (i, (values, out)) in blocks.enumerate() {
        let mut weights = [0.0; VALUES];
        let weights = importance.map(|importance| {
            let importance = &importance[i * VALUES..][..VALUES];
            for ((weight, value), importance) in weights.iter_mut().zip(values).zip(importance) {
                *weight = importance * (square + value * value).sqrt();
            }
            &weights[..]
        });
        match kind {
            TensorType::Q4_0 => symmetric(values, weights, 8, out),
            TensorType::Q5_0 => symmetric(values, weights, 16, out),
            TensorType::Q4_1 => affine(values, weights, 15, out),
            TensorType::Q5_1 => affine(values, weights, 31, out),
            _ => eight(values, out),
        }
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Scale, then levels around the middle of the range.
fn symmetric(values: &[f32], weights: Option<&[f32]>, half: u8, out: &mut [u8]) {
    let mut levels = [0u8; VALUES];
    let scale = if let Some(weights) = weights {
        fit::symmetric(values, weights, half.into(), &mut levels)
    } else {
        let scale = fit::peak(values) / -f32::from(half);
        let inverse = inverse(scale);
        for (level, value) in levels.iter_mut().zip(values) {
            *level = ((value * inverse + f32::from(half) + 0.5) as u8).min(2 * half - 1);
        }
        scale
    };
    let (header, rest) = out.split_at_mut(2);
    header.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    pack(&levels, half > 8, rest);
}

/// Scale and least value, then levels from there.
fn affine(values: &[f32], weights: Option<&[f32]>, top: u8, out: &mut [u8]) {
    let mut levels = [0u8; VALUES];
    let (scale, low) = if let Some(weights) = weights {
        let (scale, min) = fit::affine(values, weights, top, SEARCH, &mut levels);
        (scale, -min)
    } else {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = (high - low) / f32::from(top);
        let inverse = inverse(scale);
        for (level, value) in levels.iter_mut().zip(values) {
            *level = (((value - low) * inverse + 0.5) as u8).min(top);
        }
        (scale, low)
    };
    let (header, rest) = out.split_at_mut(4);
    header[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    header[2..].copy_from_slice(&f16::from_f32(low).to_le_bytes());
    pack(&levels, top > 15, rest);
}

/// Low four bits of levels `i` and `i + 16` share a byte; fifth bits come first, if there are any.
fn pack(levels: &[u8; VALUES], fifth: bool, out: &mut [u8]) {
    let (high, low) = out.split_at_mut(if fifth { 4 } else { 0 });
    if fifth {
        let bits = levels.iter().enumerate().fold(0u32, |bits, (i, level)| bits | u32::from(level >> 4) << i);
        high.copy_from_slice(&bits.to_le_bytes());
    }
    for (i, out) in low.iter_mut().enumerate() {
        *out = levels[i] & 15 | levels[i + VALUES / 2] << 4;
    }
}

fn eight(values: &[f32], out: &mut [u8]) {
    let scale = fit::peak(values).abs() / 127.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = ((value * inverse).round() as i8).cast_unsigned();
    }
}
