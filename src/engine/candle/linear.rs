//! A matrix that rows are multiplied by.
use std::sync::Arc;

use candle_core::{
    Result, Tensor,
    quantized::{GgmlDType, QTensor},
};

/// A matrix `[O, I]`, taking rows of width I to rows of width O.
#[derive(Clone)]
pub(super) enum Linear {
    /// f32; narrower floats are widened when loaded.
    Dense(Tensor),
    /// Blocks, as the file stores them.
    Quantized(Arc<QTensor>),
}

impl Linear {
    pub(super) fn new(matrix: QTensor) -> Result<Self> {
        Ok(match matrix.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => Self::Dense(matrix.dequantize(&matrix.device())?),
            _ => Self::Quantized(Arc::new(matrix)),
        })
    }

    /// Returns the matrix in f32.
    pub(super) fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => Ok(matrix.clone()),
            Self::Quantized(matrix) => matrix.dequantize(&matrix.device()),
        }
    }

    /// Returns `x Wᵀ`: `[N, I]` to `[N, O]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => x.matmul(&matrix.t()?),
            Self::Quantized(matrix) => x.apply_op1_no_bwd(matrix.as_ref()),
        }
    }
}

/// A matrix `[V, E]` that rows are taken from. It stays as the file stores it: a vocabulary blown up
/// to f32 would be the largest thing in memory.
pub(super) enum Embedding {
    /// f32 in the file.
    Dense(Tensor),
    /// Blocks or narrower floats.
    Stored(Arc<QTensor>),
}

impl Embedding {
    pub(super) fn new(matrix: QTensor) -> Result<Self> {
        Ok(match matrix.dtype() {
            GgmlDType::F32 => Self::Dense(matrix.dequantize(&matrix.device())?),
            _ => Self::Stored(Arc::new(matrix)),
        })
    }

    /// Returns the rows of these numbers, `[N]` to `[N, E]`.
    pub(super) fn rows(&self, numbers: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => matrix.index_select(numbers, 0),
            Self::Stored(matrix) => matrix.embedding(numbers),
        }
    }

    /// Returns the head that shares this matrix. Only narrower floats are copied: as all matrices
    /// that are multiplied by, they are widened.
    pub(super) fn head(&self) -> Result<Linear> {
        Ok(match self {
            Self::Dense(matrix) => Linear::Dense(matrix.clone()),
            Self::Stored(matrix) => match matrix.dtype() {
                GgmlDType::F16 | GgmlDType::BF16 => Linear::Dense(matrix.dequantize(&matrix.device())?),
                _ => Linear::Quantized(Arc::clone(matrix)),
            },
        })
    }
}
