//! Rotary position embedding (`RoFormer`, arXiv 2104.09864).
use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb;

use crate::model::spec::{ModelSpec, RopeLayout};

/// The rotation of each row of a step: `cos` and `sin` are `[N, 1, D / 2]`.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    layout: RopeLayout,
}

impl Rotation {
    /// Returns the rotation to these positions. Frequencies and angles are f32, as in transformers,
    /// llama.cpp and candle-transformers: another rounding of an angle flips roundings of the 8-bit
    /// activations after it, and models are trained and compared with this one.
    pub(super) fn new(spec: &ModelSpec, positions: &[u32], device: &Device) -> Result<Self> {
        let half = spec.rope_dim / 2;
        let (theta, width) = (spec.rope_theta as f32, spec.rope_dim as f32);
        let frequencies: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / width)).collect();
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| *p as f32 * f));
        let shape = (positions.len(), 1, half);
        let cos = angles().map(f32::cos).collect();
        let sin = angles().map(f32::sin).collect();
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            layout: spec.rope_layout,
        })
    }

    /// Returns heads `[N, H, D]` rotated, each row to its own position.
    pub(super) fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        // To candle, N batches of one position each.
        let rows = heads.unsqueeze(2)?;
        let rotated = match self.layout {
            RopeLayout::Interleaved => rotary_emb::rope_i(&rows, &self.cos, &self.sin)?,
            RopeLayout::Halves => rotary_emb::rope(&rows, &self.cos, &self.sin)?,
        };
        rotated.squeeze(2)
    }
}
