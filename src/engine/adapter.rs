//! Low-rank additions to a model's matrices, as values.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021): a matrix W `[O, I]` acts
//! as `W + scale · B A`, without being changed.
use std::collections::BTreeMap;

use super::{EngineError, Place};
use crate::model::spec::ModelSpec;

/// An addition `scale · B A` to one matrix `[O, I]`.
///
/// # Shapes
///
/// `a` is `[rank, I]` and `b` `[O, rank]`, both row-major. The rows of `b` are in the order in which
/// the weights' own rows lie in the file: where queries and keys are stored with interleaved pairs
/// for rope ([`RopeLayout::Interleaved`](crate::model::rope::RopeLayout), the llama family in GGUF), an
/// adapter trained on rows in halves has to permute the rows of its `b` first, as a converter
/// permutes those of W. `a` is the same in both.
///
/// # Numerics
///
/// `y = W x + B (scale · (A x))`. What the rounding of `W x` to blocks or codes loses is not gained
/// back. The addition is computed in f32, from A, B and activations as they are beside a W of floats.
/// Beside a W in blocks the native engine holds A in 13 bits (`q13_0`), multiplied with the activations
/// that W is multiplied with, and B in f16, where all their numbers fit: that changes the addition by
/// some 3e-4 of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// r, at least 1.
    pub rank: usize,
    /// What the product is multiplied by: `alpha / r`, or `alpha / sqrt(r)` (rsLoRA).
    pub scale: f32,
    /// A.
    pub a: Vec<f32>,
    /// B.
    pub b: Vec<f32>,
    /// What makes the change a decomposed one (DoRA, Liu et al., arXiv 2402.09353): m, a number for each
    /// row of W. Row o of `V = W + scale · B A` then acts as `m_o V_o / ‖V_o‖`.
    pub magnitude: Option<Vec<f32>>,
}

/// Additions to a model's matrices, each by its place; a file's fused matrices count as the parts they
/// hold. Where the head is the embedding, tokens are still embedded as before.
pub type Adapter = BTreeMap<Place, LowRank>;

impl LowRank {
    /// Returns what can be learned of it: A, B and magnitudes, which are none where it is no decomposed
    /// change.
    #[must_use]
    pub fn values(&self) -> [&[f32]; 3] {
        [&self.a, &self.b, self.magnitude.as_deref().unwrap_or_default()]
    }

    /// Returns the same, to be changed.
    pub fn values_mut(&mut self) -> [&mut [f32]; 3] {
        [&mut self.a, &mut self.b, self.magnitude.as_deref_mut().unwrap_or_default()]
    }

    /// Returns how many numbers it has.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.values().map(<[f32]>::len).iter().sum()
    }

    /// Returns `m_o / ‖V_o‖` for each row of W, which `row` writes one of: what the rows of a decomposed
    /// change are multiplied by. None where it is none.
    ///
    /// # Numerics
    ///
    /// V is rounded to f32, squares are summed in f64.
    pub(crate) fn factors(&self, mut row: impl FnMut(usize, &mut [f32])) -> Option<Vec<f32>> {
        let Self { rank, scale, a, b, magnitude } = self;
        let columns = a.len() / rank;
        let mut whole = vec![0.0; columns];
        let factor = |(at, (magnitude, b)): (usize, (&f32, &[f32]))| {
            row(at, &mut whole);
            for (b, a) in b.iter().zip(a.chunks_exact(columns)) {
                let b = b * scale;
                whole.iter_mut().zip(a).for_each(|(sum, a)| *sum = b.mul_add(*a, *sum));
            }
            (f64::from(*magnitude) / norm(&whole)) as f32
        };
        Some(magnitude.as_ref()?.iter().zip(b.chunks_exact(*rank)).enumerate().map(factor).collect())
    }

    fn check(&self, what: &str, outputs: usize, inputs: usize) -> Result<(), EngineError> {
        let Self { rank, a, b, magnitude, .. } = self;
        let fits = |values: &[f32], width: usize| rank.checked_mul(width) == Some(values.len());
        if let Some(magnitude) = magnitude.as_ref().filter(|magnitude| magnitude.len() != outputs) {
            let found = magnitude.len();
            return Err(EngineError::Adapter(format!("{what}: {found} magnitudes for {outputs} rows")));
        }
        if *rank > 0 && fits(a, inputs) && fits(b, outputs) {
            return Ok(());
        }
        Err(EngineError::Adapter(format!(
            "{what}: rank {rank} on a matrix of {outputs} x {inputs} takes {rank} x {inputs} and {outputs} x {rank} \
             numbers, not {} and {} (is it an adapter of another model?)",
            a.len(),
            b.len()
        )))
    }
}

/// Returns the Euclidean norm, summed in f64.
fn norm(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for values in values.chunks(sums.len()) {
        sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums.iter().sum::<f64>().sqrt()
}

/// Checks that all additions are to matrices that a model has, and have their shapes.
///
/// # Errors
///
/// Names the first that has not.
pub(super) fn check(adapter: &Adapter, spec: &ModelSpec) -> Result<(), EngineError> {
    for (&place, low_rank) in adapter {
        let (outputs, inputs) = place.target.shape(spec);
        if !place.is_in(spec) {
            let layers = spec.layers;
            return Err(EngineError::Adapter(format!("it adds to the {place}, in a model of {layers} layers")));
        }
        low_rank.check(&place.to_string(), outputs, inputs)?;
    }
    Ok(())
}
