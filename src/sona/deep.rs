//! The deep loop: what the fast loops learned moves into an adapter of the whole model.
mod fold;

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::SonaError;
use crate::{
    adapt::{
        ewc::{Block, Convention, Space, Strength, Term, normalize},
        optim::{AdamW, Moments, clip_factor, global_norm},
        train::fresh,
    },
    engine::{Adapter, EngineError, Flow, Gradients, Labels, LowRank, Noted, Place, Scored, Target, Trainable},
    model::spec::ModelSpec,
};

/// How the deep loop learns.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepSettings {
    /// r of the adapter.
    pub rank: usize,
    /// What its product is multiplied by.
    pub scale: f64,
    /// The matrices it is on, the head besides: that is where the fast loops' adapters are folded into.
    pub targets: Vec<Target>,
    /// The peak learning rate; it falls to 0 in a straight line.
    pub learning_rate: f64,
    /// Updates of a transaction.
    pub steps: u64,
    /// Kept requests in an update; beside them two sequences of general text.
    pub batch: usize,
    /// Sequences drawn from the state before, and learned beside kept requests: two an update.
    pub distilled: usize,
    /// λ of the pull to what mattered before, with λ/2.
    pub lambda: f64,
    /// γ: how much of the importances of earlier transactions stays.
    pub decay: f64,
    /// Batches behind an estimate of importances.
    pub fisher_batches: usize,
    /// By how much, relative, the loss on general text may be above that of the model as it came.
    pub max_drift: f64,
    /// The gradient's largest norm.
    pub max_grad_norm: f64,
    /// Requests kept to judge transactions by, and used for nothing else: what is chosen by its loss on requests looks
    /// better on them than it is.
    pub jury: usize,
    /// When a transaction is due.
    pub when: When,
}

/// When a transaction of the deep loop is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// After so many requests.
    pub every_requests: u64,
    /// When none came for so long, and any since the last transaction; never when absent.
    pub idle: Option<Duration>,
}

impl When {
    /// Returns whether one is due, so many requests after the last and with none for so long.
    #[must_use]
    pub fn is_due(&self, since: u64, idle: Duration) -> bool {
        since >= self.every_requests || since > 0 && self.idle.is_some_and(|least| idle >= least)
    }
}

/// What the training of a transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Course {
    pub(super) predicted_decrease: f64,
    pub(super) grad_norm: f64,
}

/// The weight of what is distilled, next to that of kept requests, and its sequences in an update.
const DISTILLED_SHARE: f64 = 0.5;
const DISTILLED_BATCH: usize = 2;

/// The same of general text.
const GENERAL_SHARE: f64 = 1.0;
const GENERAL_BATCH: usize = 2;

/// An adapter of a model's layers and head, and what protects what it knows.
pub struct Deep {
    pub(super) settings: DeepSettings,
    trainee: Box<dyn Trainable>,
    /// General text that is learned again beside kept requests.
    general: Vec<Vec<u32>>,
    space: Space,
    /// The one that serves, or is about to.
    pub(super) adapter: Adapter,
    /// What must stay: what the model came with, and what transactions brought.
    pub(super) terms: Vec<Term<f32>>,
}

impl std::fmt::Debug for Deep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deep").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Deep {
    /// Returns the adapter it begins with, which changes nothing: to load a [`Trainable`] with.
    #[must_use]
    pub fn beginning(settings: &DeepSettings, spec: &ModelSpec, seed: u64) -> Adapter {
        let mut targets = settings.targets.clone();
        if !targets.contains(&Target::Head) {
            targets.push(Target::Head);
        }
        fresh(spec, &targets, settings.rank, settings.scale, seed)
    }

    /// Returns a loop that has learned nothing; `trainee` was loaded with its [`Self::beginning`]. What of the
    /// model matters for `general` text is found here; the text itself is learned again with every transaction.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate_of`].
    pub fn new(
        settings: DeepSettings,
        trainee: Box<dyn Trainable>,
        beginning: Adapter,
        general: Vec<Vec<u32>>,
        random: &mut ChaCha8Rng,
    ) -> Result<Self, EngineError> {
        let block = |(place, change): (&Place, &LowRank)| {
            let (outputs, inputs) = place.target.shape(trainee.spec());
            Block::Outer { outputs, inputs, rank: change.rank, scale: f64::from(change.scale) }
        };
        let space = Space { blocks: beginning.iter().map(block).collect() };
        let mut deep = Self { settings, space, trainee, general: Vec::new(), adapter: beginning, terms: Vec::new() };
        let importance = deep.importance(&unprompted(&general), random)?;
        deep.general = general;
        deep.terms = vec![Term { anchor: deep.parameters(), importance }];
        Ok(deep)
    }

    /// Returns the adapter.
    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Returns the pulls to what mattered before.
    #[must_use]
    pub fn terms(&self) -> &[Term<f32>] {
        &self.terms
    }

    /// Returns the penalty for how far the adapter is from what mattered, `(λ/2) Σ F D²`.
    #[must_use]
    pub fn penalty(&self) -> f64 {
        let parameters = self.parameters();
        let of = |term: &Term<f32>| self.space.half_square(&term.importance, &term.anchor, &parameters);
        self.strength().slope() * self.terms.iter().map(of).sum::<f64>()
    }

    fn strength(&self) -> Strength {
        Strength { lambda: self.settings.lambda, convention: Convention::Half }
    }

    fn parameters(&self) -> Vec<f32> {
        self.adapter.values().flat_map(|change| change.a.iter().chain(&change.b)).copied().collect()
    }

    /// Puts other values in the adapter and in the model that learns.
    fn put(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let mut rest = parameters;
        for change in self.adapter.values_mut() {
            for own in [&mut change.a, &mut change.b] {
                let (values, others) = rest.split_at(own.len());
                own.copy_from_slice(values);
                rest = others;
            }
        }
        self.settle()
    }

    /// Gives the model that learns the adapter's values.
    pub(super) fn settle(&mut self) -> Result<(), EngineError> {
        self.adapter.iter().try_for_each(|(place, change)| self.trainee.set(*place, &change.a, &change.b))
    }

    /// Goes on from another adapter.
    pub(super) fn take(&mut self, adapter: Adapter) -> Result<(), EngineError> {
        self.adapter = adapter;
        self.settle()
    }

    /// Learns kept requests, general text and what was drawn from the state before, and is pulled to what mattered.
    pub(super) fn train(
        &mut self,
        kept: &[Scored<'_>],
        distilled: &[Scored<'_>],
        random: &mut ChaCha8Rng,
    ) -> Result<Course, SonaError> {
        let mut course = Course::default();
        let general = std::mem::take(&mut self.general);
        let result = self.descend((kept, distilled, &unprompted(&general)), random, &mut course);
        self.general = general;
        result.map(|()| course)
    }

    fn descend(
        &mut self,
        (kept, distilled, general): (&[Scored<'_>], &[Scored<'_>], &[Scored<'_>]),
        random: &mut ChaCha8Rng,
        course: &mut Course,
    ) -> Result<(), SonaError> {
        let mut parameters = self.parameters();
        let mut moments = Moments::new(parameters.len());
        for step in 0..self.settings.steps {
            let mut gradients = Gradients::new();
            for (from, count, weight) in [
                (kept, self.settings.batch, 1.0),
                (distilled, DISTILLED_BATCH, DISTILLED_SHARE),
                (general, GENERAL_BATCH, GENERAL_SHARE),
            ] {
                let batch: Vec<Scored<'_>> = match from.len() {
                    0 => continue,
                    all => (0..count).map(|_| from[random.random_range(0..all)]).collect(),
                };
                let tokens: usize = batch.iter().map(Scored::count).sum();
                self.trainee.accumulate(&batch, weight / tokens as f64, &mut gradients)?;
            }
            let gradient = self.flat(&gradients);
            course.grad_norm = global_norm([gradient.as_slice()]);
            let factor = clip_factor(course.grad_norm, self.settings.max_grad_norm) as f32;
            let clipped: Vec<f32> = gradient.iter().map(|value| value * factor).collect();
            let rate = self.settings.learning_rate * (1.0 - step as f64 / self.settings.steps as f64);
            let before = parameters.clone();
            AdamW::default().step(step + 1, (rate, 0.0), &mut parameters, &clipped, &mut moments);
            self.space.pull(rate * self.strength().slope(), &self.terms, &mut parameters);
            let moved = gradient.iter().zip(before.iter().zip(&parameters));
            course.predicted_decrease += moved.map(|(g, (b, p))| f64::from(*g) * f64::from(b - p)).sum::<f64>();
            self.put(&parameters)?;
        }
        Ok(())
    }

    /// Takes note of what matters now that a transaction is committed: `F ← γ F + F_new`, at the new place.
    pub(super) fn consolidate(&mut self, kept: &[Scored<'_>], random: &mut ChaCha8Rng) -> Result<(), EngineError> {
        let mut importance = self.importance(kept, random)?;
        if let Some(Term { importance: before, .. }) = self.terms.get(1) {
            let decay = self.settings.decay as f32;
            importance.iter_mut().zip(before).for_each(|(new, old)| *new += decay * old);
        }
        self.terms.truncate(1);
        self.terms.push(Term { anchor: self.parameters(), importance });
        Ok(())
    }

    /// Returns the importances of rank 1, of mean 1, of labels drawn from the model on these sequences.
    fn importance(&mut self, of: &[Scored<'_>], random: &mut ChaCha8Rng) -> Result<Vec<f32>, EngineError> {
        let mut sum = vec![0.0; self.space.importances()];
        if of.is_empty() {
            return Ok(sum);
        }
        self.trainee.note_flows(Some(Noted::Squares));
        for _ in 0..self.settings.fisher_batches {
            let batch: Vec<Scored<'_>> =
                (0..self.settings.batch).map(|_| of[random.random_range(0..of.len())]).collect();
            let tokens: usize = batch.iter().map(Scored::count).sum();
            let labels = Labels::Drawn { seed: random.random() };
            self.trainee.accumulate_of(&batch, labels, 1.0 / tokens as f64, &mut Gradients::new())?;
            let flows = self.trainee.take_flows()?;
            let more = flows.values().flat_map(|Flow { inputs, outputs, .. }| outputs.iter().chain(inputs));
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.trainee.note_flows(None);
        normalize(&self.space, &mut sum);
        Ok(sum)
    }

    fn flat(&self, gradients: &Gradients) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.space.parameters());
        for (place, change) in &self.adapter {
            match gradients.get(place) {
                Some((a, b)) => flat.extend(a.iter().chain(b)),
                None => flat.resize(flat.len() + change.a.len() + change.b.len(), 0.0),
            }
        }
        flat
    }
}

/// Returns sequences that count from their first token on.
fn unprompted(sequences: &[Vec<u32>]) -> Vec<Scored<'_>> {
    sequences.iter().map(|tokens| Scored { tokens, prompt: 0 }).collect()
}
