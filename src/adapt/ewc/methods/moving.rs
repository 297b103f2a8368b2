//! EWC++ and `RWalk`: Fisher information as a moving average of every step's.
use super::{
    super::{super::optim::Real, Needs, Observation, Regularizer, Space, Statistics, Term},
    path::Path,
    sized,
};

/// EWC++ (arXiv 1801.10112, section 4.1): one anchor, and the moving average of every batch's Fisher
/// information over all tasks, which needs no pass of its own over a task's data. The paper's α = 0.9 is of
/// the newest batch, which leaves hardly an average; a slow one (0.01) estimates far better. As Adam's, the
/// average is corrected for how it begins: without that, the first batch of all outweighs the others for
/// about 1/α steps.
///
/// With a path it is `RWalk` (the same paper, section 4.3): the path's score is added, `F / max F + s / max s`.
/// That sees single coordinates, so importances of rank 1 are not for it.
#[derive(Clone, Debug)]
pub(super) struct Moving<T> {
    /// α.
    rate: f64,
    /// (1 - α) to the power of the batches so far.
    begun: f64,
    fisher: Vec<T>,
    path: Option<Path<T>>,
    term: Vec<Term<T>>,
    normalized: bool,
}

impl<T: Real> Moving<T> {
    pub(super) fn new(rate: f64, path: Option<Path<T>>, normalized: bool) -> Self {
        Self { rate, begun: 1.0, fisher: Vec::new(), path, term: Vec::new(), normalized }
    }

    /// `G ← α F_batch + (1 - α) G` from nothing, and `F = G / (1 - (1 - α)ⁿ)`.
    fn add(&mut self, batch: &[T]) {
        self.begun *= 1.0 - self.rate;
        if self.fisher.is_empty() {
            self.fisher = batch.to_vec();
            return;
        }
        assert_eq!(batch.len(), self.fisher.len(), "Fisher information of another space");
        let rate = self.rate / (1.0 - self.begun);
        for (average, new) in self.fisher.iter_mut().zip(batch) {
            *average = T::narrow(average.widen() + rate * (new.widen() - average.widen()));
        }
    }
}

impl<T: Real> Regularizer<T> for Moving<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.term
    }

    fn needs(&self) -> Needs {
        Needs::EveryStep
    }

    fn observe(&mut self, seen: &Observation<'_, T>) {
        self.add(seen.fisher);
        if let Some(path) = &mut self.path {
            path.add(seen, &self.fisher);
        }
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], _: &[T]) -> Option<Statistics> {
        if self.fisher.is_empty() {
            return None;
        }
        let mut importance = self.fisher.clone();
        if let Some(path) = &mut self.path {
            let score = path.finish(&self.fisher);
            let (most_fisher, most_score) = (most(&importance), most(score));
            for (f, s) in importance.iter_mut().zip(score) {
                *f = T::narrow(f.widen() / most_fisher + s.widen() / most_score);
            }
        }
        let statistics = sized(space, &mut importance, self.normalized);
        self.term = vec![Term::new(space, optimum, importance)];
        Some(statistics)
    }
}

/// Returns the greatest, above 0.
fn most<T: Real>(values: &[T]) -> f64 {
    values.iter().map(|value| value.widen()).fold(0.0, f64::max).max(f64::MIN_POSITIVE)
}
