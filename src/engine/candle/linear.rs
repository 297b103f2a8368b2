//! A matrix that rows are multiplied by.
use std::sync::Arc;

use candle_core::{
    Result, Tensor,
    quantized::{GgmlDType, QTensor},
};

/// A matrix `[O, I]`, taking rows of width I to rows of width O. Cloning shares it.
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

    /// Returns `x Wᵀ`: `[N, I]` to `[N, O]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => x.matmul(&matrix.t()?),
            Self::Quantized(matrix) => x.apply_op1_no_bwd(matrix.as_ref()),
        }
    }

    /// Returns the rows of these numbers, `[N]` to `[N, I]`.
    pub(super) fn rows(&self, numbers: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => matrix.index_select(numbers, 0),
            Self::Quantized(matrix) => matrix.embedding(numbers),
        }
    }
}
