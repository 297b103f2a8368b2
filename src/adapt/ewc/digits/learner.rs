//! One network on its way through the tasks.
use rand::{Rng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    super::{
        Convention, Method, Needs, Observation, Regularizer, Space, Strength,
        fisher::{self, Kind},
    },
    Arm, Digits, Study,
    network::{Network, Trained},
};

/// A network, what it protects and how.
pub(super) struct Learner<'a> {
    study: &'a Study,
    arm: Arm,
    pub(super) network: Network,
    space: Space,
    regularizer: Box<dyn Regularizer<f64>>,
    stored: Digits,
    random: ChaCha8Rng,
}

impl<'a> Learner<'a> {
    pub(super) fn new(study: &'a Study, arm: Arm, network: Network, random: ChaCha8Rng) -> Self {
        let method = if let Arm::Penalty { method, .. } = arm { method } else { Method::Sequential };
        let space = Space::plain(network.parameters.len());
        let stored = Digits { images: Vec::new(), labels: Vec::new() };
        Self { study, arm, network, space, regularizer: method.begin(true), stored, random }
    }

    pub(super) fn learn(&mut self, data: &Digits) {
        let Study { epochs, batch, learning_rate, .. } = *self.study;
        let lambda = if let Arm::Penalty { lambda, .. } = self.arm { lambda } else { 0.0 };
        let strength = Strength { lambda, convention: Convention::Half };
        let mut order: Vec<usize> = (0..data.labels.len()).collect();
        let mut gradient = vec![0.0; self.network.parameters.len()];
        for _ in 0..epochs {
            order.shuffle(&mut self.random);
            for batch in order.chunks(batch) {
                gradient.fill(0.0);
                let again = if self.stored.labels.is_empty() { 0 } else { batch.len() };
                let weight = -1.0 / (batch.len() + again) as f64;
                for &at in batch {
                    self.network.add_score(&data.images[at], data.labels[at], weight, &mut gradient);
                }
                for _ in 0..again {
                    let at = self.random.random_range(0..self.stored.labels.len());
                    self.network.add_score(&self.stored.images[at], self.stored.labels[at], weight, &mut gradient);
                }
                let wants = self.regularizer.needs() == Needs::EveryStep;
                let fisher = wants.then(|| {
                    let trained = Trained { network: &self.network, data, examples: batch };
                    fisher::diagonal(&trained, Kind::SampledBatch(batch.len()), &mut self.random)
                });
                let before = wants.then(|| self.network.parameters.clone());
                let parameters = &mut self.network.parameters;
                parameters.iter_mut().zip(&gradient).for_each(|(p, g)| *p -= learning_rate * g);
                self.regularizer.pull(&self.space, strength, learning_rate, parameters);
                if let (Some(fisher), Some(before)) = (&fisher, before) {
                    let moved: Vec<f64> = parameters.iter().zip(&before).map(|(p, b)| p - b).collect();
                    self.regularizer.observe(&Observation { fisher, gradient: &gradient, moved: &moved });
                }
            }
        }
    }

    /// Ends the task, the `done`-th.
    pub(super) fn finish(&mut self, data: &Digits, done: usize) {
        match self.arm {
            Arm::Penalty { fisher: kind, .. } => {
                let fisher = if self.regularizer.needs() == Needs::AtTheEnd {
                    let count = self.study.fisher_examples.min(data.labels.len());
                    let examples: Vec<usize> = (0..count).collect();
                    let trained = Trained { network: &self.network, data, examples: &examples };
                    fisher::diagonal(&trained, kind, &mut self.random)
                } else {
                    Vec::new()
                };
                self.regularizer.consolidate(&self.space, &self.network.parameters, &fisher);
            }
            Arm::Replay { stored } => {
                // Every task so far keeps the same share.
                let share = stored / done;
                let tasks = done - 1;
                let held = self.stored.labels.len().checked_div(tasks).unwrap_or(0);
                let kept: Vec<usize> = (0..tasks).flat_map(|task| task * held..task * held + share.min(held)).collect();
                let mut next = Digits { images: Vec::new(), labels: Vec::new() };
                let parts = [(&self.stored, kept), (data, (0..share.min(data.labels.len())).collect())];
                for (from, places) in parts {
                    next.images.extend(places.iter().map(|&at| from.images[at]));
                    next.labels.extend(places.iter().map(|&at| from.labels[at]));
                }
                self.stored = next;
            }
            Arm::Joint => {}
        }
    }
}
