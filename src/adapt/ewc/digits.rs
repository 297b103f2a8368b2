//! Permuted digits: the smallest experiment in which a network forgets, and what protects it.
//!
//! Every task is the same 1797 handwritten digits of 8 x 8 pixels with its own permutation of the pixels,
//! learned one after the other by one network with one head (the domain-incremental scenario of van de Ven
//! and Tolias, arXiv 1904.07734). It has the regularisers to itself: no engine, no text.
mod learner;
mod network;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{Method, fisher::Kind};
use learner::Learner;
pub use network::Network;

/// Pixels of an image.
const PIXELS: usize = 64;
const LABELS: usize = 10;
/// A label in a byte, then pixels of five bits, the lowest bits first.
const RECORD: usize = 1 + PIXELS * 5 / 8;
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
        Self { tasks: 5, train: 1200, hidden: 256, epochs: 20, batch: 16, learning_rate: 0.05, fisher_examples: 400 }
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
