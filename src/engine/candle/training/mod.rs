//! Losses and gradients of low-rank adapters over a frozen model, by candle's automatic differentiation: on
//! every device it has, and a second opinion on the backward pass of our own kernels.
//!
//! The backward pass goes layer by layer: of each layer only its input is a leaf, so a layer's graph is
//! dropped as soon as it is passed, nothing below the lowest adapter is recorded, and with
//! [`TraineeSettings::recompute`] no graph is kept at all but built again when its turn comes (gradient
//! checkpointing, arXiv 1604.06174). What a step makes stays on the device until its end, so nothing
//! waits for the device in between; labels drawn from the model are the exception.
mod batch;
mod change;
mod executor;
mod flows;
mod operations;
mod score;
mod sums;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use candle_core::{Result, Tensor, Var, backprop::GradStore};

use super::{
    linear::Linear,
    weights::{Layer, Model},
};
use crate::{
    engine::{
        Adapter, Device, EngineError, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainable,
        TraineeSettings, adapter::check, places::Place,
    },
    model::{
        decoder::{Executor, walk_layer},
        spec::ModelSpec,
        weights::Weights,
    },
};
use batch::Batch;
use change::Change;
use executor::{Learner, Tap};
use flows::Flows;
use operations::log_sum_exp;
use sums::{Sums, to_host, total};

/// A frozen model with adapters that learn, on a device of candle's.
pub struct Autograd {
    model: Model,
    changes: BTreeMap<Place, Change>,
    settings: TraineeSettings,
    flows: Mutex<Flows>,
}

impl Autograd {
    /// Returns the model with these changes, which are what learns, on a device.
    ///
    /// # Errors
    ///
    /// If the weights lack something, a change does not fit its matrix, or there is no such device.
    pub fn load(
        weights: &Weights,
        adapter: &Adapter,
        settings: TraineeSettings,
        device: Device,
    ) -> std::result::Result<Self, EngineError> {
        check(adapter, weights.spec())?;
        let mut model = Model::load(weights, weights.spec().context_length, device)?;
        if settings.widen {
            widen(&mut model)?;
        }
        let mut changes = BTreeMap::new();
        for (place, change) in adapter {
            let mut own = Change::new(change, place.target.shape(&model.spec), &model.device)?;
            if let Some(magnitude) = &change.magnitude {
                own.decompose(&model.matrix(*place)?)?;
                own.set_magnitude(magnitude)?;
            }
            changes.insert(*place, own);
        }
        Ok(Self { model, changes, settings, flows: Mutex::default() })
    }

    fn learner(&self, batch: &Batch, taps: bool) -> Result<Learner<'_>> {
        Learner::new(&self.model, &self.changes, &batch.step, batch.length, taps)
    }

    fn noted(&self) -> Option<Noted> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).noted
    }

    /// Notes what passed the changes in a part; `real` are the rows that stand for tokens, all where it is
    /// none.
    fn note(&self, taps: Option<Vec<Tap>>, found: &GradStore, real: Option<&Tensor>) -> Result<()> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        for Tap { place, input, zeros } in taps.into_iter().flatten() {
            let Some(delta) = found.get(zeros.as_tensor()) else { continue };
            match real {
                None => flows.add(place, &input, delta)?,
                Some(real) => flows.add(place, &input.index_select(real, 0)?, &delta.index_select(real, 0)?)?,
            }
        }
        Ok(())
    }

    /// Returns the losses of all scored positions, `[positions]` in parts.
    fn losses(&self, batch: &Batch) -> std::result::Result<Vec<Tensor>, EngineError> {
        let mut learner = self.learner(batch, false)?;
        let hidden = self.top(&mut learner, batch)?;
        Ok(self.score(&mut learner, batch, &hidden, None)?.0)
    }

    /// Returns what [`Self::losses`] does, of these labels, and the gradients of `weight` times their sum.
    fn differentiate(
        &self,
        batch: &Batch,
        labels: Labels<'_>,
        weight: f64,
    ) -> std::result::Result<(Vec<Tensor>, Sums), EngineError> {
        let layers = self.model.spec.layers;
        let lowest = self.changes.keys().map(|place| place.layer).min().unwrap_or(layers);
        let mut learner = self.learner(batch, self.noted().is_some())?;
        let mut hidden = learner.embed(&batch.step)?;
        // What each layer took in, a leaf where something below learns, and its graph.
        let mut passed = Vec::with_capacity(layers);
        for layer in 0..layers {
            let input = if layer > lowest { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
            let output = walk_layer(&mut learner, layer, input.clone(), &batch.step)?;
            hidden = output.detach();
            let taps = learner.take_taps();
            if layer >= lowest {
                passed.push((input, (!self.settings.recompute).then_some((output, taps))));
            }
        }
        let top = if lowest < layers { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
        let mut sums = Sums::default();
        let (losses, mut grad) = self.score(&mut learner, batch, &top, Some((weight, labels, &mut sums)))?;
        for layer in (lowest..layers).rev() {
            let (Some((input, output)), Some(above)) = (passed.pop(), grad.take()) else { break };
            let (output, taps) = match output {
                Some(output) => output,
                None => (walk_layer(&mut learner, layer, input.clone(), &batch.step)?, learner.take_taps()),
            };
            let found = (output * &above)?.sum_all()?.backward()?;
            sums.collect(&self.changes, layer, &found)?;
            self.note(taps, &found, batch.real.as_ref())?;
            grad = found.get(&input).cloned();
        }
        Ok((losses, sums))
    }
}

impl Trainable for Autograd {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> std::result::Result<(), EngineError> {
        let Some(change) = self.changes.get_mut(&place) else { return Ok(()) };
        change.set(a, b)?;
        if change.decomposed.is_some() {
            change.renew(&self.model.matrix(place)?)?;
        }
        Ok(())
    }

    fn set_magnitude(&mut self, place: Place, magnitude: &[f32]) -> std::result::Result<(), EngineError> {
        self.changes.get(&place).map_or(Ok(()), |change| change.set_magnitude(magnitude))
    }

    fn decompose(&mut self) -> std::result::Result<Magnitudes, EngineError> {
        let plain = self.changes.iter_mut().filter(|(_, change)| change.decomposed.is_none());
        plain.map(|(place, change)| Ok((*place, change.decompose(&self.model.matrix(*place)?)?))).collect()
    }

    fn loss(&self, sequences: &[Scored<'_>]) -> std::result::Result<f64, EngineError> {
        let batch = Batch::new(sequences, &self.model)?;
        Ok(total(&self.losses(&batch)?)?)
    }

    fn accumulate_all(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        gradients: &mut Gradients,
        magnitudes: &mut Magnitudes,
    ) -> std::result::Result<f64, EngineError> {
        let (losses, sums) = self.differentiate(&Batch::new(sequences, &self.model)?, labels, weight)?;
        sums.add_to(gradients, magnitudes)?;
        Ok(total(&losses)?)
    }

    fn log_likelihoods(&self, sequences: &[Scored<'_>], tokens: &[u32]) -> std::result::Result<Vec<f64>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        let ids = Tensor::new(tokens, &self.model.device)?;
        let rows = self.outputs(sequences, |logits| {
            let picked = logits.index_select(&ids, 1)?.broadcast_sub(&log_sum_exp(logits)?)?;
            picked.to_vec2::<f32>()
        })?;
        Ok(rows.into_iter().flatten().map(f64::from).collect())
    }

    fn top_logits(&self, sequences: &[Scored<'_>], count: usize) -> std::result::Result<Vec<TopLogits>, EngineError> {
        let rows = self.outputs(sequences, |logits| logits.to_vec2::<f32>())?;
        Ok(rows.iter().map(|logits| TopLogits::of(logits, count)).collect())
    }

    fn note_flows(&mut self, noted: Option<Noted>) {
        self.flows = Mutex::new(Flows::new(noted));
    }

    fn take_flows(&mut self) -> std::result::Result<BTreeMap<Place, Flow>, EngineError> {
        let flows = self.flows.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(flows.take(&self.model.spec, self.changes.keys())?)
    }
}

/// Widens all matrices but the embedding.
fn widen(model: &mut Model) -> Result<()> {
    let widen = |linear: &mut Linear| -> Result<()> {
        *linear = Linear::Dense(linear.dense()?);
        Ok(())
    };
    model.layers.iter_mut().flat_map(Layer::matrices_mut).try_for_each(widen)?;
    widen(&mut model.output)
}
