//! Random blocks of every storage type, made as they are stored.
//!
//! Quants are uniform over what their bits hold; scales (and offsets, chosen so that the mean is 0)
//! give the weights the standard deviation asked for.
use half::{bf16, f16};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use crate::model::weights::TensorType;

/// Standard deviation of a uniform distribution over `count` neighbouring integers.
fn deviation(count: f32) -> f32 {
    ((count * count - 1.0) / 12.0).sqrt()
}

/// Fills `out`, a whole number of blocks, with weights of mean 0 and standard deviation `sigma`.
pub(super) fn fill(kind: TensorType, sigma: f32, random: &mut ChaCha8Rng, out: &mut [u8]) {
    random.fill_bytes(out);
    let width = 3.0f32.sqrt() * sigma;
    match kind {
        TensorType::F32 => each::<4>(out, |value| {
            let unit = i32::from_le_bytes(*value) as f32 / 2.0f32.powi(31);
            *value = (unit * width).to_le_bytes();
        }),
        TensorType::F16 => each::<2>(out, |value| *value = f16::from_f32(unit(*value) * width).to_le_bytes()),
        TensorType::Bf16 => each::<2>(out, |value| *value = bf16::from_f32(unit(*value) * width).to_le_bytes()),
        TensorType::Q4_0 => each::<18>(out, |block| signed_scale(block, 0, sigma / deviation(16.0))),
        TensorType::Q5_0 => each::<22>(out, |block| signed_scale(block, 0, sigma / deviation(32.0))),
        TensorType::Q4_1 => each::<20>(out, |block| scale_and_offset(block, 0, sigma / deviation(16.0), -7.5)),
        TensorType::Q5_1 => each::<24>(out, |block| scale_and_offset(block, 0, sigma / deviation(32.0), -15.5)),
        TensorType::Q8_0 => each::<34>(out, |block| {
            scale(block, 0, sigma / deviation(255.0));
            // -128 has no opposite: no quantiser makes it, and kernels count on that.
            for quant in &mut block[2..] {
                *quant = if *quant == 0x80 { 0x81 } else { *quant };
            }
        }),
        TensorType::Q2K => each::<84>(out, |block| {
            // Scale and offset of 16 weights, both of the same 8 to 15: (q - 1.5) times their step.
            let step = sigma / (deviation(4.0) * rms(8, 15));
            for pair in &mut block[..16] {
                let scale = 8 | (*pair & 7);
                *pair = scale | scale << 4;
            }
            scale_and_offset(block, 80, step, 1.5);
        }),
        TensorType::Q3K => each::<110>(out, |block| {
            scale(block, 108, sigma / (rms(-4, 3) * rms(-32, 31)));
        }),
        TensorType::Q4K => each::<144>(out, |block| {
            pack_scales(block);
            scale_and_offset(block, 0, sigma / (deviation(16.0) * rms(32, 63)), 7.5);
        }),
        TensorType::Q5K => each::<176>(out, |block| {
            pack_scales(block);
            scale_and_offset(block, 0, sigma / (deviation(32.0) * rms(32, 63)), 15.5);
        }),
        TensorType::Q6K => each::<210>(out, |block| {
            for scale in &mut block[192..208] {
                // 64 to 127, or their opposites.
                let size = (64 | (*scale & 63)).cast_signed();
                *scale = if *scale & 64 == 0 { size } else { -size }.cast_unsigned();
            }
            scale(block, 208, sigma / (rms(-32, 31) * rms(64, 127)));
        }),
    }
}

fn each<const N: usize>(out: &mut [u8], mut change: impl FnMut(&mut [u8; N])) {
    for block in out.as_chunks_mut::<N>().0 {
        change(block);
    }
}

fn unit(bits: [u8; 2]) -> f32 {
    f32::from(i16::from_le_bytes(bits)) / 32_768.0
}

/// Root mean square of the integers from `low` to `high`.
fn rms(low: i32, high: i32) -> f32 {
    let squares: i32 = (low..=high).map(|n| n * n).sum();
    (squares as f32 / (high - low + 1) as f32).sqrt()
}

/// Returns `size` times a number from 0.75 to 1.25, drawn from the random byte at `at`.
fn varied(block: &[u8], at: usize, size: f32) -> f32 {
    size * (0.75 + f32::from(block[at]) / 512.0)
}

fn put(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn scale(block: &mut [u8], at: usize, size: f32) {
    let value = varied(block, at, size);
    put(block, at, value);
}

/// A scale of either sign: quants without an offset are not symmetric, scales of both signs are.
fn signed_scale(block: &mut [u8], at: usize, size: f32) {
    let sign = if block[at + 1] & 1 == 0 { 1.0 } else { -1.0 };
    let value = varied(block, at, size) * sign;
    put(block, at, value);
}

/// A scale and, after it, the offset `centre` times as large.
fn scale_and_offset(block: &mut [u8], at: usize, size: f32, centre: f32) {
    let value = varied(block, at, size);
    put(block, at, value);
    put(block, at + 2, value * centre);
}

/// Puts eight scales of 32 to 63, and offsets equal to them, in the 12 bytes after the two halves
/// (ggml's `get_scale_min_k4`: six bits each, the last four pairs in the others' upper bits).
fn pack_scales(block: &mut [u8]) {
    let mut scales = [0u8; 8];
    for (scale, random) in scales.iter_mut().zip(&block[4..12]) {
        *scale = 32 | (random & 31);
    }
    for at in 0..4 {
        let (first, last) = (scales[at], scales[at + 4]);
        block[4 + at] = first | (last >> 4) << 6;
        block[8 + at] = first | (last >> 4) << 6;
        block[12 + at] = (last & 15) | (last & 15) << 4;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, quantized::QStorage, quantized::QTensor};
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn blocks_are_valid_and_of_the_deviation_asked_for() {
        const ROWS: usize = 64;
        for kind in TensorType::all() {
            for sigma in [1.0f32, 0.01] {
                let mut bytes = vec![0; ROWS * 1024 / kind.block_values() * kind.block_bytes()];
                fill(kind, sigma, &mut ChaCha8Rng::seed_from_u64(1), &mut bytes);
                let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind.candle()).unwrap();
                let tensor = QTensor::new(storage, (ROWS, 1024)).unwrap().dequantize(&Device::Cpu).unwrap();
                let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
                let square = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
                let relative = (square.sqrt() / f64::from(sigma) - 1.0).abs();
                assert!(mean.abs() <= 0.03 * f64::from(sigma), "{kind}: mean {mean}");
                assert!(relative <= 0.03, "{kind}: deviation {} for {sigma}", square.sqrt());
                let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                assert!(largest <= 8.0 * sigma, "{kind}: {largest}");
            }
        }
    }
}
