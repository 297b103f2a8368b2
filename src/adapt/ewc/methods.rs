//! How anchors and importances come to be: one method a type.
mod elastic;
mod moving;
mod path;

use super::{super::optim::Real, Needs, Regularizer, Space, Statistics, Term, normalize};
use elastic::{Ewc, Online};
use moving::Moving;
use path::Path;

/// The methods, for choosing one by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Nothing protects.
    Sequential,
    /// All numbers count alike.
    Anchored,
    /// EWC.
    Ewc,
    /// Online EWC.
    Online {
        /// γ, how much of the importances before stays.
        decay: f64,
    },
    /// EWC++.
    EwcPlusPlus {
        /// α, the weight of the newest batch.
        rate: f64,
    },
    /// `RWalk`.
    RWalk {
        /// α, as of EWC++.
        rate: f64,
        /// Steps between two looks at the path.
        every: u32,
    },
}

impl Method {
    /// Returns the method, before the first task. `normalized` brings each task's importances to a mean of 1.
    #[must_use]
    pub fn begin<T: Real + 'static>(self, normalized: bool) -> Box<dyn Regularizer<T>> {
        match self {
            Self::Sequential => Box::new(Sequential),
            Self::Anchored => Box::new(Anchored { term: Vec::new() }),
            Self::Ewc => Box::new(Ewc::new(normalized)),
            Self::Online { decay } => Box::new(Online::new(decay, normalized)),
            Self::EwcPlusPlus { rate } => Box::new(Moving::new(rate, None, normalized)),
            Self::RWalk { rate, every } => Box::new(Moving::new(rate, Some(Path::new(every)), normalized)),
        }
    }
}

/// Learns one task after another and protects nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Sequential;

impl<T: Real> Regularizer<T> for Sequential {
    fn terms(&self) -> &[Term<T>] {
        &[]
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn consolidate(&mut self, _: &Space, _: &[T], _: &[T]) -> Option<Statistics> {
        None
    }
}

/// Pulls to the latest optimum, all numbers alike: what EWC is worth is what it adds to this.
#[derive(Clone, Debug)]
struct Anchored<T> {
    term: Vec<Term<T>>,
}

impl<T: Real> Regularizer<T> for Anchored<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.term
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], _: &[T]) -> Option<Statistics> {
        let importance = vec![T::narrow(1.0); space.importances()];
        self.term = vec![Term::new(space, optimum, importance)];
        None
    }
}

/// Brings importances to a mean of 1 where they are to be, and returns what they were.
fn sized<T: Real>(space: &Space, importance: &mut [T], normalized: bool) -> Statistics {
    if normalized {
        return normalize(space, importance);
    }
    let (sum, least, most) = space.extent(importance);
    Statistics { mean: sum / space.coordinates().max(1) as f64, least, most }
}
