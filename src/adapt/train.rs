//! Training of an adapter, one update at a time.
use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    optim::{AdamW, Moments, clip_factor, descend, global_norm},
    schedule::Schedule,
};
use crate::{
    engine::{
        Adapter, Dropout, EngineError, Gradients, Labels, LowRank, Magnitudes, Place, Scored, Target, Trainable,
        Trainee, TraineeSettings,
    },
    model::{spec::ModelSpec, weights::Weights},
};

/// Returns an adapter that changes nothing yet: A drawn from U(-1/√I, 1/√I), B of zeros, as PEFT begins.
#[must_use]
pub fn fresh(spec: &ModelSpec, targets: &[Target], rank: usize, scale: f64, seed: u64) -> Adapter {
    fresh_by(spec, targets, seed, |_| (rank, scale))
}

/// Returns what [`fresh`] does, with a rank and a scale for each place.
#[must_use]
pub fn fresh_by(spec: &ModelSpec, targets: &[Target], seed: u64, of: impl Fn(Place) -> (usize, f64)) -> Adapter {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut change = |place: Place| {
        let (rank, scale) = of(place);
        let (out, width) = place.target.shape(spec);
        let bound = 1.0 / (width as f32).sqrt();
        let a = (0..rank * width).map(|_| random.random_range(-bound..bound)).collect();
        (place, LowRank { rank, a, b: vec![0.0; out * rank], scale: scale as f32, magnitude: None })
    };
    Place::all(spec, targets).into_iter().map(&mut change).collect()
}

/// Returns which of `count` sequences the `at`-th draw takes: every sequence once in each round, rounds
/// in an order of their own. A pure function, so a training goes on anywhere as if it had never stopped.
#[must_use]
pub fn drawn(count: usize, seed: u64, at: u64) -> usize {
    let (round, place) = (at / count.max(1) as u64, (at % count.max(1) as u64) as usize);
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(round + 1);
    order.shuffle(&mut random);
    order.get(place).copied().unwrap_or(0)
}

/// The rule of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam with decoupled decay.
    AdamW(AdamW),
    /// Plain gradient descent.
    Sgd,
}

/// How updates are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The learning rate.
    pub schedule: Schedule,
    /// The rule.
    pub rule: Rule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient's largest global norm.
    pub max_grad_norm: Option<f64>,
    /// What the learning rate of B is to that of A (LoRA+, arXiv 2402.12354); the same when absent.
    pub b_ratio: Option<f64>,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Its number, from 0.
    pub step: u64,
    /// The mean negative log-likelihood of the scored tokens before it, in nats.
    pub loss: f64,
    /// The gradient's global norm before clipping.
    pub grad_norm: f64,
    /// The learning rate it used.
    pub learning_rate: f64,
    /// Scored tokens.
    pub tokens: usize,
}

/// What tensors of a checkpoint are called: A, B and magnitudes, and the moments of each.
pub(super) const NAMES: [[&str; 3]; 3] =
    [["a", "a.m", "a.v"], ["b", "b.m", "b.v"], ["magnitude", "magnitude.m", "magnitude.v"]];

/// Returns the moments of a change before the first update.
fn at_rest(change: &LowRank) -> [Moments<f32>; 3] {
    change.values().map(|values| Moments::new(values.len()))
}

/// A training under way.
pub struct Trainer {
    trainee: Box<dyn Trainable>,
    adapter: Adapter,
    /// Of A, B and magnitudes.
    moments: BTreeMap<Place, [Moments<f32>; 3]>,
    settings: Settings,
    /// Its rate, and the seed of its masks.
    dropout: Option<(f64, u64)>,
    step: u64,
}

impl Trainer {
    /// Returns a training that begins with this adapter.
    ///
    /// # Errors
    ///
    /// If the adapter does not fit the model.
    pub fn new(
        weights: &Weights,
        adapter: Adapter,
        settings: Settings,
        held: TraineeSettings,
    ) -> Result<Self, EngineError> {
        Ok(Self::of(Trainee::load(weights, &adapter, held)?, adapter, settings))
    }

    /// Returns a training of a model that was loaded with this adapter.
    #[must_use]
    pub fn of(trainee: impl Into<Box<dyn Trainable>>, adapter: Adapter, settings: Settings) -> Self {
        let moments = adapter.iter().map(|(place, change)| (*place, at_rest(change))).collect();
        Self { trainee: trainee.into(), adapter, moments, settings, dropout: None, step: 0 }
    }

    /// Makes every change a decomposed one, whose magnitudes learn, too (`DoRA`, arXiv 2402.09353). Those that
    /// are already stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Trainable::decompose`].
    pub fn decompose(&mut self) -> Result<(), EngineError> {
        for (place, magnitude) in self.trainee.decompose()? {
            let Some(change) = self.adapter.get_mut(&place) else { continue };
            change.magnitude = Some(magnitude);
            self.moments.insert(place, at_rest(change));
        }
        Ok(())
    }

    /// Drops inputs of changes in every update from now on, at this rate, other ones in every micro-batch.
    /// Masks follow from the seed and the number of the update alone.
    pub fn drop_out(&mut self, rate: f64, seed: u64) {
        self.dropout = (rate > 0.0).then_some((rate, seed));
    }

    /// Returns how many updates were made.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Returns the mean negative log-likelihood of the scored tokens of batches, in nats, and their number.
    ///
    /// # Errors
    ///
    /// As [`Trainable::loss`].
    pub fn evaluate(&self, batches: &[Vec<Scored<'_>>]) -> Result<(f64, usize), EngineError> {
        let tokens: usize = batches.iter().flatten().map(Scored::count).sum();
        let loss = batches.iter().map(|batch| self.trainee.loss(batch)).sum::<Result<f64, _>>()?;
        Ok((loss / tokens as f64, tokens))
    }

    /// Returns everything that updates change, by place and a name of its own.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (Place, &'static str, &[f32])> {
        self.adapter
            .iter()
            .zip(self.moments.values())
            .flat_map(|((place, change), moments)| {
                let parts =
                    change.values().into_iter().zip(moments).zip(NAMES).filter(|((values, _), _)| !values.is_empty());
                parts.flat_map(|((values, moments), names)| {
                    let [own, first, second] = names.map(|name| (*place, name));
                    [(own, values), (first, moments.first.as_slice()), (second, moments.second.as_slice())]
                })
            })
            .map(|((place, name), values)| (place, name, values))
    }

    /// Goes on from where another training was.
    pub(super) fn restore(
        &mut self,
        step: u64,
        adapter: Adapter,
        moments: BTreeMap<Place, [Moments<f32>; 3]>,
    ) -> Result<(), EngineError> {
        for ((place, change), moments) in adapter.iter().zip(moments.values()) {
            self.trainee.set_all(*place, change)?;
            let right = change.values().map(<[f32]>::len);
            let found = moments.each_ref().map(|moments| moments.first.len().min(moments.second.len()));
            if found != right {
                return Err(EngineError::Adapter(format!("{found:?} moments for {right:?} values of the {place}")));
            }
        }
        (self.adapter, self.moments, self.step) = (adapter, moments, step);
        Ok(())
    }

    /// Returns the adapter as it is now.
    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Makes one update from micro-batches that count as one: the loss is the mean over all their
    /// scored tokens.
    ///
    /// # Errors
    ///
    /// As [`Trainable::accumulate`].
    pub fn step(&mut self, batches: &[Vec<Scored<'_>>]) -> Result<Update, EngineError> {
        self.step_with(batches, |_, _| Ok(()))
    }

    /// Makes an update as [`Self::step`] does, from gradients that `change` was given first, with the
    /// adapter they are of: to add those of a penalty, say.
    ///
    /// # Errors
    ///
    /// As [`Self::step`], and what `change` fails with.
    pub fn step_with(
        &mut self,
        batches: &[Vec<Scored<'_>>],
        change: impl FnOnce(&Adapter, &mut Gradients) -> Result<(), EngineError>,
    ) -> Result<Update, EngineError> {
        let tokens: usize = batches.iter().flatten().map(Scored::count).sum();
        let (mut gradients, mut magnitudes) = (Gradients::new(), Magnitudes::new());
        let (mut loss, weight) = (0.0, 1.0 / tokens as f64);
        for (part, batch) in (0..).zip(batches) {
            let dropout = |(rate, seed)| Dropout::new(rate, &[seed, self.step, part]);
            self.trainee.set_dropout(self.dropout.map(dropout))?;
            loss += self.trainee.accumulate_all(batch, Labels::Data, weight, &mut gradients, &mut magnitudes)?;
        }
        change(&self.adapter, &mut gradients)?;
        let pairs = gradients.values().flat_map(|(a, b)| [a.as_slice(), b.as_slice()]);
        let grad_norm = global_norm(pairs.chain(magnitudes.values().map(Vec::as_slice)));
        let factor = self.settings.max_grad_norm.map_or(1.0, |most| clip_factor(grad_norm, most));
        let rate = self.settings.schedule.at(self.step);
        let rates = |ratio: f64| (rate.learning_rate * ratio, self.settings.weight_decay);
        // As PEFT does it: where B has a rate of its own, lists of single numbers have it, too.
        let rates = [1.0, self.settings.b_ratio.unwrap_or(1.0), self.settings.b_ratio.unwrap_or(1.0)].map(rates);
        for (place, change) in &mut self.adapter {
            let (Some((a, b)), Some(moments)) = (gradients.get_mut(place), self.moments.get_mut(place)) else {
                continue;
            };
            let magnitude = magnitudes.get_mut(place).map(Vec::as_mut_slice).unwrap_or_default();
            let parts = change.values_mut().into_iter().zip([a.as_mut_slice(), b.as_mut_slice(), magnitude]);
            for (((values, gradient), moments), rates) in parts.zip(moments).zip(rates) {
                if factor < 1.0 {
                    gradient.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
                }
                match self.settings.rule {
                    Rule::Sgd => descend(rates, values, gradient),
                    Rule::AdamW(adam) => {
                        let adam = AdamW { beta1: rate.momentum.unwrap_or(adam.beta1), ..adam };
                        adam.step(self.step + 1, rates, values, gradient, moments);
                    }
                }
            }
            self.trainee.set_all(*place, change)?;
        }
        self.step += 1;
        let (step, loss) = (self.step - 1, loss / tokens as f64);
        Ok(Update { step, loss, grad_norm, learning_rate: rate.learning_rate, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::schedule::Shape;

    #[test]
    fn every_round_takes_every_sequence_once_in_an_order_of_its_own() {
        let round = |first: u64| (first..first + 9).map(|at| drawn(9, 7, at)).collect::<Vec<_>>();
        let (first, second) = (round(0), round(9));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..9).collect::<Vec<_>>());
        }
    }

    #[test]
    fn training_lowers_the_loss_clips_and_repeats_itself_bit_for_bit() {
        let weights = Weights::open("builtin:pico").unwrap();
        let ids: Vec<u32> = (0..64).map(|at| 5 + at * 7 % 40).collect();
        let batches: Vec<Vec<Scored<'_>>> = ids.chunks(16).map(|tokens| vec![Scored { tokens, prompt: 0 }]).collect();
        let run = |learning_rate: f64, rule: Rule, most: Option<f64>| {
            let schedule = Schedule { shape: Shape::Constant { warmup: 0 }, peak: learning_rate, total: 0 };
            let settings = Settings { schedule, rule, weight_decay: 0.0, max_grad_norm: most, b_ratio: None };
            let adapter = fresh(weights.spec(), &[Target::Query, Target::Down], 4, 2.0, 3);
            let held = TraineeSettings { widen: true, recompute: false };
            let mut trainer = Trainer::new(&weights, adapter, settings, held).unwrap();
            let updates: Vec<Update> = (0..4).map(|_| trainer.step(&batches).unwrap()).collect();
            (updates, trainer.adapter().clone())
        };
        let adam = Rule::AdamW(AdamW::default());
        let (updates, adapter) = run(1.0e-3, adam, None);
        assert!(updates.windows(2).all(|pair| pair[1].loss < pair[0].loss), "{updates:?}");
        assert_eq!((updates[0].tokens, updates[3].step), (60, 3));
        assert_eq!(run(1.0e-3, adam, None), (updates.clone(), adapter));
        let (up, _) = run(-1.0e-3, adam, None);
        assert!(up[3].loss > up[0].loss);
        // Plain descent moves by the learning rate times the clipped norm, at most.
        let (_, moved) = run(1.0, Rule::Sgd, Some(1.0e-3));
        let start = fresh(weights.spec(), &[Target::Query, Target::Down], 4, 2.0, 3);
        let squares = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let far: f64 = start
            .values()
            .zip(moved.values())
            .map(|(s, m)| s.a.iter().zip(&m.a).chain(s.b.iter().zip(&m.b)).map(squares).sum::<f64>())
            .sum();
        assert!(far.sqrt() <= 4.0e-3 * 1.001 && far > 0.0, "{far}");
    }
}
