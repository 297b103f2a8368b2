//! A rope other than the file's own, as a recipe may ask for.
use super::{Rope, RopeScaling, longrope_magnitude, yarn_magnitude};
use crate::model::spec::ModelSpec;

/// A kind of scaling, apart from its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are those of `RopeScaling`")]
pub enum Scaling {
    None,
    Linear,
    Ntk,
    Yarn,
    Llama3,
    Longrope,
}

/// What is to differ from the file's own rope. Layers with a rope of their own (`local_rope`) keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RopeChange {
    /// Another scaling.
    pub scaling: Option<Scaling>,
    /// What the context grows by.
    pub factor: Option<f64>,
    /// Tokens of context before stretching; what the file says, or else its context, when absent.
    pub original_context: Option<usize>,
    /// Another base of the frequencies.
    pub theta: Option<f64>,
}

/// Why a rope cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RopeError {
    /// A number that the scaling needs, or that means nothing without one.
    #[error("rope scaling: {0}")]
    Numbers(&'static str),
    /// Longrope on a file without divisors.
    #[error("this model has no longrope divisors (the tensors rope_factors_long.weight and rope_factors_short.weight)")]
    NoDivisors,
}

impl ModelSpec {
    /// Returns the same model with another rope, and the context it then reaches: the original one
    /// times the factor.
    ///
    /// # Errors
    ///
    /// If numbers are missing or impossible, or longrope is asked of a file that has no divisors.
    pub fn with_rope(&self, change: &RopeChange) -> Result<Self, RopeError> {
        let RopeChange { scaling, factor, original_context: asked_context, theta } = *change;
        let mut spec = self.clone();
        if let Some(theta) = theta {
            spec.rope.theta = Some(theta).filter(|theta| theta.is_finite() && *theta > 1.0).ok_or(THETA)?;
        }
        let Some(scaling) = scaling else {
            return if factor.is_none() && asked_context.is_none() { Ok(spec) } else { Err(NO_SCALING) };
        };
        if factor.is_some_and(|factor| !factor.is_finite() || factor < 1.0) {
            return Err(FACTOR);
        }
        let original_context = asked_context.or(self.rope.original_context()).unwrap_or(self.context_length).max(2);
        let needed = || factor.ok_or(FACTOR);
        spec.rope.scaling = match scaling {
            Scaling::None => RopeScaling::None,
            Scaling::Linear => RopeScaling::Linear { factor: needed()? },
            Scaling::Ntk if self.rope.dim <= 2 => {
                return Err(RopeError::Numbers("ntk needs more than one rotary pair"));
            }
            Scaling::Ntk => RopeScaling::Ntk { factor: needed()? },
            Scaling::Yarn => {
                let factor = needed()?;
                // What the paper recommends for the llama family, and every model since has.
                let (beta_fast, beta_slow, magnitude) = (32.0, 1.0, yarn_magnitude(factor));
                RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude }
            }
            // The two turns are those of every Llama from 3.1 on.
            Scaling::Llama3 => {
                RopeScaling::Llama3 { factor: needed()?, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context }
            }
            Scaling::Longrope => longrope(&self.rope, factor, original_context)?,
        };
        spec.context_length = match (scaling, factor) {
            (Scaling::None, _) => original_context.min(self.context_length),
            (_, Some(factor)) => (original_context as f64 * factor).round() as usize,
            (_, None) => self.context_length,
        };
        Ok(spec)
    }
}

const THETA: RopeError = RopeError::Numbers("theta is not a number above 1");
const FACTOR: RopeError = RopeError::Numbers("this scaling needs a factor of 1 or more, by which the context grows");
const NO_SCALING: RopeError = RopeError::Numbers("a factor or an original context says nothing without a scaling");

/// Returns the file's longrope with another switching point or factor.
fn longrope(rope: &Rope, factor: Option<f64>, original_context: usize) -> Result<RopeScaling, RopeError> {
    let RopeScaling::Longrope { short, long, magnitude, .. } = &rope.scaling else {
        return Err(RopeError::NoDivisors);
    };
    let magnitude = factor.map_or(*magnitude, |factor| longrope_magnitude(factor, original_context));
    Ok(RopeScaling::Longrope { short: short.clone(), long: long.clone(), original_context, magnitude })
}
