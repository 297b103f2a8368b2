//! A model that learns, whichever engine computes it.
use std::{collections::BTreeMap, num::NonZeroUsize};

use super::{Flow, Gradients, Labels, Noted, Scored, TopLogits, Trainee, TraineeSettings};
use crate::{
    engine::{Adapter, Device, EngineError, EngineKind, Place, candle::Autograd},
    model::{spec::ModelSpec, weights::Weights},
};

/// A frozen model with adapters that learn: its losses and their gradients.
pub trait Trainable: Send + Sync {
    /// Returns the shape of the model.
    fn spec(&self) -> &ModelSpec;

    /// Puts other values in the place of a change's own; places that do not learn are left out.
    ///
    /// # Errors
    ///
    /// If they are more or fewer.
    fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> Result<(), EngineError>;

    /// Returns the sum of the negative log-likelihoods of all scored tokens, in nats.
    ///
    /// # Errors
    ///
    /// If a sequence is too short or long or has an unknown token.
    fn loss(&self, sequences: &[Scored<'_>]) -> Result<f64, EngineError>;

    /// Adds the gradients of `weight` times the sum of the losses of these labels, and returns that sum.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    fn accumulate_of(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<f64, EngineError>;

    /// Adds the gradients of `weight` times the sum that [`Self::loss`] returns, and returns that sum.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    fn accumulate(&self, sequences: &[Scored<'_>], weight: f64, gradients: &mut Gradients) -> Result<f64, EngineError> {
        self.accumulate_of(sequences, Labels::Data, weight, gradients)
    }

    /// Returns how likely each of these tokens is at every scored position, as natural logarithms,
    /// `[positions, tokens]`.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`], for these tokens, too.
    fn log_likelihoods(&self, sequences: &[Scored<'_>], tokens: &[u32]) -> Result<Vec<f64>, EngineError>;

    /// Returns the `count` greatest logits of every scored position.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    fn top_logits(&self, sequences: &[Scored<'_>], count: usize) -> Result<Vec<TopLogits>, EngineError>;

    /// Notes from now on what passes every change where gradients are made, or no longer.
    fn note_flows(&mut self, noted: Option<Noted>);

    /// Returns what was noted, and begins anew.
    ///
    /// # Errors
    ///
    /// If it cannot be read from where it was computed.
    fn take_flows(&mut self) -> Result<BTreeMap<Place, Flow>, EngineError>;
}

/// Returns the model with these changes, which are what learns, on the engine that `kind` trains with: candle's
/// own gradients for [`EngineKind::Candle`], our kernels for all others. Of the reference models, which
/// have no backward pass, the fastest kernels of this processor are taken.
///
/// # Errors
///
/// If the weights lack something, a change does not fit its matrix, or the device is not there.
pub fn trainee(
    kind: EngineKind,
    device: Device,
    weights: &Weights,
    adapter: &Adapter,
    settings: TraineeSettings,
    threads: Option<NonZeroUsize>,
) -> Result<Box<dyn Trainable>, EngineError> {
    let tier = match kind {
        EngineKind::Candle => return Ok(Box::new(Autograd::load(weights, adapter, settings, device)?)),
        EngineKind::Native(tier) => Some(tier),
        EngineKind::Reference => None,
    };
    Ok(Box::new(Trainee::load_on(weights, adapter, settings, threads, tier)?))
}

impl Trainable for Trainee {
    fn spec(&self) -> &ModelSpec {
        self.spec()
    }

    fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> Result<(), EngineError> {
        self.set(place, a, b)
    }

    fn loss(&self, sequences: &[Scored<'_>]) -> Result<f64, EngineError> {
        self.loss(sequences)
    }

    fn accumulate_of(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<f64, EngineError> {
        self.accumulate_of(sequences, labels, weight, gradients)
    }

    fn log_likelihoods(&self, sequences: &[Scored<'_>], tokens: &[u32]) -> Result<Vec<f64>, EngineError> {
        self.log_likelihoods(sequences, tokens)
    }

    fn top_logits(&self, sequences: &[Scored<'_>], count: usize) -> Result<Vec<TopLogits>, EngineError> {
        self.top_logits(sequences, count)
    }

    fn note_flows(&mut self, noted: Option<Noted>) {
        self.note_flows(noted);
    }

    fn take_flows(&mut self) -> Result<BTreeMap<Place, Flow>, EngineError> {
        Ok(self.take_flows())
    }
}

impl From<Trainee> for Box<dyn Trainable> {
    fn from(trainee: Trainee) -> Self {
        Box::new(trainee)
    }
}

impl From<Autograd> for Box<dyn Trainable> {
    fn from(trainee: Autograd) -> Self {
        Box::new(trainee)
    }
}
