//! Softmax of rows, and its online form.
use crate::Kernels;

/// The polynomial that is nearest to exp(r) for |r| ≤ ln 2 / 2, relative to it, from r^6 down to 1. As numbers of f32
/// its error is 8e-8, that of the last addition included; of the series to degree 7 it is 7e-8.
pub(crate) const EXP: [f32; 7] = [0.001_383_684_6, 0.008_374_816, 0.041_668_225, 0.166_664_2, 0.499_999_9, 1.0, 1.0];

/// The functions a tier has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftmaxKernels {
    /// Returns the largest value, NaN left out; negative infinity of none.
    pub(crate) largest: fn(&[f32]) -> f32,
    /// Replaces each x by `exp(x − largest)` and returns their sum.
    pub(crate) exponentials: fn(&mut [f32], f32) -> f32,
    pub(crate) scale: fn(&mut [f32], f32),
}

impl Kernels {
    /// Replaces each x by `exp(x − largest)` and returns the sum of these.
    ///
    /// # Numerics
    ///
    /// Relative error at most 1e-6; below the smallest normal number, 1.2e-38, 0 may come. NaN anywhere makes the sum
    /// NaN; `largest` should be finite and not much below any x, for exponentials overflow.
    pub fn exponentials(&self, x: &mut [f32], largest: f32) -> f32 {
        (self.softmax.exponentials)(x, largest)
    }

    /// Replaces each row by its softmax, `exp(x[i]) / Σ exp(x[j])`.
    ///
    /// # Shapes
    ///
    /// `x` is `[rows, width]`.
    ///
    /// # Numerics
    ///
    /// Relative to the largest value of a row, so no finite row overflows; relative error at most
    /// 1e-6. A row with NaN or with positive infinity, or of nothing but negative infinities, becomes
    /// NaN.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows.
    pub fn softmax(&self, x: &mut [f32], width: usize) {
        assert!(width > 0 && x.len().is_multiple_of(width), "softmax: {} values, rows of {width}", x.len());
        for row in x.chunks_exact_mut(width) {
            let largest = (self.softmax.largest)(row);
            let sum = (self.softmax.exponentials)(row, largest);
            (self.softmax.scale)(row, 1.0 / sum);
        }
    }
}
