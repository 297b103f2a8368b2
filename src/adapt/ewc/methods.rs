//! How anchors and importances come to be: one method a type.
use super::{super::optim::Real, Needs, Observation, Regularizer, Space, Statistics, Term, normalize};

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
            Self::Ewc => Box::new(Ewc { terms: Vec::new(), normalized }),
            Self::Online { decay } => Box::new(Online { term: Vec::new(), decay, normalized }),
            Self::EwcPlusPlus { rate } => {
                Box::new(EwcPlusPlus { running: Running { rate, fisher: Vec::new() }, term: Vec::new(), normalized })
            }
            Self::RWalk { rate, every } => Box::new(RWalk {
                running: Running { rate, fisher: Vec::new() },
                path: Path { every: every.max(1), ..Path::default() },
                term: Vec::new(),
                normalized,
            }),
        }
    }
}

/// Learns one task after another and protects nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

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
pub struct Anchored<T> {
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
        self.term = vec![Term { anchor: optimum.to_vec(), importance }];
        None
    }
}

/// EWC (arXiv 1612.00796): an anchor and a Fisher information of every task.
#[derive(Clone, Debug)]
pub struct Ewc<T> {
    terms: Vec<Term<T>>,
    normalized: bool,
}

impl<T: Real> Regularizer<T> for Ewc<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.terms
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], fisher: &[T]) -> Option<Statistics> {
        let mut importance = fisher.to_vec();
        let statistics = sized(space, &mut importance, self.normalized);
        self.terms.push(Term { anchor: optimum.to_vec(), importance });
        Some(statistics)
    }
}

/// Online EWC (arXiv 1805.06370): one anchor, the latest optimum, and `F ← γ F + F_t`.
#[derive(Clone, Debug)]
pub struct Online<T> {
    term: Vec<Term<T>>,
    decay: f64,
    normalized: bool,
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
        self.term = vec![Term { anchor: optimum.to_vec(), importance }];
        Some(statistics)
    }
}

/// A moving average of the Fisher information of batches, over all tasks.
#[derive(Clone, Debug)]
struct Running<T> {
    rate: f64,
    fisher: Vec<T>,
}

impl<T: Real> Running<T> {
    /// `F ← α F_batch + (1 - α) F`, from the first batch's on.
    fn add(&mut self, batch: &[T]) {
        if self.fisher.is_empty() {
            self.fisher = batch.to_vec();
            return;
        }
        for (average, new) in self.fisher.iter_mut().zip(batch) {
            *average = T::narrow(average.widen() + self.rate * (new.widen() - average.widen()));
        }
    }
}

/// EWC++ (arXiv 1801.10112, section 4.1): one anchor, and the moving average of every batch's Fisher
/// information, which needs no pass of its own over a task's data. The paper's α = 0.9 is of the newest
/// batch, which leaves hardly an average; a slow one (0.01) estimates far better.
#[derive(Clone, Debug)]
pub struct EwcPlusPlus<T> {
    running: Running<T>,
    term: Vec<Term<T>>,
    normalized: bool,
}

impl<T: Real> Regularizer<T> for EwcPlusPlus<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.term
    }

    fn needs(&self) -> Needs {
        Needs::EveryStep
    }

    fn observe(&mut self, seen: &Observation<'_, T>) {
        self.running.add(seen.fisher);
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], _: &[T]) -> Option<Statistics> {
        if self.running.fisher.is_empty() {
            return None;
        }
        let mut importance = self.running.fisher.clone();
        let statistics = sized(space, &mut importance, self.normalized);
        self.term = vec![Term { anchor: optimum.to_vec(), importance }];
        Some(statistics)
    }
}

/// How much of the loss each number's path took away, for its distance in KL divergence.
#[derive(Clone, Debug)]
struct Path<T> {
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

impl<T> Default for Path<T> {
    fn default() -> Self {
        Self { every: 1, steps: 0, gained: Vec::new(), moved: Vec::new(), score: Vec::new(), old: Vec::new() }
    }
}

/// What is added to a squared distance before it divides.
const PATH_EPSILON: f64 = 1.0e-10;

impl<T: Real> Path<T> {
    fn add(&mut self, seen: &Observation<'_, T>, fisher: &[T]) {
        let count = seen.gradient.len();
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

    /// Returns the mean of this task's score and that of before, which becomes that of before.
    fn finish(&mut self) -> &[T] {
        let has_old = !self.old.is_empty();
        self.old.resize(self.score.len(), T::narrow(0.0));
        for (old, new) in self.old.iter_mut().zip(&self.score) {
            *old = T::narrow(if has_old { 0.5 * (old.widen() + new) } else { *new });
        }
        self.score.fill(0.0);
        self.gained.fill(0.0);
        self.moved.fill(0.0);
        self.steps = 0;
        &self.old
    }
}

/// `RWalk` (arXiv 1801.10112): EWC++ with the path's score added, `F / max F + s / max s`.
///
/// It sees single coordinates, so importances of rank 1 are not for it.
#[derive(Clone, Debug)]
pub struct RWalk<T> {
    running: Running<T>,
    path: Path<T>,
    term: Vec<Term<T>>,
    normalized: bool,
}

impl<T: Real> Regularizer<T> for RWalk<T> {
    fn terms(&self) -> &[Term<T>] {
        &self.term
    }

    fn needs(&self) -> Needs {
        Needs::EveryStep
    }

    fn observe(&mut self, seen: &Observation<'_, T>) {
        self.running.add(seen.fisher);
        self.path.add(seen, &self.running.fisher);
    }

    fn consolidate(&mut self, space: &Space, optimum: &[T], _: &[T]) -> Option<Statistics> {
        if self.running.fisher.is_empty() {
            return None;
        }
        let most = |values: &[T]| values.iter().map(|value| value.widen()).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let fisher = &self.running.fisher;
        let score = self.path.finish();
        let (most_fisher, most_score) = (most(fisher), most(score));
        let both = |(f, s): (&T, &T)| T::narrow(f.widen() / most_fisher + s.widen() / most_score);
        let mut importance: Vec<T> = fisher.iter().zip(score).map(both).collect();
        let statistics = sized(space, &mut importance, self.normalized);
        self.term = vec![Term { anchor: optimum.to_vec(), importance }];
        Some(statistics)
    }
}

fn sized<T: Real>(space: &Space, importance: &mut [T], normalized: bool) -> Statistics {
    if normalized {
        return normalize(space, importance);
    }
    let (sum, least, most) = space.extent(importance);
    Statistics { mean: sum / space.coordinates().max(1) as f64, least, most }
}
