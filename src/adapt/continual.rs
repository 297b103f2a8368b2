//! Learning tasks one after the other: one adapter that goes from task to task, and what keeps it from
//! forgetting the earlier ones.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    ewc::{Block, Method, Needs, Observation, Regularizer, Space, Statistics, Strength},
    optim::{Moments, clip_factor, descend, global_norm},
    schedule::Schedule,
    train::{Rule, drawn},
};
use crate::{
    engine::{
        Adapter, EngineError, Flow, Gradients, Labels, Noted, Place, Scored, Trainable, Trainee, TraineeSettings,
    },
    model::weights::Weights,
};

/// Where a penalty is measured, see [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// On A and B, number by number.
    Factors,
    /// On s B A, with an importance for each element.
    Product,
    /// On s B A, with importances of rank 1: `E δ²` of the outputs by `E x²` of the inputs.
    Outer,
}

/// Whose gradients importances are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Labels drawn from the model, squared a batch at a time: unbiased.
    Sampled,
    /// The text's labels, squared a sequence at a time.
    Empirical,
    /// The text's labels, squared a batch at a time. With importances of rank 1 the squares are those of
    /// single positions, here and above.
    Batched,
}

/// What protects earlier tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// The penalty.
    pub method: Method,
    /// How strong it is.
    pub strength: Strength,
    /// Where it is measured.
    pub geometry: Geometry,
    /// What its importances are made of.
    pub source: Source,
    /// Batches a finished task's importances are estimated from.
    pub batches: u32,
    /// Whether importances are brought to a mean of 1.
    pub normalized: bool,
    /// Sequences of earlier tasks that are kept and learned again beside new ones, as many as those.
    pub replayed: usize,
}

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
    /// Updates a task.
    pub steps: u64,
    /// Sequences in an update.
    pub batch: usize,
}

/// An adapter on its way through the tasks.
pub struct ContinualTrainer {
    trainee: Box<dyn Trainable>,
    places: Vec<(Place, usize, usize)>,
    /// A, then B, of each place.
    parameters: Vec<f32>,
    space: Space,
    regularizer: Box<dyn Regularizer<f32>>,
    protection: Protection,
    updates: Updates,
    kept: Vec<Vec<Vec<u32>>>,
    random: ChaCha8Rng,
}

impl ContinualTrainer {
    /// Returns one that begins with this adapter, on our kernels.
    ///
    /// # Errors
    ///
    /// If the adapter does not fit the model, or `RWalk` is asked for with importances of rank 1.
    pub fn new(
        weights: &Weights,
        adapter: &Adapter,
        held: TraineeSettings,
        protection: Protection,
        updates: Updates,
        seed: u64,
    ) -> Result<Self, EngineError> {
        Self::of(Trainee::load(weights, adapter, held)?, adapter, protection, updates, seed)
    }

    /// Returns one of a model that was loaded with this adapter.
    ///
    /// # Errors
    ///
    /// If `RWalk` is asked for with importances of rank 1.
    pub fn of(
        trainee: impl Into<Box<dyn Trainable>>,
        adapter: &Adapter,
        protection: Protection,
        updates: Updates,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let trainee = trainee.into();
        if matches!((protection.method, protection.geometry), (Method::RWalk { .. }, Geometry::Outer)) {
            let what = "score the path of single elements with importances of rank 1".to_owned();
            return Err(EngineError::Unsupported { engine: "training", what });
        }
        let spec = trainee.spec().clone();
        let block = |(place, change): (&Place, &crate::engine::LowRank)| {
            let (outputs, inputs) = place.target.shape(&spec);
            let (rank, scale) = (change.rank, f64::from(change.scale));
            match protection.geometry {
                Geometry::Factors => Block::Plain { count: change.a.len() + change.b.len() },
                Geometry::Product => Block::Product { outputs, inputs, rank, scale },
                Geometry::Outer => Block::Outer { outputs, inputs, rank, scale },
            }
        };
        let mut trainer = Self {
            trainee,
            places: adapter.iter().map(|(place, change)| (*place, change.a.len(), change.b.len())).collect(),
            parameters: adapter.values().flat_map(|change| change.a.iter().chain(&change.b)).copied().collect(),
            space: Space { blocks: adapter.iter().map(block).collect() },
            regularizer: protection.method.begin(protection.normalized),
            protection,
            updates,
            kept: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(seed),
        };
        trainer.note(trainer.regularizer.needs() == Needs::EveryStep);
        Ok(trainer)
    }

    fn note(&mut self, wanted: bool) {
        let noted = match self.protection.geometry {
            Geometry::Factors => None,
            Geometry::Product => Some(Noted::Product),
            Geometry::Outer => Some(Noted::Squares),
        };
        self.trainee.note_flows(noted.filter(|_| wanted));
    }

    /// Returns the mean negative log-likelihood of all scored tokens, and how many they are.
    ///
    /// # Errors
    ///
    /// As [`Trainable::loss`].
    pub fn score(&self, sequences: &[Vec<u32>]) -> Result<(f64, usize), EngineError> {
        let (mut sum, mut count) = (0.0, 0);
        for batch in sequences.chunks(self.updates.batch.max(1)) {
            let batch = scored(batch);
            sum += self.trainee.loss(&batch)?;
            count += batch.iter().map(Scored::count).sum::<usize>();
        }
        Ok((sum / count.max(1) as f64, count))
    }

    /// Learns a task, or all at once, for so many updates.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate`].
    pub fn learn(&mut self, data: &[Vec<u32>], steps: u64, order: u64) -> Result<(), EngineError> {
        let mut moments = Moments::new(self.parameters.len());
        for step in 0..steps {
            let draws = (step * self.updates.batch as u64..).take(self.updates.batch);
            let mut batch: Vec<Vec<u32>> = draws.map(|at| data[drawn(data.len(), order, at)].clone()).collect();
            let earlier: Vec<&Vec<u32>> = self.kept.iter().flatten().collect();
            if !earlier.is_empty() {
                let again: Vec<Vec<u32>> =
                    batch.iter().map(|_| earlier[self.random.random_range(0..earlier.len())].clone()).collect();
                batch.extend(again);
            }
            self.update(step, &batch, &mut moments)?;
        }
        Ok(())
    }

    fn update(&mut self, step: u64, batch: &[Vec<u32>], moments: &mut Moments<f32>) -> Result<(), EngineError> {
        let watches = self.regularizer.needs() == Needs::EveryStep;
        let (gradients, flows) = self.gradients(&scored(batch), Labels::Data)?;
        let seen = if watches {
            let fisher = match self.protection.source {
                Source::Sampled => {
                    let labels = Labels::Drawn { seed: self.random.random() };
                    let (gradients, flows) = self.gradients(&scored(batch), labels)?;
                    self.squared(&gradients, &flows)
                }
                Source::Empirical | Source::Batched => self.squared(&gradients, &flows),
            };
            let gradient = self.in_space(&gradients, &flows);
            Some((fisher, gradient, self.positions()))
        } else {
            None
        };
        let mut gradient = self.flat(&gradients);
        if let Some(most) = self.updates.max_grad_norm {
            let factor = clip_factor(global_norm([gradient.as_slice()]), most) as f32;
            gradient.iter_mut().for_each(|value| *value *= factor);
        }
        let rate = self.updates.schedule.at(step);
        let rates = (rate.learning_rate, self.updates.weight_decay);
        match self.updates.rule {
            Rule::Sgd => descend(rates, &mut self.parameters, &gradient),
            Rule::AdamW(adam) => adam.step(step + 1, rates, &mut self.parameters, &gradient, moments),
        }
        let Self { regularizer, space, protection, parameters, .. } = self;
        regularizer.pull(space, protection.strength, rate.learning_rate, parameters);
        self.put()?;
        if let Some((fisher, gradient, before)) = seen {
            let mut moved = self.positions();
            moved.iter_mut().zip(&before).for_each(|(now, before)| *now -= before);
            self.regularizer.observe(&Observation { fisher: &fisher, gradient: &gradient, moved: &moved });
        }
        Ok(())
    }

    /// Ends a task: makes its importances, and keeps some of its sequences where they are replayed.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate`].
    pub fn finish(&mut self, data: &[Vec<u32>], order: u64) -> Result<Option<Statistics>, EngineError> {
        if self.protection.replayed > 0 {
            let share = self.protection.replayed / (self.kept.len() + 1);
            self.kept.iter_mut().for_each(|kept| kept.truncate(share));
            let own = (0..share.min(data.len()) as u64).map(|at| data[drawn(data.len(), order, at)].clone());
            self.kept.push(own.collect());
        }
        let fisher =
            if self.regularizer.needs() == Needs::AtTheEnd { self.importance(data, order)? } else { Vec::new() };
        let Self { regularizer, space, parameters, .. } = self;
        Ok(regularizer.consolidate(space, parameters, &fisher))
    }

    fn importance(&mut self, data: &[Vec<u32>], order: u64) -> Result<Vec<f32>, EngineError> {
        self.note(true);
        let mut sum = vec![0.0; self.space.importances()];
        let (size, labels) = match self.protection.source {
            Source::Sampled => (self.updates.batch, true),
            Source::Empirical => (1, false),
            Source::Batched => (self.updates.batch, false),
        };
        for batch in 0..u64::from(self.protection.batches) * (self.updates.batch / size) as u64 {
            let draws = (batch * size as u64..).take(size);
            let batch: Vec<Vec<u32>> = draws.map(|at| data[drawn(data.len(), order, at)].clone()).collect();
            let labels = if labels { Labels::Drawn { seed: self.random.random() } } else { Labels::Data };
            let (gradients, flows) = self.gradients(&scored(&batch), labels)?;
            sum.iter_mut().zip(self.squared(&gradients, &flows)).for_each(|(sum, more)| *sum += more);
        }
        self.note(false);
        Ok(sum)
    }

    fn gradients(&mut self, batch: &[Scored<'_>], labels: Labels<'_>) -> Result<(Gradients, Vec<Flow>), EngineError> {
        let count: usize = batch.iter().map(Scored::count).sum();
        let mut gradients = Gradients::new();
        self.trainee.accumulate_of(batch, labels, 1.0 / count.max(1) as f64, &mut gradients)?;
        Ok((gradients, self.trainee.take_flows()?.into_values().collect()))
    }

    fn flat(&self, gradients: &Gradients) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.parameters.len());
        for (place, a, b) in &self.places {
            match gradients.get(place) {
                Some((a, b)) => flat.extend(a.iter().chain(b)),
                None => flat.resize(flat.len() + a + b, 0.0),
            }
        }
        flat
    }

    /// Returns an estimate of importances from one pass.
    fn squared(&self, gradients: &Gradients, flows: &[Flow]) -> Vec<f32> {
        match self.protection.geometry {
            Geometry::Factors => self.flat(gradients).iter().map(|g| g * g).collect(),
            Geometry::Product => flows.iter().flat_map(|flow| &flow.product).map(|g| g * g).collect(),
            Geometry::Outer => {
                let both = |flow: &'_ Flow| flow.outputs.iter().chain(&flow.inputs).copied().collect::<Vec<f32>>();
                flows.iter().flat_map(both).collect()
            }
        }
    }

    /// Returns the gradient in the coordinates of the space; nothing where that is not known.
    fn in_space(&self, gradients: &Gradients, flows: &[Flow]) -> Vec<f32> {
        match self.protection.geometry {
            Geometry::Factors => self.flat(gradients),
            Geometry::Product => flows.iter().flat_map(|flow| &flow.product).copied().collect(),
            Geometry::Outer => Vec::new(),
        }
    }

    fn positions(&self) -> Vec<f32> {
        // Only `RWalk` looks at paths, and not with importances of rank 1.
        match (self.protection.method, self.protection.geometry) {
            (Method::RWalk { .. }, Geometry::Factors | Geometry::Product) => self.space.positions(&self.parameters),
            _ => Vec::new(),
        }
    }

    fn put(&mut self) -> Result<(), EngineError> {
        let mut start = 0;
        for (place, a, b) in &self.places {
            let (a_part, b_part) = self.parameters[start..start + a + b].split_at(*a);
            self.trainee.set(*place, a_part, b_part)?;
            start += a + b;
        }
        Ok(())
    }
}

fn scored(sequences: &[Vec<u32>]) -> Vec<Scored<'_>> {
    sequences.iter().map(|tokens| Scored { tokens, prompt: 0 }).collect()
}

/// `nll[i][j]`: of task j after learning i tasks; row 0 is before the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// One row more than tasks.
    pub nll: Vec<Vec<f64>>,
}

impl Matrix {
    fn tasks(&self) -> usize {
        self.nll.len().saturating_sub(1)
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len();
        values.sum::<f64>() / count as f64
    }

    fn last(&self, task: usize) -> f64 {
        self.nll[self.tasks()][task]
    }

    /// Returns the mean loss over all tasks at the end.
    #[must_use]
    pub fn average(&self) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.last(task)))
    }

    /// Returns how much lower later tasks left the losses of earlier ones (GEM, arXiv 1706.08840);
    /// negative where they raised them.
    #[must_use]
    pub fn backward_transfer(&self) -> f64 {
        Self::mean((0..self.tasks() - 1).map(|task| self.nll[task + 1][task] - self.last(task)))
    }

    /// Returns how much lower earlier tasks left the losses of later ones before those were learned.
    #[must_use]
    pub fn forward_transfer(&self) -> f64 {
        Self::mean((1..self.tasks()).map(|task| self.nll[0][task] - self.nll[task][task]))
    }

    /// Returns how far tasks but the last rose above the least loss they had (arXiv 1801.10112).
    #[must_use]
    pub fn forgetting(&self) -> f64 {
        let rose = |task: usize| {
            let learned = &self.nll[1..self.tasks()];
            self.last(task) - learned.iter().map(|row| row[task]).fold(f64::INFINITY, f64::min)
        };
        Self::mean((0..self.tasks() - 1).map(rose))
    }

    /// Returns how much lower each task's loss was right after learning it than at the beginning.
    #[must_use]
    pub fn gain(&self) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.nll[0][task] - self.nll[task + 1][task]))
    }

    /// Returns the share of that which is left at the end, all tasks but the last together.
    #[must_use]
    pub fn retained_gain(&self) -> f64 {
        let sum =
            |at: &dyn Fn(usize) -> f64| (0..self.tasks() - 1).map(|task| self.nll[0][task] - at(task)).sum::<f64>();
        sum(&|task| self.last(task)) / sum(&|task| self.nll[task + 1][task])
    }

    /// Returns how much higher each task's loss was right after learning it than where all were learned
    /// together.
    #[must_use]
    pub fn intransigence(&self, joint: &[f64]) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.nll[task + 1][task] - joint[task]))
    }
}

#[cfg(test)]
mod tests;
