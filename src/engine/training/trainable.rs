//! A model that learns, whichever engine computes it.
use std::{collections::BTreeMap, num::NonZeroUsize};

use super::{Dropout, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainee, TraineeSettings};
use crate::{
    engine::{Adapter, Device, EngineError, EngineKind, LowRank, Place, candle::Autograd},
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

    /// Does what [`Self::accumulate_of`] does with the text's labels, and adds the gradients of magnitudes,
    /// where there are any.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        weight: f64,
        gradients: &mut Gradients,
        _magnitudes: &mut Magnitudes,
    ) -> Result<f64, EngineError> {
        self.accumulate(sequences, weight, gradients)
    }

    /// Puts other values in the place of all of a change's own, with its magnitudes.
    ///
    /// # Errors
    ///
    /// As [`Self::set`], and if it has magnitudes and they cannot learn here.
    fn set_all(&mut self, place: Place, change: &LowRank) -> Result<(), EngineError> {
        if change.magnitude.is_some() {
            return Err(not_here("train decomposed changes (DoRA)"));
        }
        self.set(place, &change.a, &change.b)
    }

    /// Makes every change a decomposed one (`DoRA`, arXiv 2402.09353) that is none yet, and returns the
    /// magnitudes of those: the norms of the rows of `W + s B A` as they are.
    ///
    /// # Errors
    ///
    /// If the weights cannot be read, or magnitudes cannot learn here.
    fn decompose(&mut self) -> Result<Magnitudes, EngineError> {
        Err(not_here("train decomposed changes (DoRA)"))
    }

    /// Sets what changes do not read while gradients are computed, from now on.
    ///
    /// # Errors
    ///
    /// If something is to be dropped, and cannot be here.
    fn set_dropout(&mut self, dropout: Option<Dropout>) -> Result<(), EngineError> {
        dropout.map_or(Ok(()), |_| Err(not_here("drop inputs of changes")))
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

fn not_here(what: &str) -> EngineError {
    EngineError::Unsupported { engine: "candle", what: what.to_owned() }
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
        EngineKind::Candle if adapter.values().any(|change| change.magnitude.is_some()) => {
            return Err(not_here("train decomposed changes (DoRA)"));
        }
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

    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        weight: f64,
        gradients: &mut Gradients,
        magnitudes: &mut Magnitudes,
    ) -> Result<f64, EngineError> {
        self.accumulate_all(sequences, Labels::Data, weight, gradients, magnitudes)
    }

    fn set_all(&mut self, place: Place, change: &LowRank) -> Result<(), EngineError> {
        self.set_all(place, change)
    }

    fn decompose(&mut self) -> Result<Magnitudes, EngineError> {
        self.decompose()
    }

    fn set_dropout(&mut self, dropout: Option<Dropout>) -> Result<(), EngineError> {
        self.set_dropout(dropout);
        Ok(())
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
