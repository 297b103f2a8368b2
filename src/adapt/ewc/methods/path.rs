//! What numbers did for the loss on their way (arXiv 1801.10112, and 1703.04200 before it).
use super::super::{super::optim::Real, Observation};

/// How much of the loss each number's path took away, for its distance in KL divergence.
#[derive(Clone, Debug)]
pub(super) struct Path<T> {
    every: u32,
    steps: u32,
    /// `-Σ g Δθ` of the window.
    gained: Vec<f64>,
    /// `Σ Δθ` of the window.
    moved: Vec<f64>,
    /// Of this task.
    score: Vec<f64>,
    /// Of those before.
    old: Vec<T>,
}

/// What is added to a squared distance before it divides.
const PATH_EPSILON: f64 = 1.0e-10;

impl<T: Real> Path<T> {
    /// Returns one that is looked at after every so many steps.
    pub(super) fn new(every: u32) -> Self {
        let (gained, moved, score) = (Vec::new(), Vec::new(), Vec::new());
        Self { every: every.max(1), steps: 0, gained, moved, score, old: Vec::new() }
    }

    pub(super) fn add(&mut self, seen: &Observation<'_, T>, fisher: &[T]) {
        let count = fisher.len();
        assert_eq!((seen.gradient.len(), seen.moved.len()), (count, count), "a path of another space");
        for list in [&mut self.gained, &mut self.moved, &mut self.score] {
            list.resize(count, 0.0);
        }
        for (i, (gradient, moved)) in seen.gradient.iter().zip(seen.moved).enumerate() {
            self.gained[i] -= gradient.widen() * moved.widen();
            self.moved[i] += moved.widen();
        }
        self.steps += 1;
        if self.steps.is_multiple_of(self.every) {
            self.close(fisher);
        }
    }

    fn close(&mut self, fisher: &[T]) {
        let path = self.gained.iter().zip(&self.moved);
        for ((score, (gained, moved)), fisher) in self.score.iter_mut().zip(path).zip(fisher) {
            *score += gained.max(0.0) / (0.5 * fisher.widen() * moved * moved + PATH_EPSILON);
        }
        self.gained.fill(0.0);
        self.moved.fill(0.0);
    }

    /// Returns the mean of this task's score and that of before, which becomes that of before. What the task
    /// did since its last window counts as one.
    pub(super) fn finish(&mut self, fisher: &[T]) -> &[T] {
        if !self.steps.is_multiple_of(self.every) {
            self.close(fisher);
        }
        let has_old = !self.old.is_empty();
        self.old.resize(self.score.len(), T::narrow(0.0));
        for (old, new) in self.old.iter_mut().zip(&self.score) {
            *old = T::narrow(if has_old { 0.5 * (old.widen() + new) } else { *new });
        }
        self.score.fill(0.0);
        self.steps = 0;
        &self.old
    }
}
