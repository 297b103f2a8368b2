//! Rotary position embedding (`RoFormer`, arXiv 2104.09864) and the ways to stretch it, as plain
//! data and plain tables: every engine rotates by the same numbers.
mod change;
mod frequencies;

use serde::{Deserialize, Serialize};

pub use change::{RopeChange, RopeError, Scaling};
pub use frequencies::Frequencies;

/// How rotary pairs are laid out in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeLayout {
    /// Pairs `(2i, 2i+1)`: llama-family GGUF files.
    Interleaved,
    /// Pairs `(i, i + R/2)`, R being the values that rotate: GPT-NeoX and transformers.
    Halves,
}

/// How queries and keys rotate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// R, how many of a head's D values rotate: the first ones; the others stay as they are.
    pub dim: usize,
    /// How rotary pairs are laid out.
    pub layout: RopeLayout,
    /// How positions beyond the trained context are reached.
    pub scaling: RopeScaling,
}

/// A way to reach positions beyond the trained context. With `f = theta^(-2i/R)`, i from 0 to
/// R/2 - 1, the frequency of the i-th pair is:
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// `f`.
    None,
    /// `f / factor`: position interpolation (arXiv 2306.15595).
    Linear {
        /// What the context grows by.
        factor: f64,
    },
    /// `f` of the base `theta * factor^(R/(R-2))`: "NTK-aware", the same at every length. (The
    /// `dynamic` type of transformers lets the base depend on the length; it is another.)
    Ntk {
        /// What the context grows by.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071): `f` where a pair turns more than `beta_fast` times within the
    /// original context, `f / factor` where less than `beta_slow` times, a ramp between.
    Yarn {
        /// What the context grows by.
        factor: f64,
        /// Tokens of context before stretching.
        original_context: usize,
        /// Turns from which a pair keeps its frequency.
        beta_fast: f64,
        /// Turns up to which a pair is interpolated.
        beta_slow: f64,
        /// What cosines and sines are multiplied by: `0.1 ln(factor) + 1` in the paper.
        magnitude: f64,
    },
    /// Llama 3.1: as YaRN, with the ramp over turns.
    Llama3 {
        /// What the context grows by.
        factor: f64,
        /// Turns within the original context up to which a pair is interpolated.
        low_freq_factor: f64,
        /// Turns from which a pair keeps its frequency.
        high_freq_factor: f64,
        /// Tokens of context before stretching.
        original_context: usize,
    },
    /// `f / divisor`, one a pair: what GGUF files hold in `rope_freqs.weight` for Llama 3.1.
    Divisors {
        /// R/2 divisors.
        divisors: Vec<f32>,
    },
    /// `LongRoPE` (arXiv 2402.13753): `f / divisor`, one a pair, of two sets.
    Longrope {
        /// R/2 divisors while the room for a sequence is at most the original context.
        short: Vec<f32>,
        /// R/2 divisors when there is more room.
        long: Vec<f32>,
        /// Tokens of context before stretching.
        original_context: usize,
        /// What cosines and sines are multiplied by.
        magnitude: f64,
    },
}

/// The paper's magnitude of YaRN, `0.1 ln(factor) + 1`, and 1 up to a factor of 1.
#[must_use]
pub fn yarn_magnitude(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1f64.mul_add(factor.ln(), 1.0) }
}

/// The magnitude of `LongRoPE`, `sqrt(1 + ln(factor) / ln(original context))`, and 1 up to a factor of 1.
#[must_use]
pub fn longrope_magnitude(factor: f64, original_context: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() }
}

impl Rope {
    /// Returns the frequencies for sequences that have room for `room` tokens.
    ///
    /// Only [`RopeScaling::Longrope`] looks at the room: with more than the original context, all
    /// positions rotate by the long divisors, as in llama.cpp. (transformers changes over when a
    /// sequence outgrows the original context, and keeps the keys it has cached by the short ones;
    /// then a prompt's logits would depend on how it is cut.)
    ///
    /// # Numerics
    ///
    /// Unstretched frequencies are computed in f32, as candle-transformers and transformers do:
    /// models are trained and compared with this rounding. What stretches them is f64 from there,
    /// rounded to f32 once.
    #[must_use]
    pub fn frequencies(&self, room: usize) -> Frequencies {
        Frequencies::new(self, room)
    }

    /// Returns the base of the frequencies, stretched if [`RopeScaling::Ntk`] does it.
    #[must_use]
    pub fn stretched_theta(&self) -> f64 {
        match self.scaling {
            RopeScaling::Ntk { factor } => {
                let width = self.dim as f64;
                self.theta * factor.powf(width / (width - 2.0))
            }
            _ => self.theta,
        }
    }

    /// Returns the tokens of context before stretching, where the scaling knows them.
    #[must_use]
    pub fn original_context(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Yarn { original_context, .. }
            | RopeScaling::Llama3 { original_context, .. }
            | RopeScaling::Longrope { original_context, .. } => Some(original_context),
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Ntk { .. } | RopeScaling::Divisors { .. } => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
