//! What a layer is composed of, in operations that gradients pass through on every device.
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Layout, Result, Shape, Storage, Tensor, backend::BackendStorage, bail,
};

use crate::{
    engine::candle::linear::Linear,
    model::{rope::RopeLayout, spec::Activation},
};

/// A product with a matrix that does not learn, `x Wᵀ`. candle's own product would also make the gradient
/// of the matrix, which costs as much as the one that is wanted.
struct Frozen(Tensor);

/// Returns `x Wᵀ` of `[N, I]` and `[O, I]`.
fn product<S: BackendStorage>(x: (&S, &Layout), w: (&S, &Layout)) -> Result<(S, Shape)> {
    let ((n, i), (o, _)) = (x.1.shape().dims2()?, w.1.shape().dims2()?);
    Ok((x.0.matmul(w.0, (1, n, o, i), x.1, &w.1.transpose(0, 1)?)?, Shape::from((n, o))))
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (matrix, matrix_layout) = self.0.storage_and_layout();
        match &*matrix {
            Storage::Cpu(matrix) => product((x, layout), (matrix, matrix_layout)),
            _ => bail!("rows on the processor, and their matrix elsewhere"),
        }
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (matrix, matrix_layout) = self.0.storage_and_layout();
        match &*matrix {
            Storage::Cuda(matrix) => product((x, layout), (matrix, matrix_layout)),
            _ => bail!("rows on a GPU, and their matrix elsewhere"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.matmul(&self.0).map(Some)
    }
}

/// Returns `x Wᵀ`, `[N, I]` to `[N, O]`; only x gets a gradient.
pub(super) fn multiply(x: &Tensor, matrix: &Linear) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Frozen(matrix.dense()?))
}

/// Returns `x / sqrt(mean(x²) + eps) * weight` along the last dimension.
pub(super) fn norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// Returns the softmax along the last dimension.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

/// Returns `ln Σ exp x` along the last dimension, which stays.
pub(super) fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let most = x.max_keepdim(D::Minus1)?.detach();
    x.broadcast_sub(&most)?.exp()?.sum_keepdim(D::Minus1)?.log()? + most
}

/// Returns `activation(gate) * up`.
pub(super) fn gate(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let activated = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let cubic = ((gate.sqr()? * 0.044_715)? + 1.0)?;
            ((((gate * cubic)? * root)?.tanh()? + 1.0)? * (gate * 0.5)?)?
        }
    };
    activated * up
}

/// The rotation of each row: `cos` and `sin` are `[N, 1, R / 2]`.
pub(super) struct Turn {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) layout: RopeLayout,
}

impl Turn {
    /// Returns heads `[N, H, D]` with their first R values rotated, each row to its own position.
    pub(super) fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        let (n, h, width) = heads.dims3()?;
        let pairs = self.cos.dim(2)?;
        let rotating = heads.narrow(2, 0, 2 * pairs)?;
        let (one, other) = match self.layout {
            RopeLayout::Halves => (rotating.narrow(2, 0, pairs)?, rotating.narrow(2, pairs, pairs)?),
            RopeLayout::Interleaved => {
                let both = rotating.reshape((n, h, pairs, 2))?;
                (both.narrow(3, 0, 1)?.squeeze(3)?, both.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (one.broadcast_mul(&self.cos)? - other.broadcast_mul(&self.sin)?)?;
        let second = (one.broadcast_mul(&self.sin)? + other.broadcast_mul(&self.cos)?)?;
        let rotated = match self.layout {
            RopeLayout::Halves => Tensor::cat(&[first, second], 2)?,
            RopeLayout::Interleaved => Tensor::stack(&[first, second], 3)?.reshape((n, h, 2 * pairs))?,
        };
        if 2 * pairs == width {
            return Ok(rotated);
        }
        Tensor::cat(&[rotated, heads.narrow(2, 2 * pairs, width - 2 * pairs)?], 2)
    }
}

/// Returns `[T, T]` of 0 where a row sees a token, and -∞ elsewhere.
pub(super) fn mask(t: usize, window: Option<usize>, device: &candle_core::Device) -> Result<Tensor> {
    let seen = |row: usize, token: usize| token <= row && window.is_none_or(|window| row - token < window);
    let value = move |row: usize, token: usize| if seen(row, token) { 0.0 } else { f32::NEG_INFINITY };
    let values: Vec<f32> = (0..t).flat_map(|row| (0..t).map(move |token| value(row, token))).collect();
    Tensor::from_vec(values, (t, t), device)
}
