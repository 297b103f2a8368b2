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
    /// Replaces each x by `exp(x − largest)` and returns their sum; relative error at most 1e-6, below the smallest
    /// normal number 0 may come. NaN anywhere makes the sum NaN; no x should be much above, for exponentials overflow.
    pub(crate) exponentials: fn(&mut [f32], f32) -> f32,
    /// Returns `Σ exp(x − largest)`, where no x is above it; NaN where one is.
    pub(crate) exponential_sum: fn(&[f32], f32) -> f64,
    pub(crate) scale: fn(&mut [f32], f32),
}

impl Kernels {
    /// Returns `Σ exp(x − largest)`.
    ///
    /// # Numerics
    ///
    /// Added up in f64, in the vector tiers some at a time in f32; relative error at most 1e-6, where `largest` is
    /// finite and no x above it. NaN anywhere gives NaN.
    #[must_use]
    pub fn exponential_sum(&self, x: &[f32], largest: f32) -> f64 {
        (self.softmax.exponential_sum)(x, largest)
    }

    /// Returns `ln Σ exp(logits[i])`, as [`crate::log_sum_exp_f32`] does.
    #[must_use]
    pub fn log_sum_exp_f32(&self, logits: &[f32]) -> f64 {
        let largest = (self.softmax.largest)(logits);
        if largest.is_finite() {
            f64::from(largest) + self.exponential_sum(logits, largest).ln()
        } else if logits.iter().any(|x| x.is_nan()) {
            f64::NAN
        } else {
            f64::from(largest)
        }
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
