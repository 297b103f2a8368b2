//! Elastic weight consolidation and its relatives: quadratic pulls to what earlier tasks had learned,
//! weighted by how much each number mattered to them.
//!
//! A [`Regularizer`] keeps the [`Term`]s of a penalty `Ω(θ) = c λ Σ_terms Σ_i F_i (D_i(θ))²`, where D is how
//! far θ is from the term's anchor, measured in a [`Space`]: number by number, or in the product ΔW = s B A
//! of two factors, which is what the model sees. c is ½ or 1 ([`Convention`]): papers differ. Whose
//! gradients make F is a [`fisher::Kind`].
//!
//! Nothing here knows an engine; parameters and importances are slices, and sums are in f64.
mod digits;
pub mod fisher;
mod importance;
mod methods;
mod solve;
mod space;
#[cfg(test)]
mod tests;

pub use digits::{Arm, Digits, Network, Outcome, Study};
pub use importance::{Statistics, normalize};
pub use methods::Method;
pub use space::{Block, Space};

use super::optim::Real;

/// What is multiplied before a penalty: the papers clash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// `(λ/2) Σ F D²` (arXiv 1612.00796).
    #[default]
    Half,
    /// `λ Σ F D²` (arXiv 1801.10112, and Avalanche).
    Full,
}

/// How strong a penalty is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// λ, at least 0.
    pub lambda: f64,
    /// What λ is of.
    pub convention: Convention,
}

impl Strength {
    /// Returns what `F D` is multiplied by in the penalty's gradient.
    #[must_use]
    pub fn slope(self) -> f64 {
        match self.convention {
            Convention::Half => self.lambda,
            Convention::Full => 2.0 * self.lambda,
        }
    }
}

/// One pull: to where, and how much each number of the space counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Term<T> {
    /// θ*.
    pub anchor: Vec<T>,
    /// F, as [`Space::importances`] counts.
    pub importance: Vec<T>,
}

impl<T: Real> Term<T> {
    /// Returns the pull to these parameters.
    ///
    /// # Panics
    ///
    /// If they are not as many as the space has, or the importances are not.
    fn new(space: &Space, anchor: &[T], importance: Vec<T>) -> Self {
        assert_eq!(anchor.len(), space.parameters(), "an anchor of another space");
        assert_eq!(importance.len(), space.importances(), "importances of another space");
        Self { anchor: anchor.to_vec(), importance }
    }
}

/// Which Fisher information a method wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// None.
    Nothing,
    /// That of a finished task, at its end.
    AtTheEnd,
    /// An estimate from every batch, as training goes on.
    EveryStep,
}

/// What happened in one step of training.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a, T> {
    /// An estimate of the Fisher information from this batch alone.
    pub fisher: &'a [T],
    /// The gradient of the task's loss, in the space's coordinates.
    pub gradient: &'a [T],
    /// How far the step went, in the space's coordinates.
    pub moved: &'a [T],
}

/// What protects earlier tasks while a later one is learned.
pub trait Regularizer<T: Real> {
    /// Returns the pulls there are now; none before the first task is done.
    fn terms(&self) -> &[Term<T>];

    /// Returns which Fisher information it wants.
    fn needs(&self) -> Needs {
        Needs::AtTheEnd
    }

    /// Takes note of a step; only where [`Needs::EveryStep`].
    ///
    /// # Panics
    ///
    /// If it is not of the space the steps before were in.
    fn observe(&mut self, _: &Observation<'_, T>) {}

    /// Ends a task that was left at `optimum`. `fisher` is its Fisher information where
    /// [`Needs::AtTheEnd`], and otherwise not looked at. Returns what is known of the new importances.
    ///
    /// # Panics
    ///
    /// If optimum or importances are not as many numbers as the space has.
    fn consolidate(&mut self, space: &Space, optimum: &[T], fisher: &[T]) -> Option<Statistics>;

    /// Returns Ω.
    fn penalty(&self, space: &Space, strength: Strength, parameters: &[T]) -> f64 {
        let half = |term: &Term<T>| space.half_square(&term.importance, &term.anchor, parameters);
        strength.slope() * self.terms().iter().map(half).sum::<f64>()
    }

    /// Adds the gradient of Ω.
    fn add_gradient(&self, space: &Space, strength: Strength, parameters: &[T], gradient: &mut [T]) {
        for Term { anchor, importance } in self.terms() {
            space.add_gradient(strength.slope(), importance, anchor, parameters, gradient);
        }
    }

    /// Moves parameters to where `|θ - θ'|² / (2 η) + Ω(θ')` is least, instead of down a gradient: stable
    /// however large η λ F is. In a product space the two factors take turns, each solved exactly while
    /// the other stands still, so that no turn can raise that sum.
    fn pull(&self, space: &Space, strength: Strength, learning_rate: f64, parameters: &mut [T]) {
        if strength.lambda > 0.0 {
            space.pull(learning_rate * strength.slope(), self.terms(), parameters);
        }
    }
}
