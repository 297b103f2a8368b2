//! A model that learns, whichever engine computes it.
use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use super::{
    Dropout, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainee, TraineeSettings,
    changes::{Pair, Sums},
};
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

    /// Adds the gradients of `weight` times the sum of the losses of these labels, those of magnitudes among
    /// them where there are any, and returns that sum.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`], and if logits were kept of more or fewer positions than are scored.
    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
        magnitudes: &mut Magnitudes,
    ) -> Result<f64, EngineError>;

    /// Does what [`Self::accumulate_all`] does, of A and B alone.
    ///
    /// # Errors
    ///
    /// As [`Self::accumulate_all`].
    fn accumulate_of(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<f64, EngineError> {
        self.accumulate_all(sequences, labels, weight, gradients, &mut Magnitudes::new())
    }

    /// Adds the gradients of `weight` times the sum that [`Self::loss`] returns, and returns that sum.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    fn accumulate(&self, sequences: &[Scored<'_>], weight: f64, gradients: &mut Gradients) -> Result<f64, EngineError> {
        self.accumulate_of(sequences, Labels::Data, weight, gradients)
    }

    /// Puts other magnitudes in the place of a change's own; places that do not learn are left out.
    ///
    /// # Errors
    ///
    /// If they are more or fewer, or the change is not a decomposed one.
    fn set_magnitude(&mut self, place: Place, magnitude: &[f32]) -> Result<(), EngineError>;

    /// Puts other values in the place of all of a change's own, with its magnitudes.
    ///
    /// # Errors
    ///
    /// As [`Self::set`] and [`Self::set_magnitude`].
    fn set_all(&mut self, place: Place, change: &LowRank) -> Result<(), EngineError> {
        if let Some(magnitude) = &change.magnitude {
            self.set_magnitude(place, magnitude)?;
        }
        self.set(place, &change.a, &change.b)
    }

    /// Makes every change a decomposed one (`DoRA`, arXiv 2402.09353) that is none yet, and returns the
    /// magnitudes of those: the norms of the rows of `W + s B A` as they are.
    ///
    /// # Errors
    ///
    /// If the weights cannot be read.
    fn decompose(&mut self) -> Result<Magnitudes, EngineError>;

    /// Sets what changes do not read while gradients are computed, from now on; nothing is dropped where there
    /// is only a loss.
    ///
    /// # Errors
    ///
    /// If something is to be dropped, and cannot be here.
    fn set_dropout(&mut self, dropout: Option<Dropout>) -> Result<(), EngineError> {
        let what = || "drop inputs of changes".to_owned();
        dropout.map_or(Ok(()), |_| Err(EngineError::Unsupported { engine: "candle", what: what() }))
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
        &self.model.spec
    }

    fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> Result<(), EngineError> {
        let Some(pair) = self.pairs.get_mut(&place) else { return Ok(()) };
        pair.set(a, b)?;
        let norms = self.changed(place).map(|changed| changed.renewed(place.target)).transpose()?.flatten();
        if let (Some(norms), Some(pair)) = (norms, self.pairs.get_mut(&place)) {
            pair.renew(norms);
        }
        Ok(())
    }

    fn loss(&self, sequences: &[Scored<'_>]) -> Result<f64, EngineError> {
        Ok(self.score(sequences, &self.normed(sequences)?, None)?.0)
    }

    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
        magnitudes: &mut Magnitudes,
    ) -> Result<f64, EngineError> {
        let mut sums = Sums { gradients: std::mem::take(gradients), magnitudes: std::mem::take(magnitudes) };
        let loss = self.add_gradients(sequences, labels, weight, &mut sums);
        (*gradients, *magnitudes) = (sums.gradients, sums.magnitudes);
        loss
    }

    fn set_magnitude(&mut self, place: Place, magnitude: &[f32]) -> Result<(), EngineError> {
        self.pairs.get_mut(&place).map_or(Ok(()), |pair| pair.set_magnitude(magnitude))
    }

    fn decompose(&mut self) -> Result<Magnitudes, EngineError> {
        let plain = self.pairs.iter().filter(|(_, pair)| !pair.is_decomposed());
        let places: Vec<Place> = plain.map(|(place, _)| *place).collect();
        places.into_iter().map(|place| Ok((place, self.decompose_one(place, None)?))).collect()
    }

    fn set_dropout(&mut self, dropout: Option<Dropout>) -> Result<(), EngineError> {
        self.dropout = dropout;
        Ok(())
    }

    fn log_likelihoods(&self, sequences: &[Scored<'_>], tokens: &[u32]) -> Result<Vec<f64>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        let kernels = self.workers.kernels;
        let rows = self.outputs(sequences, |logits| {
            let all = kernels.log_sum_exp_f32(logits);
            tokens.iter().map(|token| f64::from(logits[*token as usize]) - all).collect::<Vec<f64>>()
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    fn top_logits(&self, sequences: &[Scored<'_>], count: usize) -> Result<Vec<TopLogits>, EngineError> {
        self.outputs(sequences, |logits| TopLogits::of(logits, count))
    }

    fn note_flows(&mut self, noted: Option<Noted>) {
        let spec = &self.model.spec;
        for (place, pair) in &mut self.pairs {
            pair.flow = noted.map(|noted| Mutex::new(Flow::new(noted, place.target.shape(spec))));
        }
    }

    fn take_flows(&mut self) -> Result<BTreeMap<Place, Flow>, EngineError> {
        let spec = &self.model.spec;
        let take = |(place, pair): (&Place, &mut Pair)| {
            let flow = pair.flow.as_mut()?.get_mut().unwrap_or_else(PoisonError::into_inner);
            let noted = if flow.product.is_empty() { Noted::Squares } else { Noted::Product };
            Some((*place, std::mem::replace(flow, Flow::new(noted, place.target.shape(spec)))))
        };
        Ok(self.pairs.iter_mut().filter_map(take).collect())
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
