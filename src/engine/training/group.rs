//! Matrices that read the same input, as one: frozen, and with the changes that learn.
use std::ops::Range;

use ruvlab_kernels::{Arena, Format, Matrix, dequantize_row};

use super::workers::{Floats, Workers};
use crate::{
    engine::{EngineError, native::format, places::Target},
    model::weights::Weights,
};

/// Values dequantized at a time.
const PART: usize = 1 << 16;

/// Matrices `[O, I]` side by side.
pub(super) struct Group {
    /// Which rows of the output are whose.
    pub(super) parts: Vec<(Target, Range<usize>)>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    held: Held,
}

enum Held {
    /// In f32, and so its transpose.
    Packed { forward: Matrix, backward: Matrix },
    /// As the file has them, to be dequantized for every product.
    Stored(Vec<(Format, Vec<u8>)>),
}

fn wrong(error: &impl std::fmt::Display) -> EngineError {
    EngineError::Weights(error.to_string())
}

impl Group {
    /// Returns the group of these tensors, whose rows belong to these targets in order.
    pub(super) fn load(
        weights: &Weights,
        workers: &Workers,
        names: &[String],
        targets: &[(Target, usize)],
        pack: bool,
    ) -> Result<Self, EngineError> {
        let mut stored = Vec::with_capacity(names.len());
        let mut inputs = 0;
        for name in names {
            let missing = || EngineError::Weights(format!("tensor {name:?} is missing"));
            let info = weights.index().tensors.get(name).ok_or_else(missing)?;
            inputs = info.shape[1];
            stored.push((format(info.kind), weights.tensor_bytes(name).map_err(|error| wrong(&error))?.into_owned()));
            weights.release(name);
        }
        let mut outputs = 0;
        let part = |&(target, rows): &(Target, usize)| {
            outputs += rows;
            (target, outputs - rows..outputs)
        };
        let parts = targets.iter().map(part).collect();
        let mut group = Self { parts, outputs, inputs, held: Held::Stored(stored) };
        if pack {
            group.pack(workers)?;
        }
        Ok(group)
    }

    fn pack(&mut self, workers: &Workers) -> Result<(), EngineError> {
        let (o, i) = (self.outputs, self.inputs);
        let dense = self.dense(workers)?;
        let bytes = |rows, columns| Matrix::packed_bytes(Format::F32, rows, columns).unwrap_or(0);
        let mut arena = Arena::with_capacity(bytes(o, i) + bytes(i, o)).map_err(|error| wrong(&error))?;
        let mut pack = |bytes: &Floats, rows, columns| {
            Matrix::pack_on(&workers.pool, &mut arena, Format::F32, rows, columns, &bytes.0)
                .map_err(|error| wrong(&error))
        };
        let backward = pack(&workers.transposed(&dense, i), i, o)?;
        let forward = pack(&Floats::new(&dense), o, i)?;
        self.held = Held::Packed { forward, backward };
        Ok(())
    }

    /// Returns the matrix in f32, `[O, I]`.
    fn dense(&self, workers: &Workers) -> Result<Vec<f32>, EngineError> {
        let mut dense = vec![0.0; self.outputs * self.inputs];
        match &self.held {
            Held::Packed { forward, .. } => {
                let rows = dense.chunks_exact_mut(self.inputs).enumerate();
                workers.each(rows, |(row, out)| forward.row(row, out));
            }
            Held::Stored(tensors) => {
                let mut rest = dense.as_mut_slice();
                for (format, bytes) in tensors {
                    let values = bytes.len() / format.block_bytes() * format.block_values();
                    let (out, after) = rest.split_at_mut_checked(values).ok_or_else(|| wrong(&"a matrix too large"))?;
                    let blocks = PART / format.block_values();
                    let parts = bytes.chunks(blocks * format.block_bytes());
                    let parts = parts.zip(out.chunks_mut(blocks * format.block_values()));
                    workers.each(parts, |(bytes, out)| dequantize_row(*format, bytes, out));
                    rest = after;
                }
            }
        }
        Ok(dense)
    }

    /// Returns `x Wᵀ`, `[n, I]` to `[n, O]`.
    pub(super) fn forward(&self, workers: &Workers, x: &[f32]) -> Result<Vec<f32>, EngineError> {
        let n = x.len() / self.inputs;
        match &self.held {
            Held::Packed { forward, .. } => Ok(workers.multiply(forward, x, n)),
            Held::Stored(_) => {
                let matrix = Floats::new(&self.dense(workers)?).matrix(self.outputs, self.inputs)?;
                Ok(workers.multiply(&matrix, x, n))
            }
        }
    }

    /// Returns `g W`, `[n, O]` to `[n, I]`.
    pub(super) fn backward(&self, workers: &Workers, grad: &[f32]) -> Result<Vec<f32>, EngineError> {
        let n = grad.len() / self.outputs;
        match &self.held {
            Held::Packed { backward, .. } => Ok(workers.multiply(backward, grad, n)),
            Held::Stored(_) => {
                let transposed = workers.transposed(&self.dense(workers)?, self.inputs);
                Ok(workers.multiply(&transposed.matrix(self.inputs, self.outputs)?, grad, n))
            }
        }
    }

    /// Returns the squared norm of each row, in f64.
    pub(super) fn row_squares(&self, workers: &Workers) -> Result<Vec<f64>, EngineError> {
        let dense = self.dense(workers)?;
        let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum();
        Ok(dense.chunks_exact(self.inputs).map(square).collect())
    }
}
