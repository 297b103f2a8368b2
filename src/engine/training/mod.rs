//! Losses and gradients of low-rank adapters over a frozen model.
//!
//! Everything runs in f32 on our kernels, with a backward pass of its own: frozen matrices get no
//! gradient, matrices that read the same input are one product in both directions, and nothing is
//! computed below the lowest adapter. With [`TraineeSettings::recompute`] a layer's activations are
//! computed again when its turn comes, and not kept (gradient checkpointing, arXiv 1604.06174). Logits
//! exist only at scored positions, and for [`LOGIT_BYTES`] of them at a time.
mod attention;
mod changes;
mod dropout;
mod group;
mod layers;
mod learner;
mod low_rank;
mod outputs;
mod rows;
mod trainable;
mod workers;

use std::{collections::BTreeMap, num::NonZeroUsize};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Adapter, EngineError, Tier,
    adapter::check,
    places::{Place, Target},
};
use crate::model::{
    decoder::{Executor, Segment, Step, walk_layer},
    weights::Weights,
};
use changes::{Changed, Pair, Sums};
pub use changes::{Flow, Noted};
pub use dropout::Dropout;
use layers::Model;
use learner::{Learner, Tape};
pub use outputs::TopLogits;
use rows::{distance, drawn, likelihood};
pub use trainable::{Trainable, trainee};
use workers::Workers;

/// The most memory of logits at once.
const LOGIT_BYTES: usize = 64 << 20;

/// How a model is held while adapters learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraineeSettings {
    /// Whether matrices and their transposes are widened to f32 once, which takes eight bytes a weight,
    /// and not at every use.
    pub widen: bool,
    /// Whether activations are computed again in the backward pass, and not kept.
    pub recompute: bool,
}

/// A sequence to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored<'a> {
    /// Its tokens, at least two.
    pub tokens: &'a [u32],
    /// Tokens at its beginning that are not scored, such as a prompt; the first token never is.
    pub prompt: usize,
}

impl Scored<'_> {
    /// Returns how many of its tokens are scored.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tokens.len().saturating_sub(self.prompt.max(1))
    }
}

/// The gradients of A and B of each place.
pub type Gradients = BTreeMap<Place, (Vec<f32>, Vec<f32>)>;

/// Magnitudes of decomposed changes (DoRA), or their gradients: a number a row.
pub type Magnitudes = BTreeMap<Place, Vec<f32>>;

/// What predictions are held against where gradients are made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Labels<'a> {
    /// The tokens of the text.
    #[default]
    Data,
    /// Tokens drawn from the model at each position, after the text's own tokens: their gradients have mean 0, and
    /// the squares of these the Fisher information for mean, even when summed over positions and sequences
    /// first.
    Drawn {
        /// What they are drawn by.
        seed: u64,
    },
    /// Logits that were kept of every scored position, see [`Trainable::top_logits`]: the loss of a position is
    /// the mean square of how far they are from those now (DER, arXiv 2004.07211).
    Kept(&'a [TopLogits]),
}

/// A frozen model with adapters that learn, on our kernels: what it does is in [`Trainable`].
pub struct Trainee {
    model: Model,
    pairs: BTreeMap<Place, Pair>,
    settings: TraineeSettings,
    workers: Workers,
    dropout: Option<Dropout>,
}

impl Trainee {
    /// Returns the model with these changes, which are what learns, on all threads the process may use.
    ///
    /// # Errors
    ///
    /// If the weights lack something, or a change does not fit its matrix.
    pub fn load(weights: &Weights, adapter: &Adapter, settings: TraineeSettings) -> Result<Self, EngineError> {
        Self::load_on(weights, adapter, settings, None, None)
    }

    /// Returns what [`Self::load`] does, on so many threads, with the kernels of this tier. Results do not
    /// depend on the number of threads.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_on(
        weights: &Weights,
        adapter: &Adapter,
        settings: TraineeSettings,
        threads: Option<NonZeroUsize>,
        tier: Option<Tier>,
    ) -> Result<Self, EngineError> {
        check(adapter, weights.spec())?;
        let workers = Workers::new(threads, tier)?;
        let model = Model::load(weights, &workers, settings.widen)?;
        let pairs = adapter.iter().map(|(place, change)| (*place, Pair::new(change))).collect();
        let mut trainee = Self { model, pairs, settings, workers, dropout: None };
        for (place, change) in adapter {
            if let Some(magnitude) = &change.magnitude {
                trainee.decompose_one(*place, Some(magnitude))?;
            }
        }
        Ok(trainee)
    }

    /// Makes one change a decomposed one, with the norms of its rows as magnitudes where none are given.
    fn decompose_one(&mut self, place: Place, magnitude: Option<&[f32]>) -> Result<Vec<f32>, EngineError> {
        let decomposition = self.changed(place).map(|changed| changed.decomposed(place.target)).transpose()?.flatten();
        let (Some(decomposition), Some(pair)) = (decomposition, self.pairs.get_mut(&place)) else {
            return Err(EngineError::Adapter(format!("it adds to the {place}, which the model has not")));
        };
        let norms = pair.decompose(decomposition).to_vec();
        let Some(magnitude) = magnitude else { return Ok(norms) };
        pair.set_magnitude(magnitude)?;
        Ok(magnitude.to_vec())
    }

    /// Returns the matrices that a place is among, with their changes.
    fn changed(&self, place: Place) -> Option<Changed<'_>> {
        let group = match (self.model.layers.get(place.layer), place.target) {
            (_, Target::Head) => &self.model.output,
            (Some(layer), Target::Query | Target::Key | Target::Value) => &layer.projections,
            (Some(layer), Target::Output) => &layer.attention_output,
            (Some(layer), Target::Gate | Target::Up) => &layer.gated,
            (Some(layer), Target::Down) => &layer.down,
            (None, _) => return None,
        };
        Some(Changed { group, layer: place.layer, pairs: &self.pairs, workers: &self.workers, dropout: None })
    }

    fn learner<'a>(&'a self, step: &'a Step, dropout: Option<Dropout>) -> Learner<'a> {
        Learner::new(&self.model, &self.pairs, &self.workers, step, dropout)
    }

    /// Returns what goes into the head at every position that predicts.
    fn normed(&self, sequences: &[Scored<'_>]) -> Result<Vec<f32>, EngineError> {
        let step = self.step(sequences)?;
        let mut learner = self.learner(&step, None);
        let mut hidden = learner.embed(&step)?;
        for layer in 0..self.model.spec.layers {
            hidden = walk_layer(&mut learner, layer, hidden, &step)?;
        }
        learner.head(hidden, &step)
    }

    fn add_gradients(
        &self,
        sequences: &[Scored<'_>],
        labels: Labels<'_>,
        weight: f64,
        sums: &mut Sums,
    ) -> Result<f64, EngineError> {
        let step = self.step(sequences)?;
        let layers = self.model.spec.layers;
        let lowest = self.pairs.keys().map(|place| place.layer).min().unwrap_or(layers);
        let mut learner = self.learner(&step, self.dropout);
        let mut hidden = learner.embed(&step)?;
        let mut tapes: Vec<Tape> = Vec::new();
        for layer in 0..layers {
            hidden = walk_layer(&mut learner, layer, hidden, &step)?;
            if layer >= lowest {
                let tape = std::mem::take(&mut learner.tape);
                tapes.push(if self.settings.recompute { tape.only_input() } else { tape });
            }
        }
        let normed = learner.head(hidden.clone(), &step)?;
        let (loss, mut grad) = self.score(sequences, &normed, Some((weight, labels, sums)))?;
        if lowest == layers {
            return Ok(loss);
        }
        let eps = self.model.spec.rms_norm_eps as f32;
        self.workers.norm_back(&hidden, &self.model.output_norm, eps, &mut grad);
        for layer in (lowest..layers).rev() {
            let Some(mut tape) = tapes.pop() else { break };
            if self.settings.recompute {
                walk_layer(&mut learner, layer, tape.input, &step)?;
                tape = std::mem::take(&mut learner.tape);
            }
            match learner.backward(layer, tape, &grad, layer > lowest, sums)? {
                Some(below) => grad = below,
                None => break,
            }
        }
        Ok(loss)
    }

    fn step(&self, sequences: &[Scored<'_>]) -> Result<Step, EngineError> {
        let (vocab_size, context_length) = (self.model.spec.vocab_size, self.model.spec.context_length);
        let mut step = Step::default();
        for (index, Scored { tokens, prompt: _ }) in (0..).zip(sequences) {
            let inputs = tokens.len().saturating_sub(1);
            if inputs == 0 {
                return Err(EngineError::EmptyChunk);
            }
            if inputs > context_length {
                return Err(EngineError::ContextFull { needed: inputs, context_length });
            }
            if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
                return Err(EngineError::TokenOutOfRange { token, vocab_size });
            }
            let start = step.tokens.len();
            step.tokens.extend(&tokens[..inputs]);
            step.positions.extend((0u32..).take(inputs));
            step.segments.push(Segment { sequence: index, rows: start..start + inputs, past: 0 });
        }
        if step.segments.is_empty() { Err(EngineError::EmptyChunk) } else { Ok(step) }
    }

    /// Returns the loss of normed rows and, where gradients are wanted, that of the rows.
    fn score(
        &self,
        sequences: &[Scored<'_>],
        normed: &[f32],
        mut wanted: Option<(f64, Labels<'_>, &mut Sums)>,
    ) -> Result<(f64, Vec<f32>), EngineError> {
        let (spec, workers) = (&self.model.spec, &self.workers);
        let (e, v) = (spec.hidden_size, spec.vocab_size);
        let scored = predicting(sequences);
        let kept = match wanted {
            Some((_, Labels::Kept(kept), _)) => Some(kept),
            _ => None,
        };
        if let Some(kept) = kept.filter(|kept| kept.len() != scored.len()) {
            let what = format!("hold {} positions against logits of {}", scored.len(), kept.len());
            return Err(EngineError::Unsupported { engine: "training", what });
        }
        let mut head =
            Changed { group: &self.model.output, layer: spec.layers, pairs: &self.pairs, workers, dropout: None };
        let dropout = self.dropout.filter(|_| wanted.is_some());
        let cap = spec.logit_softcap.map(|cap| cap as f32);
        let weight = wanted.as_ref().map_or(1.0, |(weight, ..)| *weight as f32);
        let mut random = match wanted {
            Some((_, Labels::Drawn { seed }, _)) => Some(ChaCha8Rng::seed_from_u64(seed)),
            _ => None,
        };
        let mut grad = vec![0.0; if wanted.is_some() { normed.len() } else { 0 }];
        let mut loss = 0.0;
        let most = (LOGIT_BYTES / 4 / v).max(16);
        for (at, scored) in scored.chunks(most).enumerate() {
            head.dropout = dropout.map(|dropout| (dropout, at * most));
            let rows = rows_of(normed, scored, e);
            let mut narrows = Vec::new();
            let mut logits = head.forward(&rows, &mut narrows)?;
            let mut losses = vec![0.0; scored.len()];
            let mut share = || random.as_mut().map(|random| random.random::<f64>());
            let shares: Vec<Option<f64>> = scored.iter().map(|_| share()).collect();
            let kept: Vec<Option<&TopLogits>> =
                (at * most..).take(scored.len()).map(|at| kept.map(|kept| &kept[at])).collect();
            let targets = scored.iter().zip(shares).zip(kept);
            let parts = logits.chunks_exact_mut(v).zip(losses.iter_mut()).zip(targets);
            workers.each(parts, |((logits, loss), (((_, target), share), kept))| {
                if let Some(kept) = kept {
                    *loss = distance(workers.kernels, logits, kept, cap, weight);
                    return;
                }
                let target = share.map_or(*target, |share| drawn(workers.kernels, logits, cap, share));
                *loss = likelihood(workers.kernels, logits, target, cap, weight);
            });
            loss += losses.iter().sum::<f64>();
            let Some((.., sums)) = &mut wanted else { continue };
            let Some(below) = head.backward(&rows, &logits, &narrows, true, sums)? else { continue };
            for ((row, _), below) in scored.iter().zip(below.chunks_exact(e)) {
                grad[row * e..][..e].copy_from_slice(below);
            }
        }
        Ok((loss, grad))
    }
}

/// Returns the rows of these positions, `[positions, width]`.
fn rows_of(all: &[f32], scored: &[(usize, usize)], width: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(scored.len() * width);
    scored.iter().for_each(|(row, _)| rows.extend_from_slice(&all[row * width..][..width]));
    rows
}

/// Returns the rows that predict a scored token, and that token.
fn predicting(sequences: &[Scored<'_>]) -> Vec<(usize, usize)> {
    let mut rows = Vec::new();
    let mut start = 0;
    for Scored { tokens, prompt } in sequences {
        let scored = tokens.iter().enumerate().skip((*prompt).max(1));
        rows.extend(scored.map(|(at, token)| (start + at - 1, *token as usize)));
        start += tokens.len() - 1;
    }
    rows
}
