//! The training that goes from task to task.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    boundary::{MeanShift, Watch},
    memory::{Kept, Memory},
    protection::{Distillation, Geometry, Protection, Source},
    subspaces::{Factors, Subspaces},
};
use crate::{
    adapt::{
        data::Example,
        ewc::{Block, Method, Needs, Observation, Regularizer, Space, Statistics},
        optim::{AdamW, Moments, clip_factor, descend, global_norm},
        schedule::Schedule,
        train::{Rule, drawn},
    },
    engine::{Adapter, EngineError, Gradients, Labels, LowRank, Place, Scored, Trainable},
};

/// How updates are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Updates {
    /// The learning rate; every task has the schedule to itself.
    pub schedule: Schedule,
    /// The rule; it remembers nothing of the task before.
    pub rule: Rule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient's largest global norm.
    pub max_grad_norm: Option<f64>,
    /// Sequences in an update.
    pub batch: usize,
}

/// An adapter on its way through the tasks.
pub struct ContinualTrainer {
    pub(super) trainee: Box<dyn Trainable>,
    pub(super) places: Vec<(Place, Factors)>,
    /// A, then B, of each place.
    pub(super) parameters: Vec<f32>,
    pub(super) space: Space,
    pub(super) regularizer: Box<dyn Regularizer<f32>>,
    pub(super) protection: Protection,
    pub(super) updates: Updates,
    pub(super) random: ChaCha8Rng,
    memory: Option<Memory>,
    subspaces: Option<Subspaces>,
    watch: Option<Watch>,
    moments: Moments<f32>,
    /// Updates since the task began.
    step: u64,
}

impl ContinualTrainer {
    /// Returns one that begins with this adapter, which the trainee was loaded with.
    ///
    /// # Errors
    ///
    /// If `RWalk` is asked for with importances of rank 1.
    pub fn new(
        trainee: impl Into<Box<dyn Trainable>>,
        adapter: &Adapter,
        protection: Protection,
        updates: Updates,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let (trainee, penalty) = (trainee.into(), protection.penalty);
        if matches!((penalty.method, penalty.geometry), (Method::RWalk { .. }, Geometry::Outer)) {
            let what = "score the path of single elements with importances of rank 1".to_owned();
            return Err(EngineError::Unsupported { engine: "training", what });
        }
        let block = |(place, change): (&Place, &LowRank)| {
            let (outputs, inputs) = place.target.shape(trainee.spec());
            let (rank, scale) = (change.rank, f64::from(change.scale));
            match penalty.geometry {
                Geometry::Factors => Block::Plain { count: change.a.len() + change.b.len() },
                Geometry::Product => Block::Product { outputs, inputs, rank, scale },
                Geometry::Outer => Block::Outer { outputs, inputs, rank, scale },
            }
        };
        let factors = |change: &LowRank| Factors { rank: change.rank, a: change.a.len(), b: change.b.len() };
        let places: Vec<_> = adapter.iter().map(|(place, change)| (*place, factors(change))).collect();
        let shapes = || places.iter().map(|(_, factors)| *factors).collect();
        let parameters: Vec<f32> =
            adapter.values().flat_map(|change| change.a.iter().chain(&change.b)).copied().collect();
        let mut trainer = Self {
            space: Space { blocks: adapter.iter().map(block).collect() },
            regularizer: penalty.method.begin(penalty.normalized),
            memory: protection.rehearsal.map(Memory::new),
            subspaces: protection.orthogonality.map(|orthogonality| Subspaces::new(orthogonality, shapes())),
            watch: None,
            moments: Moments::new(parameters.len()),
            step: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
            trainee,
            places,
            parameters,
            protection,
            updates,
        };
        trainer.note(trainer.regularizer.needs() == Needs::EveryStep);
        Ok(trainer)
    }

    /// Ends tasks by itself from now on, where losses say that another one has begun.
    pub fn watch(&mut self, shift: MeanShift) {
        self.watch = Some(Watch::new(shift, &self.parameters));
    }

    /// Returns the updates, counted from 1, after which it found that a task had ended.
    #[must_use]
    pub fn found(&self) -> &[u64] {
        self.watch.as_ref().map_or(&[], Watch::found)
    }

    /// Returns the mean negative log-likelihood of all scored tokens, and how many they are.
    ///
    /// # Errors
    ///
    /// As [`Trainable::loss`].
    pub fn score(&self, examples: &[Example]) -> Result<(f64, usize), EngineError> {
        let (mut sum, mut count) = (0.0, 0);
        for batch in examples.chunks(self.updates.batch.max(1)) {
            let batch: Vec<Scored<'_>> = batch.iter().map(Example::scored).collect();
            sum += self.trainee.loss(&batch)?;
            count += batch.iter().map(Scored::count).sum::<usize>();
        }
        Ok((sum / count.max(1) as f64, count))
    }

    /// Learns from a task's data, or from all at once, for so many updates.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate`].
    pub fn learn(&mut self, data: &[Example], steps: u64, order: u64) -> Result<(), EngineError> {
        for step in 0..steps {
            let draws = (step * self.updates.batch as u64..).take(self.updates.batch);
            let batch: Vec<&Example> = draws.map(|at| &data[drawn(data.len(), order, at)]).collect();
            let loss = self.update(&batch)?;
            self.look(loss, &batch, order)?;
        }
        Ok(())
    }

    /// Takes note of a loss, and ends the task where it says so: as it was before losses began to rise, and not
    /// where that was noticed.
    fn look(&mut self, loss: f64, batch: &[&Example], order: u64) -> Result<(), EngineError> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let Some((task, before)) = watch.look(loss, batch, &self.parameters) else { return Ok(()) };
        let now = std::mem::replace(&mut self.parameters, before);
        self.put()?;
        if !task.is_empty() {
            self.end(&task, order)?;
        }
        self.parameters = now;
        self.put()
    }

    /// Makes an update, and returns the mean loss of these examples before it.
    fn update(&mut self, batch: &[&Example]) -> Result<f64, EngineError> {
        let (gradients, loss) = self.gradients(batch)?;
        let flows = self.flows()?;
        let seen = if self.regularizer.needs() == Needs::EveryStep {
            let fisher = match self.protection.penalty.source {
                Source::Sampled => {
                    let labels = Labels::Drawn { seed: self.random.random() };
                    let (gradients, flows) = self.single(batch, labels)?;
                    self.squared(&gradients, &flows)
                }
                Source::Empirical | Source::Batched => self.squared(&gradients, &flows),
            };
            Some((fisher, self.in_space(&gradients, &flows), self.positions()))
        } else {
            None
        };
        let gradient = self.flat(&gradients);
        self.descend(gradient);
        self.put()?;
        if let Some((fisher, gradient, before)) = seen {
            let mut moved = self.positions();
            moved.iter_mut().zip(&before).for_each(|(now, before)| *now -= before);
            self.regularizer.observe(&Observation { fisher: &fisher, gradient: &gradient, moved: &moved });
        }
        Ok(loss)
    }

    /// Moves parameters down a gradient, and to where earlier tasks had been.
    fn descend(&mut self, mut gradient: Vec<f32>) {
        let before = self.subspaces.as_ref().map(|subspaces| {
            subspaces.constrain(&self.parameters, &mut gradient);
            self.parameters.clone()
        });
        if let Some(most) = self.updates.max_grad_norm {
            let factor = clip_factor(global_norm([gradient.as_slice()]), most) as f32;
            gradient.iter_mut().for_each(|value| *value *= factor);
        }
        let rate = self.updates.schedule.at(self.step);
        let rates = (rate.learning_rate, self.updates.weight_decay);
        match self.updates.rule {
            Rule::Sgd => descend(rates, &mut self.parameters, &gradient),
            Rule::AdamW(adam) => {
                let adam = AdamW { beta1: rate.momentum.unwrap_or(adam.beta1), ..adam };
                adam.step(self.step + 1, rates, &mut self.parameters, &gradient, &mut self.moments);
            }
        }
        self.step += 1;
        let Self { regularizer, space, protection, parameters, subspaces, .. } = self;
        if let Some((subspaces, before)) = subspaces.as_ref().zip(before) {
            subspaces.restore(&before, parameters);
        }
        regularizer.pull(space, protection.penalty.strength, rate.learning_rate, parameters);
    }

    /// Returns the gradients of the mean loss of these examples, and of as many of earlier tasks where such are
    /// kept; and the loss of these alone.
    fn gradients(&mut self, batch: &[&Example]) -> Result<(Gradients, f64), EngineError> {
        let Self { memory, trainee, random, .. } = self;
        let mut gradients = Gradients::new();
        let mut add = |batch: &[&Example], labels: Labels<'_>, weight: f64| match batch {
            [] => Ok(0.0),
            batch => trainee.accumulate_of(&scored(batch), labels, weight, &mut gradients),
        };
        let new = tokens(batch);
        let Some(memory) = memory else {
            let loss = add(batch, Labels::Data, 1.0 / new)?;
            return Ok((gradients, loss / new));
        };
        let again = memory.draw(batch.len(), random);
        let old = examples(&again);
        let loss = if let Some(Distillation { logits_weight, labels_weight, .. }) = memory.rehearsal.distillation {
            let others = examples(&memory.draw(batch.len(), random));
            let logits: Vec<_> = again.iter().flat_map(|kept| &kept.logits).cloned().collect();
            add(&old, Labels::Kept(&logits), logits_weight / tokens(&old))?;
            add(&others, Labels::Data, labels_weight / tokens(&others))?;
            add(batch, Labels::Data, 1.0 / new)?
        } else {
            let all = if old.is_empty() { new } else { new + tokens(&old) };
            add(&old, Labels::Data, 1.0 / all)?;
            add(batch, Labels::Data, 1.0 / all)?
        };
        Ok((gradients, loss / new))
    }

    /// Ends a task that was learned from this data: makes its importances, keeps some of its examples, and goes
    /// on to other factors, as the protection wants. Where tasks end by themselves this does nothing.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate`].
    pub fn finish(&mut self, data: &[Example], order: u64) -> Result<Option<Statistics>, EngineError> {
        if self.watch.is_some() { Ok(None) } else { self.end(data, order) }
    }

    fn end(&mut self, data: &[Example], order: u64) -> Result<Option<Statistics>, EngineError> {
        if let Some(memory) = &mut self.memory {
            let own = (0..data.len() as u64).map(|at| data[drawn(data.len(), order, at)].clone());
            memory.keep(own, self.trainee.as_ref())?;
        }
        if let Some(subspaces) = &mut self.subspaces {
            subspaces.advance();
        }
        let fisher =
            if self.regularizer.needs() == Needs::AtTheEnd { self.importance(data, order)? } else { Vec::new() };
        (self.step, self.moments) = (0, Moments::new(self.parameters.len()));
        let Self { regularizer, space, parameters, .. } = self;
        Ok(regularizer.consolidate(space, parameters, &fisher))
    }

    fn put(&mut self) -> Result<(), EngineError> {
        let mut start = 0;
        for (place, factors) in &self.places {
            let (a, b) = self.parameters[start..start + factors.a + factors.b].split_at(factors.a);
            self.trainee.set(*place, a, b)?;
            start += factors.a + factors.b;
        }
        Ok(())
    }
}

pub(super) fn scored<'a>(examples: &[&'a Example]) -> Vec<Scored<'a>> {
    examples.iter().map(|example| example.scored()).collect()
}

fn examples<'a>(kept: &[&'a Kept]) -> Vec<&'a Example> {
    kept.iter().map(|kept| &kept.example).collect()
}

/// Returns how many tokens are scored, at least one.
pub(super) fn tokens(examples: &[&Example]) -> f64 {
    examples.iter().map(|example| example.scored().count()).sum::<usize>().max(1) as f64
}
