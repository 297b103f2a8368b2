//! Normalisation of rows.
use crate::Kernels;

/// Stream, delta, weight, eps, out.
pub(crate) type AddNorm = fn(&mut [f32], &[f32], &[f32], f32, &mut [f32]);
/// x, weight, bias, eps, out.
pub(crate) type LayerNorm = fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// The functions a tier has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormKernels {
    pub(crate) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) add_rms_norm: AddNorm,
    pub(crate) layer_norm: LayerNorm,
}

fn check(name: &str, values: usize, width: usize, out: usize) {
    assert!(width > 0, "{name}: no weights");
    assert_eq!(values % width, 0, "{name}: {values} values are no rows of {width}");
    assert_eq!(out, values, "{name}: room for {out} values, there are {values}");
}

impl Kernels {
    /// Writes each row of `x`, divided by its root mean square and multiplied by `weight`:
    /// `out[i] = x[i] / √(mean(x²) + eps) · weight[i]` (Zhang and Sennrich, arXiv 1910.07467).
    ///
    /// # Shapes
    ///
    /// `x` and `out` are `[rows, E]`, `weight` is `[E]`: E is its length.
    ///
    /// # Numerics
    ///
    /// Squares are summed in f64, so no finite row overflows. The relative error of a value is at
    /// most 4 ulp. NaN or an infinity in a row makes that row NaN where it stands; other rows do not
    /// see it.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut out = [0.0; 2];
    /// ruvlab_kernels::active().rms_norm(&[3.0, -3.0], &[1.0, 2.0], 0.0, &mut out);
    /// assert_eq!(out, [1.0, -2.0]);
    /// ```
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        check("rms_norm", x.len(), weight.len(), out.len());
        (self.norm.rms_norm)(x, weight, eps, out);
    }

    /// Adds `delta` to `stream` and writes the RMS norm of the sum, in one pass over the memory.
    ///
    /// # Shapes
    ///
    /// `stream`, `delta` and `out` are `[rows, E]`, `weight` is `[E]`.
    ///
    /// # Numerics
    ///
    /// As addition followed by [`rms_norm`](Self::rms_norm), bit for bit.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn add_rms_norm(&self, stream: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        check("add_rms_norm", stream.len(), weight.len(), out.len());
        assert_eq!(delta.len(), stream.len(), "add_rms_norm: {} values to add to {}", delta.len(), stream.len());
        (self.norm.add_rms_norm)(stream, delta, weight, eps, out);
    }

    /// Writes each row of `x` with mean 0 and variance 1, then scaled and shifted:
    /// `out[i] = (x[i] − mean(x)) / √(var(x) + eps) · weight[i] + bias[i]` (Ba et al., arXiv 1607.06450).
    ///
    /// # Shapes
    ///
    /// `x` and `out` are `[rows, E]`, `weight` and `bias` are `[E]`.
    ///
    /// # Numerics
    ///
    /// Mean and (biased) variance are summed in f64, in two passes.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        check("layer_norm", x.len(), weight.len(), out.len());
        assert_eq!(bias.len(), weight.len(), "layer_norm: {} biases, {} weights", bias.len(), weight.len());
        (self.norm.layer_norm)(x, weight, bias, eps, out);
    }
}
