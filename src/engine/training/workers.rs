//! Products and rows, spread over threads.
//!
//! Who computes a row never changes what it becomes, so results do not depend on the number of threads.
use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use ruvlab_kernels::{
    Activations, Claims, Format, Kernels, Matrix, Pool, RowBytes, Tier, active, for_tier, matmul_pooled,
};

use crate::engine::EngineError;

/// Rows a thread takes at a time.
pub(super) const ROWS: usize = 16;

/// f32 numbers as their bytes, row by row.
#[derive(Debug)]
pub(super) struct Floats(pub(super) Vec<u8>);

impl RowBytes for Floats {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, _: Range<usize>) {}
}

impl Floats {
    pub(super) fn new(values: &[f32]) -> Self {
        let mut bytes = vec![0; 4 * values.len()];
        for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        Self(bytes)
    }

    /// Returns them as a matrix to multiply by.
    pub(super) fn matrix(self, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        let range = 0..self.0.len();
        Matrix::mapped(Arc::new(self), range, Format::F32, rows, columns)
            .map_err(|error| EngineError::Weights(error.to_string()))
    }
}

/// Threads, and what they need again and again.
pub(super) struct Workers {
    pub(super) pool: Pool,
    pub(super) kernels: &'static Kernels,
    scratch: Mutex<(Activations, Claims)>,
}

impl Workers {
    /// Returns so many threads, as many as the process may use when absent, with the kernels of a tier, the
    /// best when absent.
    pub(super) fn new(threads: Option<NonZeroUsize>, tier: Option<Tier>) -> Result<Self, EngineError> {
        let kernels = match tier {
            None => active(),
            Some(tier) => for_tier(tier).ok_or_else(|| EngineError::Unsupported {
                engine: tier.name(),
                what: "train: this processor does not run it".to_owned(),
            })?,
        };
        let threads = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let pool = Pool::new(threads).map_err(EngineError::Threads)?;
        Ok(Self { pool, kernels, scratch: Mutex::new((Activations::new(), Claims::new())) })
    }

    /// Calls `work` with each item, on all threads.
    pub(super) fn each<T: Send>(&self, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        let items = Mutex::new(items);
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.pool.run(&|_| {
            while let Some(item) = next() {
                work(item);
            }
        });
    }

    /// Returns `x Wᵀ`, `[n, I]` to `[n, O]`.
    pub(super) fn multiply(&self, matrix: &Matrix, x: &[f32], n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * matrix.rows()];
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let (activations, claims) = &mut *scratch;
        matmul_pooled(self.kernels, &self.pool, matrix, x, n, activations, claims, &mut out);
        out
    }

    /// Adds `y` to `x`.
    pub(super) fn add(&self, x: &mut [f32], y: &[f32]) {
        let parts = x.chunks_mut(1 << 14).zip(y.chunks(1 << 14));
        self.each(parts, |(x, y)| self.kernels.add(x, y));
    }

    /// Returns the transpose of `[rows, columns]` in bytes.
    pub(super) fn transposed(&self, values: &[f32], columns: usize) -> Floats {
        const SIDE: usize = 16;
        let rows = values.len() / columns;
        let mut bytes = vec![0; 4 * values.len()];
        let parts = bytes.chunks_mut(4 * rows * SIDE).zip((0..columns).step_by(SIDE));
        self.each(parts, |(bytes, first)| {
            let bytes = bytes.as_chunks_mut::<4>().0;
            let width = SIDE.min(columns - first);
            for start in (0..rows).step_by(SIDE) {
                for row in start..(start + SIDE).min(rows) {
                    for (at, value) in values[row * columns + first..][..width].iter().enumerate() {
                        bytes[at * rows + row] = value.to_le_bytes();
                    }
                }
            }
        });
        Floats(bytes)
    }
}
