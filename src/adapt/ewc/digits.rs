//! Permuted digits: the smallest experiment in which a network forgets, and what protects it.
//!
//! Every task is the same 1797 handwritten digits of 8 x 8 pixels with its own permutation of the pixels,
//! learned one after the other by one network with one head (the domain-incremental scenario of van de Ven
//! and Tolias, arXiv 1904.07734). It has the regularisers to itself: no engine, no text.
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Convention, Method, Needs, Observation, Space, Strength,
    fisher::{self, Classifier, Kind},
};

/// Pixels of an image.
const PIXELS: usize = 64;
const LABELS: usize = 10;
/// A label in a byte, then pixels of five bits, the lowest bits first.
const RECORD: usize = 1 + PIXELS * 5 / 8;
/// Weights begin three times as far out as He et al. (arXiv 1502.01852) let them: a network that has to
/// move less, relative to where it began, forgets less, with and without a penalty.
const WIDTH: f64 = 20.0;
/// See `assets/digits/README.md`.
const PACKED: &[u8] = include_bytes!("../../../assets/digits/digits.bin");

/// Images with pixels from 0 to 1, and what they show.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// Pixels, row by row.
    pub images: Vec<[f64; PIXELS]>,
    /// The digits.
    pub labels: Vec<usize>,
}

impl Digits {
    /// Returns all 1797, in the order of the file.
    #[must_use]
    pub fn load() -> Self {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for record in PACKED.chunks_exact(RECORD) {
            labels.push(usize::from(record[0]));
            let pixel = |at: usize| {
                let (byte, bit) = (1 + at * 5 / 8, at * 5 % 8);
                let next = record.get(byte + 1).copied().unwrap_or(0);
                let pair = u16::from(record[byte]) | u16::from(next) << 8;
                f64::from(pair >> bit & 31) / 16.0
            };
            images.push(std::array::from_fn(pixel));
        }
        Self { images, labels }
    }

    fn pick(&self, order: &[usize], pixels: &[usize]) -> Self {
        let image = |&at: &usize| std::array::from_fn(|pixel| self.images[at][pixels[pixel]]);
        Self { images: order.iter().map(image).collect(), labels: order.iter().map(|&at| self.labels[at]).collect() }
    }

    /// Returns the train and test parts of every task.
    fn tasks(&self, study: &Study, random: &mut impl Rng) -> Vec<[Self; 2]> {
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.shuffle(random);
        let (train, test) = order.split_at(study.train.min(order.len()));
        let mut task = || {
            let mut pixels: Vec<usize> = (0..PIXELS).collect();
            pixels.shuffle(random);
            [self.pick(train, &pixels), self.pick(test, &pixels)]
        };
        (0..study.tasks).map(|_| task()).collect()
    }
}

/// A network of one hidden layer of rectified units.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    hidden: usize,
    /// Input weights `[PIXELS, hidden]`, hidden biases, output weights `[hidden, LABELS]`, output biases.
    pub parameters: Vec<f64>,
}

impl Network {
    /// Returns one with weights drawn from U(-√(20/I), √(20/I)).
    #[must_use]
    pub fn new(hidden: usize, random: &mut impl Rng) -> Self {
        let mut draw = |count: usize, inputs: usize| -> Vec<f64> {
            let bound = (WIDTH / inputs as f64).sqrt();
            (0..count).map(|_| random.random_range(-bound..bound)).collect()
        };
        let mut parameters = draw(PIXELS * hidden, PIXELS);
        parameters.resize(parameters.len() + hidden, 0.0);
        parameters.extend(draw(hidden * LABELS, hidden));
        parameters.resize(parameters.len() + LABELS, 0.0);
        Self { hidden, parameters }
    }

    fn parts(&self) -> (&[f64], &[f64], &[f64], &[f64]) {
        let (first, rest) = self.parameters.split_at(PIXELS * self.hidden);
        let (bias, rest) = rest.split_at(self.hidden);
        let (second, last) = rest.split_at(self.hidden * LABELS);
        (first, bias, second, last)
    }

    /// Returns the hidden layer and how likely each label is.
    fn forward(&self, image: &[f64; PIXELS]) -> (Vec<f64>, [f64; LABELS]) {
        let (first, bias, second, last) = self.parts();
        let mut hidden = bias.to_vec();
        for (pixel, weights) in image.iter().zip(first.chunks_exact(self.hidden)).filter(|(pixel, _)| **pixel > 0.0) {
            hidden.iter_mut().zip(weights).for_each(|(sum, w)| *sum += pixel * w);
        }
        let mut out = [0.0; LABELS];
        out.copy_from_slice(last);
        for (unit, weights) in hidden.iter_mut().zip(second.chunks_exact(LABELS)) {
            *unit = unit.max(0.0);
            if *unit > 0.0 {
                out.iter_mut().zip(weights).for_each(|(sum, w)| *sum += *unit * w);
            }
        }
        let most = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.iter_mut().for_each(|x| *x = (*x - most).exp());
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|x| *x /= sum);
        (hidden, out)
    }

    /// Adds `weight` times the gradient of `ln p(label)`.
    fn add_score(&self, image: &[f64; PIXELS], label: usize, weight: f64, sum: &mut [f64]) {
        let (hidden, mut slopes) = self.forward(image);
        slopes.iter_mut().for_each(|p| *p *= -weight);
        slopes[label] += weight;
        self.add_back(image, &hidden, &slopes, sum);
    }

    fn add_back(&self, image: &[f64; PIXELS], hidden: &[f64], slopes: &[f64; LABELS], sum: &mut [f64]) {
        let (_, _, second, _) = self.parts();
        let (first_sum, rest) = sum.split_at_mut(PIXELS * self.hidden);
        let (bias_sum, rest) = rest.split_at_mut(self.hidden);
        let (second_sum, last_sum) = rest.split_at_mut(self.hidden * LABELS);
        last_sum.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        let mut below = vec![0.0; self.hidden];
        for (k, unit) in hidden.iter().enumerate().filter(|(_, unit)| **unit > 0.0) {
            let part = k * LABELS..(k + 1) * LABELS;
            below[k] = second[part.clone()].iter().zip(slopes).map(|(w, slope)| w * slope).sum();
            second_sum[part].iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += unit * slope);
        }
        bias_sum.iter_mut().zip(&below).for_each(|(sum, slope)| *sum += slope);
        for (pixel, sums) in
            image.iter().zip(first_sum.chunks_exact_mut(self.hidden)).filter(|(pixel, _)| **pixel > 0.0)
        {
            sums.iter_mut().zip(&below).for_each(|(sum, slope)| *sum += pixel * slope);
        }
    }

    /// Returns the share of images it takes for what they are.
    #[must_use]
    pub fn accuracy(&self, data: &Digits) -> f64 {
        let right = data.images.iter().zip(&data.labels).filter(|(image, label)| {
            let (_, out) = self.forward(image);
            (0..LABELS).all(|other| out[other] <= out[**label])
        });
        right.count() as f64 / data.labels.len().max(1) as f64
    }
}

/// A network with data, whose Fisher information can be asked for.
struct Trained<'a> {
    network: &'a Network,
    data: &'a Digits,
    examples: &'a [usize],
}

impl Classifier for Trained<'_> {
    fn parameters(&self) -> usize {
        self.network.parameters.len()
    }

    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn label(&self, example: usize) -> usize {
        self.data.labels[self.examples[example]]
    }

    fn probabilities(&self, example: usize) -> Vec<f64> {
        self.network.forward(&self.data.images[self.examples[example]]).1.to_vec()
    }

    fn add_score(&self, example: usize, label: usize, weight: f64, sum: &mut [f64]) {
        self.network.add_score(&self.data.images[self.examples[example]], label, weight, sum);
    }
}

/// What one network does against forgetting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arm {
    /// A penalty.
    Penalty {
        /// Which.
        method: Method,
        /// Its λ, of importances with mean 1.
        lambda: f64,
        /// Whose gradients its importances are made of, where it wants any at the end of a task. A method
        /// that wants them at every step takes [`Kind::SampledBatch`] of the batch.
        fisher: Kind,
    },
    /// Keeps images of earlier tasks, this many in all, and learns from as many of them as of new ones.
    Replay {
        /// Images kept.
        stored: usize,
    },
    /// Learns all tasks so far together, from the beginning: what could be had at best.
    Joint,
}

/// How the tasks are made and learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Study {
    /// Tasks.
    pub tasks: usize,
    /// Images to learn from; the others test.
    pub train: usize,
    /// Units of the hidden layer.
    pub hidden: usize,
    /// Rounds over a task's images.
    pub epochs: usize,
    /// Images in a batch.
    pub batch: usize,
    /// The step size of plain descent.
    pub learning_rate: f64,
    /// Images that importances are estimated from, at most.
    pub fisher_examples: usize,
}

impl Default for Study {
    fn default() -> Self {
        Self { tasks: 5, train: 1200, hidden: 128, epochs: 60, batch: 16, learning_rate: 0.02, fisher_examples: 1200 }
    }
}

/// `accuracy[i][j]`: on task j after learning tasks 0 to i.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One row a learned task.
    pub accuracy: Vec<Vec<f64>>,
}

impl Outcome {
    /// Returns the mean accuracy on all tasks at the end.
    #[must_use]
    pub fn average(&self) -> f64 {
        let last = self.accuracy.last().map_or(&[][..], Vec::as_slice);
        last.iter().sum::<f64>() / last.len().max(1) as f64
    }

    /// Returns the mean accuracy on each task right after it was learned.
    #[must_use]
    pub fn learning(&self) -> f64 {
        let own = self.accuracy.iter().enumerate().map(|(task, row)| row[task]);
        own.sum::<f64>() / self.accuracy.len().max(1) as f64
    }

    /// Returns how far each task but the last fell, on average, from the best it had been.
    #[must_use]
    pub fn forgetting(&self) -> f64 {
        let Some((last, before)) = self.accuracy.split_last() else { return 0.0 };
        let fell = (0..before.len()).map(|task| {
            let best = before.iter().map(|row| row[task]).fold(f64::NEG_INFINITY, f64::max);
            best - last[task]
        });
        fell.sum::<f64>() / before.len().max(1) as f64
    }
}

impl Study {
    /// Learns the tasks one after the other.
    #[must_use]
    pub fn run(&self, digits: &Digits, arm: Arm, seed: u64) -> Outcome {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tasks = digits.tasks(self, &mut random);
        let fresh = Network::new(self.hidden, &mut random);
        let mut learner = Learner::new(self, arm, fresh.clone(), random);
        let mut accuracy = Vec::new();
        for (at, [train, _]) in tasks.iter().enumerate() {
            if arm == Arm::Joint {
                learner.network.parameters.clone_from(&fresh.parameters);
                let mut all = train.clone();
                for [earlier, _] in &tasks[..at] {
                    all.images.extend_from_slice(&earlier.images);
                    all.labels.extend_from_slice(&earlier.labels);
                }
                learner.learn(&all);
            } else {
                learner.learn(train);
                learner.finish(train, at + 1);
            }
            accuracy.push(tasks.iter().map(|[_, test]| learner.network.accuracy(test)).collect());
        }
        Outcome { accuracy }
    }

    /// Returns the arm with the best mean final accuracy over these seeds; meant for seeds that are not
    /// reported, since a strength chosen on what it is judged by looks better than it is.
    #[must_use]
    pub fn choose(&self, digits: &Digits, arms: &[Arm], seeds: &[u64]) -> Option<Arm> {
        let average = |arm: &Arm| seeds.iter().map(|seed| self.run(digits, *arm, *seed).average()).sum::<f64>();
        let scored = arms.iter().map(|arm| (average(arm), *arm));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, arm)| arm)
    }
}

struct Learner<'a> {
    study: &'a Study,
    arm: Arm,
    network: Network,
    space: Space,
    regularizer: Box<dyn super::Regularizer<f64>>,
    stored: Digits,
    random: ChaCha8Rng,
}

impl<'a> Learner<'a> {
    fn new(study: &'a Study, arm: Arm, network: Network, random: ChaCha8Rng) -> Self {
        let method = if let Arm::Penalty { method, .. } = arm { method } else { Method::Sequential };
        let space = Space::plain(network.parameters.len());
        let stored = Digits { images: Vec::new(), labels: Vec::new() };
        Self { study, arm, network, space, regularizer: method.begin(true), stored, random }
    }

    fn learn(&mut self, data: &Digits) {
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
    fn finish(&mut self, data: &Digits, done: usize) {
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
