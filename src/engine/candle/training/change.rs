//! Changes that learn, as variables of candle's.
use candle_core::{Device, Result, Tensor, Var};

use crate::engine::{EngineError, LowRank};

/// A change that learns.
pub(super) struct Change {
    /// `[r, I]`.
    pub(super) a: Var,
    /// `[O, r]`.
    pub(super) b: Var,
    scale: f64,
    pub(super) decomposed: Option<Decomposed>,
}

/// What makes a change a decomposed one, see [`LowRank::magnitude`]. The norms count as constants on the way
/// back.
pub(super) struct Decomposed {
    /// m, `[O]`.
    pub(super) magnitude: Var,
    /// `‖V_o‖`, `[O]`.
    pub(super) norms: Tensor,
}

impl Change {
    /// Returns A and B of a change of a matrix `[O, I]`, not decomposed.
    pub(super) fn new(change: &LowRank, (outputs, inputs): (usize, usize), device: &Device) -> Result<Self> {
        let var = |values: &[f32], shape| Var::from_slice(values, shape, device);
        let (a, b) = (var(&change.a, (change.rank, inputs))?, var(&change.b, (outputs, change.rank))?);
        Ok(Self { a, b, scale: change.scale.into(), decomposed: None })
    }

    /// Returns what learns: A, B and, of a decomposed one, magnitudes.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Var> {
        [&self.a, &self.b].into_iter().chain(self.decomposed.as_ref().map(|decomposed| &decomposed.magnitude))
    }

    /// Returns `y + s (x Aᵀ) Bᵀ`, of inputs `[N, I]` and their products `[N, O]` with the matrix.
    pub(super) fn add_to(&self, product: &Tensor, x: &Tensor) -> Result<Tensor> {
        product + (x.matmul(&self.a.t()?)?.matmul(&self.b.t()?)? * self.scale)?
    }

    /// Returns products with the whole matrix, `[N, O]`, with their columns brought to the magnitudes where there
    /// are any.
    pub(super) fn bring(&self, whole: Tensor) -> Result<Tensor> {
        let Some(Decomposed { magnitude, norms }) = &self.decomposed else { return Ok(whole) };
        whole.broadcast_mul(&(magnitude.as_tensor() / norms)?)
    }

    /// Returns the norms of the rows of `W + s B A`, `[O]`.
    fn norms(&self, matrix: &Tensor) -> Result<Tensor> {
        let whole = (matrix + (self.b.detach().matmul(&self.a.detach())? * self.scale)?)?;
        whole.sqr()?.sum(1)?.sqrt()
    }

    /// Makes it a decomposed one, with the norms as they are as magnitudes, which it returns.
    pub(super) fn decompose(&mut self, matrix: &Tensor) -> Result<Vec<f32>> {
        let norms = self.norms(matrix)?;
        let values = norms.to_vec1()?;
        self.decomposed = Some(Decomposed { magnitude: Var::from_tensor(&norms)?, norms });
        Ok(values)
    }

    /// Brings the norms to other values of A and B.
    pub(super) fn renew(&mut self, matrix: &Tensor) -> Result<()> {
        let norms = self.norms(matrix)?;
        if let Some(decomposed) = &mut self.decomposed {
            decomposed.norms = norms;
        }
        Ok(())
    }

    pub(super) fn set(&self, a: &[f32], b: &[f32]) -> std::result::Result<(), EngineError> {
        let own = (self.a.elem_count(), self.b.elem_count());
        if (a.len(), b.len()) != own {
            let message = format!("{} and {} values for {} and {}", a.len(), b.len(), own.0, own.1);
            return Err(EngineError::Adapter(message));
        }
        set(&self.a, a)?;
        Ok(set(&self.b, b)?)
    }

    pub(super) fn set_magnitude(&self, values: &[f32]) -> std::result::Result<(), EngineError> {
        let own = self.decomposed.as_ref().map(|decomposed| &decomposed.magnitude);
        let Some(own) = own.filter(|own| own.elem_count() == values.len()) else {
            return Err(EngineError::Adapter(format!("{} magnitudes for a change without as many", values.len())));
        };
        Ok(set(own, values)?)
    }
}

fn set(var: &Var, values: &[f32]) -> Result<()> {
    var.set(&Tensor::from_slice(values, var.shape(), var.device())?)
}
