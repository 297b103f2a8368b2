//! Blocks of 256 values, the K-quants (layouts of ggml's `ggml-common.h`): groups of 16 or 32 values
//! with scales that are quantised in turn.
use half::f16;

use super::{
    TensorType,
    fit::{self, Search},
};

/// Values in a block.
const VALUES: usize = 256;

/// Stores a row as K-quants.
pub(super) fn row(kind: TensorType, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = values.chunks_exact(VALUES).zip(out.chunks_exact_mut(kind.block_bytes()));
    for (i, (values, out)) in blocks.enumerate() {
        let importance = importance.map(|importance| &importance[i * VALUES..][..VALUES]);
        match kind {
            TensorType::Q2K => q2(values, importance, out),
            TensorType::Q3K => q3(values, importance, out),
            TensorType::Q4K => q4(values, importance, out),
            TensorType::Q5K => q5(values, importance, out),
            _ => q6(values, importance, out),
        }
    }
}

fn put(out: &mut [u8], scale: f32) -> f32 {
    let half = f16::from_f32(scale);
    out.copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn mean_square(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32
}

/// Returns the weights of a group's errors, given an importance matrix.
fn weigh(values: &[f32], importance: &[f32], square: f32, weights: &mut [f32]) {
    for ((weight, value), importance) in weights.iter_mut().zip(values).zip(importance) {
        *weight = importance * (square + value * value).sqrt();
    }
}

/// Scales and mins of groups, quantised with one scale each.
struct Affine<const GROUPS: usize> {
    scale: f32,
    min: f32,
    scales: [u8; GROUPS],
    mins: [u8; GROUPS],
}

/// Fits `scale · level - min` to each group of values and quantises scales and mins to `0..=top`.
fn affine<const GROUPS: usize>(
    values: &[f32],
    importance: Option<&[f32]>,
    levels_top: u8,
    top: u8,
    plain: Search,
) -> Affine<GROUPS> {
    /// llama.cpp's candidates where there is an importance matrix.
    const SEARCH: Search = Search { first: -0.9, step: 0.05, count: 36, absolute: false };
    let size = VALUES / GROUPS;
    // Groups of 16 are weighed by the block's mean square, groups of 32 by twice that.
    let square = mean_square(values) * if size == 32 { 2.0 } else { 1.0 };
    let (mut scales, mut mins, mut sums) = ([0.0; GROUPS], [0.0; GROUPS], [0.0; GROUPS]);
    let mut levels = [0u8; 32];
    for (g, values) in values.chunks_exact(size).enumerate() {
        let mut weights = [0.0; 32];
        let weights = &mut weights[..size];
        let search = if let Some(importance) = importance {
            weigh(values, &importance[g * size..][..size], square, weights);
            SEARCH
        } else {
            let typical = if size == 32 { mean_square(values).sqrt() } else { 0.0 };
            weights.iter_mut().zip(values).for_each(|(weight, value)| *weight = typical + value.abs());
            plain
        };
        sums[g] = weights.iter().sum();
        (scales[g], mins[g]) = fit::affine(values, weights, levels_top, search, &mut levels[..size]);
    }
    let mut out = Affine { scale: 0.0, min: 0.0, scales: [0; GROUPS], mins: [0; GROUPS] };
    if importance.is_some() {
        out.scale = fit::positive(&scales, &sums, top, &mut out.scales);
        out.min = fit::positive(&mins, &sums, top, &mut out.mins);
    } else {
        out.scale = by_largest(&scales, top, &mut out.scales);
        out.min = by_largest(&mins, top, &mut out.mins);
    }
    out
}

/// Quantises values, none below 0, so that the largest takes `top`; returns the scale.
fn by_largest(values: &[f32], top: u8, levels: &mut [u8]) -> f32 {
    let largest = values.iter().copied().fold(0.0, f32::max);
    if largest <= 0.0 {
        return 0.0;
    }
    let inverse = f32::from(top) / largest;
    for (level, value) in levels.iter_mut().zip(values) {
        *level = ((inverse * value).round_ties_even().max(0.0) as u8).min(top);
    }
    largest / f32::from(top)
}

/// Returns every value's level under the quantised scales.
fn affine_levels<const GROUPS: usize>(
    values: &[f32],
    groups: &Affine<GROUPS>,
    (scale, min): (f32, f32),
    top: u8,
) -> [u8; VALUES] {
    let size = VALUES / GROUPS;
    let mut levels = [0; VALUES];
    for (i, (level, value)) in levels.iter_mut().zip(values).enumerate() {
        let step = scale * f32::from(groups.scales[i / size]);
        if step > 0.0 {
            let min = min * f32::from(groups.mins[i / size]);
            *level = ((value + min) / step).round_ties_even().clamp(0.0, f32::from(top)) as u8;
        }
    }
    levels
}

/// Two bits a level: levels `i`, `i + 32`, `i + 64` and `i + 96` of each half share a byte.
fn pack_two_bits(levels: &[u8; VALUES], out: &mut [u8]) {
    for (half, out) in levels.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = half[i] & 3 | (half[i + 32] & 3) << 2 | (half[i + 64] & 3) << 4 | (half[i + 96] & 3) << 6;
        }
    }
}

/// Four bits a level: levels `i` and `i + 32` of each 64 share a byte.
fn pack_four_bits(levels: &[u8; VALUES], out: &mut [u8]) {
    for (levels, out) in levels.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = levels[i] & 15 | levels[i + 32] << 4;
        }
    }
}

/// `scales[16]`, `levels[64]`, scale, min.
fn q2(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let plain = Search { first: -0.5, step: 0.1, count: 15, absolute: true };
    let groups: Affine<16> = affine(values, importance, 3, 15, plain);
    let (scale, min) = (put(&mut out[80..82], groups.scale), put(&mut out[82..84], groups.min));
    for (g, out) in out[..16].iter_mut().enumerate() {
        *out = groups.scales[g] | groups.mins[g] << 4;
    }
    pack_two_bits(&affine_levels(values, &groups, (scale, min), 3), &mut out[16..80]);
}

/// Six-bit scales and mins of eight groups in 12 bytes: those of the first four groups whole, of the
/// others the low four bits, and the high two above the first four's.
fn pack_six_bits(groups: &Affine<8>, out: &mut [u8]) {
    for g in 0..4 {
        let (scale, min) = (groups.scales[g + 4], groups.mins[g + 4]);
        out[g] = groups.scales[g] | scale >> 4 << 6;
        out[g + 4] = groups.mins[g] | min >> 4 << 6;
        out[g + 8] = scale & 15 | (min & 15) << 4;
    }
}

/// Scale, min, `scales[12]`, `levels[128]`.
fn q4(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let plain = Search { first: -1.0, step: 0.1, count: 20, absolute: false };
    let groups: Affine<8> = affine(values, importance, 15, 63, plain);
    let (scale, min) = (put(&mut out[..2], groups.scale), put(&mut out[2..4], groups.min));
    pack_six_bits(&groups, &mut out[4..16]);
    pack_four_bits(&affine_levels(values, &groups, (scale, min), 15), &mut out[16..144]);
}

/// Scale, min, `scales[12]`, fifth bits `[32]`, low bits `[128]`.
fn q5(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let plain = Search { first: -0.5, step: 0.1, count: 15, absolute: false };
    let groups: Affine<8> = affine(values, importance, 31, 63, plain);
    let (scale, min) = (put(&mut out[..2], groups.scale), put(&mut out[2..4], groups.min));
    pack_six_bits(&groups, &mut out[4..16]);
    let levels = affine_levels(values, &groups, (scale, min), 31);
    for (i, out) in out[16..48].iter_mut().enumerate() {
        *out = (0..8).fold(0, |bits, g| bits | (levels[g * 32 + i] >> 4) << g);
    }
    pack_four_bits(&levels, &mut out[48..176]);
}

/// Returns every value's level, from 0, under signed scales of groups of 16.
fn symmetric_levels(values: &[f32], scale: f32, scales: &[i8; 16], half: i8) -> [u8; VALUES] {
    let mut levels = [0; VALUES];
    for (i, (level, value)) in levels.iter_mut().zip(values).enumerate() {
        let step = scale * f32::from(scales[i / 16]);
        // A group without a scale is zero whatever its levels.
        let signed = if step == 0.0 { 0.0 } else { (value / step).round_ties_even() };
        *level = (signed.clamp(-f32::from(half), f32::from(half - 1)) + f32::from(half)) as u8;
    }
    levels
}

/// Third bits `[32]`, low bits `[64]`, `scales[12]`, scale.
fn q3(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let square = 2.0 * mean_square(values);
    let (mut scales, mut sums) = ([0.0; 16], [0.0; 16]);
    let mut levels = [0u8; 16];
    for (g, values) in values.chunks_exact(16).enumerate() {
        let mut weights = [0.0; 16];
        if let Some(importance) = importance {
            weigh(values, &importance[g * 16..][..16], square, &mut weights);
            scales[g] = fit::symmetric(values, &weights, 4, &mut levels);
        } else {
            weights.iter_mut().zip(values).for_each(|(weight, value)| *weight = value * value);
            scales[g] = fit::symmetric_by_turns(values, &weights, 4, &mut levels);
        }
        sums[g] = weights.iter().sum();
    }
    let mut quantised = [0u8; 16];
    let scale = if importance.is_some() {
        fit::symmetric(&scales, &sums, 32, &mut quantised)
    } else {
        signed_by_largest(&scales, 32, &mut quantised)
    };
    let scale = put(&mut out[108..110], scale);
    for g in 0..4 {
        let packed = |g: usize| quantised[g] & 15 | (quantised[g + 8] & 15) << 4;
        (out[96 + g], out[100 + g]) = (packed(g), packed(g + 4));
        out[104 + g] = (0..4).fold(0, |bits, k| bits | (quantised[g + 4 * k] >> 4) << (2 * k));
    }
    let levels = symmetric_levels(values, scale, &quantised.map(|scale| scale.cast_signed() - 32), 4);
    for (i, out) in out[..32].iter_mut().enumerate() {
        *out = (0..8).fold(0, |bits, g| bits | (levels[g * 32 + i] >> 2) << g);
    }
    pack_two_bits(&levels, &mut out[32..96]);
}

/// Quantises values to `0..2·half` around `half` so that the largest takes 0; returns the scale.
fn signed_by_largest(values: &[f32], half: u8, levels: &mut [u8]) -> f32 {
    let peak = fit::peak(values);
    if peak == 0.0 {
        levels.fill(0);
        return 0.0;
    }
    let half = f32::from(half);
    let inverse = -half / peak;
    for (level, value) in levels.iter_mut().zip(values) {
        *level = ((inverse * value).round_ties_even().clamp(-half, half - 1.0) + half) as u8;
    }
    1.0 / inverse
}

/// Low bits `[128]`, high bits `[64]`, `scales[16]`, scale.
fn q6(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mut scales = [0.0; 16];
    let mut levels = [0u8; 16];
    for (g, values) in values.chunks_exact(16).enumerate() {
        let mut weights = [0.0; 16];
        match importance {
            Some(importance) => weights.copy_from_slice(&importance[g * 16..][..16]),
            None => weights.iter_mut().zip(values).for_each(|(weight, value)| *weight = value * value),
        }
        scales[g] = fit::symmetric(values, &weights, 32, &mut levels);
    }
    let mut quantised = [0u8; 16];
    let scale = put(&mut out[208..210], signed_by_largest(&scales, 128, &mut quantised));
    let quantised = quantised.map(|scale| (i16::from(scale) - 128) as i8);
    for (out, scale) in out[192..208].iter_mut().zip(quantised) {
        *out = scale.cast_unsigned();
    }
    let levels = symmetric_levels(values, scale, &quantised, 32);
    let (low, rest) = out.split_at_mut(128);
    let halves = levels.chunks_exact(128).zip(low.chunks_exact_mut(64)).zip(rest[..64].chunks_exact_mut(32));
    for ((levels, low), high) in halves {
        for i in 0..32 {
            low[i] = levels[i] & 15 | levels[i + 64] << 4;
            low[i + 32] = levels[i + 32] & 15 | levels[i + 96] << 4;
            high[i] = (0..4).fold(0, |bits, k| bits | (levels[i + 32 * k] >> 4) << (2 * k));
        }
    }
}
