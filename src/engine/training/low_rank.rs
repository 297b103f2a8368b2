//! The products of a low-rank change, which are too narrow for the kernels, and their gradients.
use super::workers::{Floats, ROWS, Workers};
use crate::engine::EngineError;

/// Columns a thread sums at a time, for all ranks.
const COLUMNS: usize = 128;

/// Some columns of rows.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) first: usize,
    pub(super) width: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn all(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, first: 0, width }
    }

    pub(super) fn row(&self, n: usize) -> &'a [f32] {
        &self.values[n * self.stride + self.first..][..self.width]
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.stride
    }

    /// Returns them without what lies between.
    pub(super) fn copied(self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows() * self.width);
        (0..self.rows()).for_each(|row| out.extend_from_slice(self.row(row)));
        out
    }
}

/// Adds `factor * y` to `x`.
pub(super) fn axpy(x: &mut [f32], factor: f32, y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = y.mul_add(factor, *x));
}

impl Workers {
    /// Returns `x Mᵀ`, `[N, W]` and `[r, W]` to `[N, r]`.
    pub(super) fn narrow(&self, x: Columns<'_>, m: &[f32]) -> Result<Vec<f32>, EngineError> {
        let n = x.rows();
        let matrix = Floats::new(m).matrix(m.len() / x.width, x.width)?;
        if x.width == x.stride {
            return Ok(self.multiply(&matrix, x.values, n));
        }
        Ok(self.multiply(&matrix, &x.copied(), n))
    }

    /// Adds `factor * c M` to some columns of `out`, `[N, r]` and `[r, W]` to `[N, W]`.
    pub(super) fn widen(&self, out: (&mut [f32], usize, usize), c: &[f32], m: &[f32], factor: f32, rank: usize) {
        let (values, stride, first) = out;
        let width = m.len() / rank;
        let parts = values.chunks_mut(stride * ROWS).zip(c.chunks(rank * ROWS));
        self.each(parts, |(out, c)| {
            for (out, c) in out.chunks_exact_mut(stride).zip(c.chunks_exact(rank)) {
                for (c, row) in c.iter().zip(m.chunks_exact(width)) {
                    axpy(&mut out[first..first + width], c * factor, row);
                }
            }
        });
    }

    /// Returns `factor * cᵀ x`, `[N, r]` and `[N, W]` to `[r, W]`.
    pub(super) fn outer(&self, c: &[f32], x: Columns<'_>, factor: f32, rank: usize) -> Vec<f32> {
        let mut out = vec![0.0; rank * x.width];
        let mut columns: Vec<Vec<&mut [f32]>> = (0..x.width.div_ceil(COLUMNS)).map(|_| Vec::new()).collect();
        for row in out.chunks_mut(x.width) {
            for (parts, part) in columns.iter_mut().zip(row.chunks_mut(COLUMNS)) {
                parts.push(part);
            }
        }
        self.each(columns.into_iter().enumerate(), |(index, mut sums)| {
            for (n, c) in c.chunks_exact(rank).enumerate() {
                let row = &x.row(n)[index * COLUMNS..];
                for (sum, c) in sums.iter_mut().zip(c) {
                    let count = sum.len();
                    axpy(sum, c * factor, &row[..count]);
                }
            }
        });
        out
    }
}

/// Returns the transpose of `[rows, columns]`.
pub(super) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let mut out = vec![0.0; values.len()];
    for (column, out) in out.chunks_exact_mut(rows.max(1)).enumerate() {
        out.iter_mut().zip(values.chunks_exact(columns)).for_each(|(out, row)| *out = row[column]);
    }
    out
}
