//! Rotating heads to their positions.
use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb;

use crate::model::rope::{Frequencies, RopeLayout};

/// The rotation of each row of a step: `cos` and `sin` are `[N, 1, R / 2]`.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    layout: RopeLayout,
}

impl Rotation {
    /// Returns the rotation to these positions.
    pub(super) fn new(
        frequencies: &Frequencies,
        layout: RopeLayout,
        positions: &[u32],
        device: &Device,
    ) -> Result<Self> {
        let shape = (positions.len(), 1, frequencies.values.len());
        let (cos, sin) = frequencies.rotations(positions);
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape, device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)?, layout })
    }

    /// Returns heads `[N, H, D]` with their first R values rotated, each row to its own position.
    pub(super) fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        let (_, _, width) = heads.dims3()?;
        let rotating = 2 * self.cos.dim(2)?;
        if rotating == width {
            return self.rotate(heads);
        }
        let rotated = self.rotate(&heads.narrow(2, 0, rotating)?.contiguous()?)?;
        Tensor::cat(&[&rotated, &heads.narrow(2, rotating, width - rotating)?], 2)
    }

    fn rotate(&self, heads: &Tensor) -> Result<Tensor> {
        // To candle, N batches of one position each.
        let rows = heads.unsqueeze(2)?;
        let rotated = match self.layout {
            RopeLayout::Interleaved => rotary_emb::rope_i(&rows, &self.cos, &self.sin)?,
            RopeLayout::Halves => rotary_emb::rope(&rows, &self.cos, &self.sin)?,
        };
        rotated.squeeze(2)
    }
}
