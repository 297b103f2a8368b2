//! Frequencies of rotary pairs, and the cosines and sines of positions.
use std::f64::consts::PI;

use super::{Rope, RopeScaling};

/// The frequencies of one kind of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// One a pair, R/2.
    pub values: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub magnitude: f32,
}

/// Returns `theta^(-2i/R)`, in f32.
fn plain(theta: f64, dim: usize) -> Vec<f32> {
    let (theta, width) = (theta as f32, dim as f32);
    (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / width)).collect()
}

/// Returns 0 below `low`, 1 above `high`, and a straight line between.
fn ramp(x: f64, low: f64, high: f64) -> f64 {
    ((x - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
}

impl Frequencies {
    pub(super) fn new(rope: &Rope, room: usize) -> Self {
        let Rope { theta, dim, .. } = *rope;
        let divided = |divisors: &[f32]| plain(theta, dim).iter().zip(divisors).map(|(f, d)| f / d).collect();
        let stretched = |by: &dyn Fn(usize, f64) -> f64| -> Vec<f32> {
            plain(theta, dim).iter().enumerate().map(|(i, f)| by(i, f64::from(*f)) as f32).collect()
        };
        let (values, magnitude) = match &rope.scaling {
            RopeScaling::None | RopeScaling::Ntk { .. } => (plain(rope.stretched_theta(), dim), 1.0),
            RopeScaling::Linear { factor } => (stretched(&|_, f| f / factor), 1.0),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude } => {
                // The pair that turns so many times within the original context (the paper's
                // appendix A.2), widened to whole pairs as its authors do.
                let pair = |turns: f64| {
                    let wavelength = *original_context as f64 / (turns * 2.0 * PI);
                    dim as f64 * wavelength.ln() / (2.0 * theta.ln())
                };
                let low = pair(*beta_fast).floor().max(0.0);
                let high = pair(*beta_slow).ceil().min(dim as f64 - 1.0);
                let values = stretched(&|i, f| {
                    let interpolated = ramp(i as f64, low, high);
                    f / factor * interpolated + f * (1.0 - interpolated)
                });
                (values, *magnitude)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let values = stretched(&|_, f| {
                    let turns = *original_context as f64 * f / (2.0 * PI);
                    let kept = ramp(turns, *low_freq_factor, *high_freq_factor);
                    f / factor * (1.0 - kept) + f * kept
                });
                (values, 1.0)
            }
            RopeScaling::Divisors { divisors } => (divided(divisors), 1.0),
            RopeScaling::Longrope { short, long, original_context, magnitude } => {
                (divided(if room > *original_context { long } else { short }), *magnitude)
            }
        };
        Self { values, magnitude: magnitude as f32 }
    }

    /// Returns cosines and sines of the angles `position * frequency`, times the magnitude.
    ///
    /// # Shapes
    ///
    /// Both are `[positions, R/2]`, row-major.
    ///
    /// # Numerics
    ///
    /// Angles are f32, as in transformers, llama.cpp and candle-transformers: another rounding of an
    /// angle flips roundings of the 8-bit activations after it.
    #[must_use]
    pub fn rotations(&self, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let mut cos = vec![0.0; positions.len() * self.values.len()];
        let mut sin = cos.clone();
        self.rotations_into(positions, &mut cos, &mut sin);
        (cos, sin)
    }

    /// Writes what [`rotations`](Self::rotations) returns.
    ///
    /// # Panics
    ///
    /// If there is no room for R/2 numbers a position.
    pub fn rotations_into(&self, positions: &[u32], cos: &mut [f32], sin: &mut [f32]) {
        let width = self.values.len();
        for (row, position) in positions.iter().enumerate() {
            let (cos, sin) = (&mut cos[row * width..][..width], &mut sin[row * width..][..width]);
            for ((frequency, cos), sin) in self.values.iter().zip(cos).zip(sin) {
                let angle = *position as f32 * frequency;
                (*cos, *sin) = (angle.cos() * self.magnitude, angle.sin() * self.magnitude);
            }
        }
    }
}
