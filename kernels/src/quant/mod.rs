//! Rows of numbers to stored bytes and back, one row at a time.
//!
//! [`dequantize_row`] gives exactly what the `gguf` Python package gives, bit by bit: the products
//! and sums are taken in its order and rounded as often. That package has no `q13_0`, which is our own.
pub(crate) mod blocks;
pub(crate) mod k_blocks;
mod quantize;
mod quantize_k;
pub(crate) mod sub_scales;
#[cfg(test)]
mod tests;

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
        Format::Q13_0 => each(blocks::q13_0, out),
    }
}

/// Why a row cannot be quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// There is no quantiser for a format.
    Format {
        /// The format.
        format: Format,
    },
    /// A number is NaN or infinite: no scale stands for it.
    NotFinite {
        /// Its place in the row.
        index: usize,
    },
}

impl std::fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format { format } => write!(f, "{format} is read only (quantise to q4_k or q5_k instead)"),
            Self::NotFinite { index } => {
                write!(f, "number {index} of the row is not finite and has no code (keep this matrix in f32)")
            }
        }
    }
}

impl std::error::Error for QuantizeError {}

/// Writes the blocks that stand for `row` into `out`.
///
/// The formats with a scale for 32 are rounded exactly as by the `gguf` Python package (`q13_0`, which it
/// does not have, to the nearest code); for those with 256 the scales are searched for.
///
/// # Shapes
///
/// `out` is `row.len() / block_values` blocks of `block_bytes`.
///
/// # Errors
///
/// For `q2_k` and `q3_k`, which have no quantiser, and, in quantised formats, for a number that is not
/// finite.
///
/// # Panics
///
/// If the lengths do not belong together.
///
/// # Examples
///
/// ```
/// use ruvlab_kernels::{Format, dequantize_row, quantize_row};
///
/// let row: Vec<f32> = (0..32).map(|i| i as f32 - 16.0).collect();
/// let (mut bytes, mut back) = ([0; 34], [0.0; 32]);
/// quantize_row(Format::Q8_0, &row, &mut bytes).unwrap();
/// dequantize_row(Format::Q8_0, &bytes, &mut back);
/// assert!(row.iter().zip(back).all(|(x, y)| (x - y).abs() <= 0.07));
/// ```
pub fn quantize_row(format: Format, row: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    assert_eq!(
        Some(out.len()),
        format.row_bytes(row.len()),
        "{format}: {} bytes are no row of {} columns",
        out.len(),
        row.len()
    );
    // All are looked at together, and one by one only where there is something to find.
    if format.is_quantized()
        && !row.iter().fold(true, |finite, x| finite & x.is_finite())
        && let Some(index) = row.iter().position(|x| !x.is_finite())
    {
        return Err(QuantizeError::NotFinite { index });
    }
    let (size, values) = (format.block_bytes(), format.block_values());
    let each = |write: fn(&[f32], &mut [u8]), out: &mut [u8]| {
        for (x, block) in row.chunks_exact(values).zip(out.chunks_exact_mut(size)) {
            write(x, block);
        }
    };
    match format {
        Format::F32 => each(|x, to| to.copy_from_slice(&x[0].to_le_bytes()), out),
        Format::F16 => each(|x, to| to.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()), out),
        Format::Bf16 => each(|x, to| to.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()), out),
        Format::Q4_0 => each(quantize::q4_0, out),
        Format::Q4_1 => each(quantize::q4_1, out),
        Format::Q5_0 => each(quantize::q5_0, out),
        Format::Q5_1 => each(quantize::q5_1, out),
        Format::Q8_0 => each(quantize::q8_0, out),
        Format::Q4K => each(quantize_k::q4_k, out),
        Format::Q5K => each(quantize_k::q5_k, out),
        Format::Q6K => each(quantize_k::q6_k, out),
        Format::Q13_0 => each(quantize::q13_0, out),
        Format::Q2K | Format::Q3K => return Err(QuantizeError::Format { format }),
    }
    Ok(())
}
