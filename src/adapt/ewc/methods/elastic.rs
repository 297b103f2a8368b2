//! EWC and online EWC: Fisher information of finished tasks.
use super::{
    super::{super::optim::Real, Regularizer, Space, Statistics, Term},
    sized,
};

/// EWC (arXiv 1612.00796): an anchor and a Fisher information of every task.
#[derive(Clone, Debug)]
pub(super) struct Ewc<T> {
    terms: Vec<Term<T>>,
    normalized: bool,
}

impl<T> Ewc<T> {
    pub(super) fn new(normalized: bool) -> Self {
        Self { terms: Vec::new(), normalized }
    }
}

impl<T: Real> Regularizer<T> for Ewc<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.terms
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], fisher: &[T]) -> Option<Statistics> {
        let mut importance = fisher.to_vec();
        let statistics = sized(space, &mut importance, self.normalized);
        self.terms.push(Term::new(space, optimum, importance));
        Some(statistics)
    }
}

/// Online EWC (arXiv 1805.06370): one anchor, the latest optimum, and `F ← γ F + F_t`.
#[derive(Clone, Debug)]
pub(super) struct Online<T> {
    term: Vec<Term<T>>,
    decay: f64,
    normalized: bool,
}

impl<T> Online<T> {
    pub(super) fn new(decay: f64, normalized: bool) -> Self {
        Self { term: Vec::new(), decay, normalized }
    }
}

impl<T: Real> Regularizer<T> for Online<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.term
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], fisher: &[T]) -> Option<Statistics> {
        let mut importance = fisher.to_vec();
        let statistics = sized(space, &mut importance, self.normalized);
        if let Some(Term { importance: before, .. }) = self.term.first() {
            for (new, old) in importance.iter_mut().zip(before) {
                *new = T::narrow(new.widen() + self.decay * old.widen());
            }
        }
        self.term = vec![Term::new(space, optimum, importance)];
        Some(statistics)
    }
}
