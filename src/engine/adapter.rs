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
/// Beside a W in blocks the native engine holds A as two terms of 8 bits, multiplied with the
/// activations that W is multiplied with, and B in f16, where all their numbers fit: that changes the
/// addition by some 3e-4 of itself.
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
}

/// Additions to a model's matrices, each by its place; a file's fused matrices count as the parts they
/// hold. Where the head is the embedding, tokens are still embedded as before.
pub type Adapter = BTreeMap<Place, LowRank>;

impl LowRank {
    fn check(&self, what: &str, outputs: usize, inputs: usize) -> Result<(), EngineError> {
        let Self { rank, a, b, .. } = self;
        let fits = |values: &[f32], width: usize| rank.checked_mul(width) == Some(values.len());
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
