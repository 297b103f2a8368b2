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
    /// Returns the rotation to these positions. Angles are computed in f64: in f32, the angle of a
    /// far position is off by more than f32's own precision of its sine.
    pub(super) fn new(spec: &ModelSpec, positions: &[u32], device: &Device) -> Result<Self> {
        let half = spec.rope_dim / 2;
        let frequencies: Vec<f64> =
            (0..half).map(|i| spec.rope_theta.powf(-2.0 * i as f64 / spec.rope_dim as f64)).collect();
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| f64::from(*p) * f));
        let shape = (positions.len(), 1, half);
        let cos = angles().map(|angle| angle.cos() as f32).collect();
        let sin = angles().map(|angle| angle.sin() as f32).collect();
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
