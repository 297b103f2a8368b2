//! Rows of numbers to stored bytes and back, one row at a time.
//!
//! [`dequantize_row`] gives exactly what the `gguf` Python package gives, bit by bit: the products
//! and sums are taken in its order and rounded as often.
mod blocks;
pub(crate) mod k_blocks;
pub(crate) mod sub_scales;

use half::{bf16, f16};

use crate::format::Format;

/// Returns the f16 at `at` as f32.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes the numbers that `bytes` hold into `out`.
///
/// # Shapes
///
/// `bytes` is `out.len() / block_values` blocks of `block_bytes`.
///
/// # Panics
///
/// If the lengths do not belong together.
///
/// # Examples
///
/// ```
/// use ruvlab_kernels::{Format, dequantize_row};
///
/// let mut block = [0u8; 34];
/// block[..2].copy_from_slice(&[0x00, 0x38]); // the scale 0.5 in f16
/// block[2] = 3;
/// let mut row = [0.0; 32];
/// dequantize_row(Format::Q8_0, &block, &mut row);
/// assert_eq!(row[..2], [1.5, 0.0]);
/// ```
pub fn dequantize_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        Some(bytes.len()),
        format.row_bytes(out.len()),
        "{format}: {} bytes are no row of {} columns",
        bytes.len(),
        out.len()
    );
    let (size, values) = (format.block_bytes(), format.block_values());
    let each = |read: fn(&[u8], &mut [f32]), out: &mut [f32]| {
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(values)) {
            read(block, out);
        }
    };
    match format {
        Format::F32 => {
            for (value, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *out = f32::from_le_bytes(*value);
            }
        }
        Format::F16 => {
            for (value, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
                *out = f16::from_le_bytes(*value).to_f32();
            }
        }
        Format::Bf16 => {
            for (value, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
                *out = bf16::from_le_bytes(*value).to_f32();
            }
        }
        Format::Q4_0 => each(blocks::q4_0, out),
        Format::Q4_1 => each(blocks::q4_1, out),
        Format::Q5_0 => each(blocks::q5_0, out),
        Format::Q5_1 => each(blocks::q5_1, out),
        Format::Q8_0 => each(blocks::q8_0, out),
        Format::Q2K => each(k_blocks::q2_k, out),
        Format::Q3K => each(k_blocks::q3_k, out),
        Format::Q4K => each(k_blocks::q4_k, out),
        Format::Q5K => each(k_blocks::q5_k, out),
        Format::Q6K => each(k_blocks::q6_k, out),
    }
}
