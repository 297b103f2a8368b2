//! Values to blocks: ggml's storage types, written.
//!
//! Without an importance matrix a type's blocks are those of llama.cpp's own quantiser, to rounding:
//! its types of 32 values take the range of a block, its K-quants search for the scales with the
//! least weighted error (`ggml-quants.c`). With one, every type but `q8_0` searches.
mod block;
mod fit;
mod super_block;

use std::{borrow::Cow, num::NonZero, thread};

use candle_core::{
    Device,
    quantized::{QStorage, QTensor},
};
use half::{bf16, f16};

use super::{
    TensorInfo, TensorType,
    parts::{Parts, widen},
};

/// Values held as f32 at once, by each thread.
const PIECE_VALUES: usize = 1 << 20;

/// Why values could not become blocks.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// They could not be read.
    #[error("its values cannot be decoded: {0}")]
    Decode(#[from] candle_core::Error),
    /// A value has no place in the type.
    #[error("it holds the value {value}, which {kind} cannot hold")]
    OutOfRange {
        /// The value.
        value: f32,
        /// The type.
        kind: TensorType,
    },
}

/// Returns how many threads quantise where nobody says.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Brings a tensor to another type and gives its bytes to `take`, some rows at a time.
///
/// `importance` is a weight for every column, more where an error costs more.
///
/// # Errors
///
/// If a value cannot be decoded or stored, or `take` fails.
///
/// # Panics
///
/// If rows are not whole blocks, or `importance` has another length than a row.
pub(super) fn tensor<E: From<QuantizeError>>(
    parts: &Parts,
    info: &TensorInfo,
    kind: TensorType,
    importance: Option<&[f32]>,
    threads: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (rows, columns) = (info.shape[0], info.columns());
    let rows_of_thread = (PIECE_VALUES / columns).max(1);
    let row_bytes = columns / kind.block_values() * kind.block_bytes();
    let mut buffer = vec![0; (rows_of_thread * threads).min(rows) * row_bytes];
    for start in (0..rows).step_by(rows_of_thread * threads) {
        let end = (start + rows_of_thread * threads).min(rows);
        let out = &mut buffer[..(end - start) * row_bytes];
        let share = (end - start).div_ceil(threads);
        let piece = |piece: usize, out: &mut [u8]| -> Result<(), QuantizeError> {
            let first = start + piece * share;
            let stored = parts.rows(info, first..first + out.len() / row_bytes);
            quantize(kind, &decode(info.kind, stored)?, columns, importance, out)
        };
        thread::scope(|scope| {
            let pieces = out.chunks_mut(share * row_bytes).enumerate();
            let workers: Vec<_> = pieces.map(|(i, out)| scope.spawn(move || piece(i, out))).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        take(out)?;
    }
    Ok(())
}

/// Returns the values that bytes stand for.
pub(super) fn decode(kind: TensorType, bytes: Cow<'_, [u8]>) -> Result<Vec<f32>, QuantizeError> {
    if kind.block_values() == 1 {
        return Ok(widen(kind, &bytes).collect());
    }
    let values = bytes.len() / kind.block_bytes() * kind.block_values();
    let storage = QStorage::from_data(super::aligned(bytes), &Device::Cpu, kind.candle())?;
    Ok(QTensor::new(storage, values)?.dequantize(&Device::Cpu)?.to_vec1()?)
}

/// Stores rows of values as a type.
///
/// # Errors
///
/// If a value has no place in it.
pub(super) fn quantize(
    kind: TensorType,
    values: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    let largest = match kind {
        TensorType::F32 => f32::INFINITY,
        TensorType::Bf16 => bf16::MAX.to_f32(),
        // Scales are f16.
        _ => f16::MAX.to_f32(),
    };
    // Weights that are no numbers pass as they are only where no arithmetic touches them.
    if kind != TensorType::F32
        && let Some(&value) =
            values.iter().find(|value| value.abs().partial_cmp(&largest).is_none_or(|order| order.is_gt()))
    {
        return Err(QuantizeError::OutOfRange { value, kind });
    }
    let size = kind.block_bytes();
    match kind {
        TensorType::F32 => {
            out.chunks_exact_mut(size).zip(values).for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
        }
        TensorType::F16 => out
            .chunks_exact_mut(size)
            .zip(values)
            .for_each(|(out, value)| out.copy_from_slice(&f16::from_f32(*value).to_le_bytes())),
        TensorType::Bf16 => out
            .chunks_exact_mut(size)
            .zip(values)
            .for_each(|(out, value)| out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes())),
        _ => {
            let row_bytes = columns / kind.block_values() * size;
            for (row, out) in values.chunks_exact(columns).zip(out.chunks_exact_mut(row_bytes)) {
                if kind.block_values() == block::VALUES {
                    block::row(kind, row, importance, out);
                } else {
                    super_block::row(kind, row, importance, out);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
