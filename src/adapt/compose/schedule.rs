//! Adapters whose weights are a function of the step.
use super::{ComposeError, Method, compose};
use crate::engine::Adapter;

/// The weights that hold from a step on.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its first step.
    pub from: u64,
    /// One of each adapter.
    pub weights: Vec<f64>,
}

/// Weights of several adapters over steps (tokens, requests, training steps: whoever counts says).
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    stages: Vec<Stage>,
    /// Whether weights go evenly from one stage's to the next's, or change at once.
    gradual: bool,
}

impl Stages {
    /// Returns weights by stages.
    ///
    /// # Errors
    ///
    /// If there are none, they do not begin at step 0 and go on from there, or have different numbers of
    /// weights.
    pub fn new(stages: Vec<Stage>, gradual: bool) -> Result<Self, ComposeError> {
        let Some(first) = stages.first() else { return Err(ComposeError::Stages("there are no stages")) };
        if first.from != 0 || stages.windows(2).any(|pair| pair[0].from >= pair[1].from) {
            return Err(ComposeError::Stages("stages begin at step 0, and each after the one before it"));
        }
        if stages.iter().any(|stage| stage.weights.len() != first.weights.len()) {
            return Err(ComposeError::Stages("every stage has a weight for each adapter"));
        }
        if stages.iter().flat_map(|stage| &stage.weights).any(|weight| !weight.is_finite()) {
            return Err(ComposeError::Stages("weights are finite numbers"));
        }
        Ok(Self { stages, gradual })
    }

    /// Returns adapters one after the other, each alone for as many steps; the last one stays.
    ///
    /// # Errors
    ///
    /// If there are no adapters, or no steps.
    pub fn sequential(adapters: usize, steps: u64) -> Result<Self, ComposeError> {
        if steps == 0 {
            return Err(ComposeError::Stages("an adapter stays for at least one step"));
        }
        let alone = |which: usize| Stage {
            from: which as u64 * steps,
            weights: (0..adapters).map(|other| f64::from(u8::from(other == which))).collect(),
        };
        Self::new((0..adapters).map(alone).collect(), false)
    }

    /// Returns the weights at a step; after the last stage began, its own.
    #[must_use]
    pub fn weights(&self, step: u64) -> Vec<f64> {
        let after = self.stages.partition_point(|stage| stage.from <= step);
        let now = &self.stages[after.saturating_sub(1)];
        match self.stages.get(after).filter(|_| self.gradual) {
            None => now.weights.clone(),
            Some(next) => {
                let share = (step - now.from) as f64 / (next.from - now.from) as f64;
                now.weights.iter().zip(&next.weights).map(|(now, next)| now + (next - now) * share).collect()
            }
        }
    }

    /// Returns the adapter of a step, exactly `Σ w ΔW`; adapters of weight 0 take no part, and no rank.
    ///
    /// # Errors
    ///
    /// If all weights are 0, there are not as many adapters as weights, or they are of different models.
    pub fn at(&self, step: u64, adapters: &[&Adapter]) -> Result<Adapter, ComposeError> {
        let weights = self.weights(step);
        if weights.len() != adapters.len() {
            return Err(ComposeError::Stages("every stage has a weight for each adapter"));
        }
        let parts: Vec<_> =
            weights.into_iter().zip(adapters.iter().copied()).filter(|(weight, _)| *weight != 0.0).collect();
        compose(&parts, &Method::Cat)
    }
}
