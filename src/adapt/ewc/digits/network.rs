//! The network that learns digits.
use rand::Rng;

use super::{super::fisher::Classifier, Digits, LABELS, PIXELS};

/// Weights begin three times as far out as He et al. (arXiv 1502.01852) let them: a network that has to
/// move less, relative to where it began, forgets less, with and without a penalty.
const WIDTH: f64 = 20.0;

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
    pub(super) fn add_score(&self, image: &[f64; PIXELS], label: usize, weight: f64, sum: &mut [f64]) {
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
pub(super) struct Trained<'a> {
    pub(super) network: &'a Network,
    pub(super) data: &'a Digits,
    pub(super) examples: &'a [usize],
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
