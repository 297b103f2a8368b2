//! Optimizers: one update of one list of parameters at a time, so that groups of parameters may have
//! learning rates and decays of their own.
use serde::{Deserialize, Serialize};

/// A number parameters are stored as. Updates are computed in f64 and rounded once.
pub trait Real: Copy {
    /// Returns it as f64.
    fn widen(self) -> f64;
    /// Returns the nearest number of this type.
    fn narrow(value: f64) -> Self;
}

impl Real for f32 {
    fn widen(self) -> f64 {
        self.into()
    }
    fn narrow(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn widen(self) -> f64 {
        self
    }
    fn narrow(value: f64) -> Self {
        value
    }
}

/// Adam with decoupled weight decay (arXiv 1711.05101), as torch's `AdamW` computes it.
///
/// ```text
/// θ ← θ (1 - η wd)      m ← β1 m + (1 - β1) g      v ← β2 v + (1 - β2) g²
/// θ ← θ - η (m / (1 - β1^t)) / (sqrt(v / (1 - β2^t)) + ε)
/// ```
///
/// A β1 that a schedule moves counts in `β1^t` as it is at step t.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// How slowly the mean of gradients moves.
    pub beta1: f64,
    /// How slowly the mean of their squares moves.
    pub beta2: f64,
    /// Added to the root of that.
    pub epsilon: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1.0e-8 }
    }
}

/// What [`AdamW`] remembers of one list of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments<T> {
    /// Means of the gradients.
    pub first: Vec<T>,
    /// Means of their squares.
    pub second: Vec<T>,
}

impl<T: Real> Moments<T> {
    /// Returns what is known before the first step.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { first: vec![T::narrow(0.0); count], second: vec![T::narrow(0.0); count] }
    }
}

impl AdamW {
    /// Updates parameters by their gradients; `t` counts from 1.
    ///
    /// # Panics
    ///
    /// If the lists are not equally long.
    pub fn step<T: Real>(
        &self,
        t: u64,
        (learning_rate, weight_decay): (f64, f64),
        parameters: &mut [T],
        gradients: &[T],
        moments: &mut Moments<T>,
    ) {
        assert_eq!(parameters.len(), gradients.len(), "a gradient for each parameter");
        assert_eq!(parameters.len(), moments.first.len(), "moments of each parameter");
        let Self { beta1, beta2, epsilon } = *self;
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        let (step, root) = (learning_rate / correction(beta1), correction(beta2).sqrt());
        let decay = 1.0 - learning_rate * weight_decay;
        let moments = moments.first.iter_mut().zip(&mut moments.second);
        for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradients).zip(moments) {
            let gradient = gradient.widen();
            let m = first.widen() + (1.0 - beta1) * (gradient - first.widen());
            let v = beta2 * second.widen() + (1.0 - beta2) * gradient * gradient;
            (*first, *second) = (T::narrow(m), T::narrow(v));
            *parameter = T::narrow(parameter.widen() * decay - step * m / (v.sqrt() / root + epsilon));
        }
    }
}

/// Updates parameters by plain gradient descent with decoupled decay: `θ ← θ (1 - η wd) - η g`.
pub fn descend<T: Real>((learning_rate, weight_decay): (f64, f64), parameters: &mut [T], gradients: &[T]) {
    let decay = 1.0 - learning_rate * weight_decay;
    for (parameter, gradient) in parameters.iter_mut().zip(gradients) {
        *parameter = T::narrow(parameter.widen() * decay - learning_rate * gradient.widen());
    }
}

/// Returns the Euclidean norm of all gradients together.
#[must_use]
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    gradients.into_iter().map(|list| list.iter().map(square).sum::<f64>()).sum::<f64>().sqrt()
}

/// Returns what gradients of that norm are to be multiplied by so that it is `most` at most, as
/// torch's `clip_grad_norm_` does: `min(1, most / (norm + 1e-6))`.
#[must_use]
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1.0e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADIENTS: [[f64; 3]; 3] = [[0.5, -1.0, 0.0], [0.1, 2.0, -0.3], [-0.4, 0.0, 1.0e-9]];
    /// Of torch 2.15 in f64, from [1, -2, 3] with learning rate 0.1 and decay 0.01.
    const EXPECTED: [[f64; 3]; 3] = [
        [0.899_000_002, -1.898_000_001, 2.997],
        [0.817_796_906_382_652, -1.932_712_353_471_075, 3.068_416_678_849_681],
        [0.807_609_169_449_829, -1.959_079_549_646_459, 3.122_870_250_772_533],
    ];

    fn assert_steps<T: Real>(bound: f64) {
        let mut parameters = [1.0, -2.0, 3.0].map(T::narrow);
        let mut moments = Moments::new(3);
        for (t, (gradients, expected)) in (1..).zip(GRADIENTS.iter().zip(EXPECTED)) {
            let gradients = gradients.map(T::narrow);
            AdamW::default().step(t, (0.1, 0.01), &mut parameters, &gradients, &mut moments);
            for (found, expected) in parameters.iter().zip(expected) {
                let difference = (found.widen() - expected).abs();
                assert!(difference <= bound * expected.abs(), "step {t}: {} for {expected}", found.widen());
            }
        }
    }

    #[test]
    fn adamw_is_torchs() {
        assert_steps::<f64>(1.0e-12);
        assert_steps::<f32>(1.0e-6);
    }

    #[test]
    fn clipping_leaves_the_norm_it_is_given() {
        let gradients = [vec![3.0f32, 0.0], vec![-4.0]];
        let norm = global_norm(gradients.iter().map(Vec::as_slice));
        assert!((norm - 5.0).abs() <= 1.0e-12);
        assert!((norm * clip_factor(norm, 1.0) - 1.0).abs() <= 1.0e-6);
        assert!((clip_factor(norm, 10.0) - 1.0).abs() <= 1.0e-12);
    }

    #[test]
    fn descent_goes_down() {
        let mut parameters = [1.0f64, 2.0];
        descend((0.5, 0.1), &mut parameters, &[1.0, -2.0]);
        assert!((parameters[0] - 0.45).abs() <= 1.0e-15 && (parameters[1] - 2.9).abs() <= 1.0e-15);
    }
}
