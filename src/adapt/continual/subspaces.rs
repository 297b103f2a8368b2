//! Factors of its own for every task, and what keeps them apart (O-LoRA, arXiv 2310.14152).
use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::protection::Orthogonality;
use crate::engine::{Adapter, LowRank};

/// Returns the adapter with room for so many tasks: the first has its own factors, and each other one as
/// many rows of A, drawn likewise, and columns of zeros in B. It changes what the first changes.
#[must_use]
pub fn widened(adapter: &Adapter, tasks: usize, seed: u64) -> Adapter {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut widen = |change: &LowRank| {
        let (inputs, rank) = (change.a.len() / change.rank, change.rank * tasks);
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut a = change.a.clone();
        a.extend((change.a.len()..rank * inputs).map(|_| random.random_range(-bound..bound)));
        let row = |own: &[f32]| own.iter().copied().chain(std::iter::repeat(0.0)).take(rank).collect::<Vec<f32>>();
        let b = change.b.chunks(change.rank).flat_map(row).collect();
        LowRank { rank, scale: change.scale, a, b, magnitude: None }
    };
    adapter.iter().map(|(place, change)| (*place, widen(change))).collect()
}

/// The shape of one place's factors, in a list of A and B of all places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factors {
    /// Rows of A, columns of B.
    pub(super) rank: usize,
    /// Numbers of A.
    pub(super) a: usize,
    /// Numbers of B.
    pub(super) b: usize,
}

/// Which task learns, and which have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subspaces {
    orthogonality: Orthogonality,
    /// Tasks that are done.
    done: usize,
    factors: Vec<Factors>,
}

impl Subspaces {
    pub(super) fn new(orthogonality: Orthogonality, factors: Vec<Factors>) -> Self {
        Self { orthogonality, done: 0, factors }
    }

    /// Ends a task.
    pub(super) fn advance(&mut self) {
        self.done = (self.done + 1).min(self.orthogonality.tasks.saturating_sub(1));
    }

    /// Returns the rows of A, and columns of B, that are the task's own at a place.
    fn own(&self, factors: Factors) -> Range<usize> {
        let rank = factors.rank / self.orthogonality.tasks.max(1);
        self.done * rank..(self.done + 1) * rank
    }

    /// Calls for each number that is not the task's own, by its place in the list of all.
    fn for_others(&self, mut call: impl FnMut(usize)) {
        let mut start = 0;
        for factors in &self.factors {
            let (own, inputs) = (self.own(*factors), factors.a / factors.rank);
            let of_a = (0..factors.a).filter(|at| !own.contains(&(at / inputs)));
            let of_b = (0..factors.b).filter(|at| !own.contains(&(at % factors.rank))).map(|at| factors.a + at);
            of_a.chain(of_b).for_each(|at| call(start + at));
            start += factors.a + factors.b;
        }
    }

    /// Adds the gradient of `λ₁ Σ |A_i Aᵀ|`, and leaves nothing of what is not the task's own.
    pub(super) fn constrain(&self, parameters: &[f32], gradient: &mut [f32]) {
        let weight = self.orthogonality.weight as f32;
        let mut start = 0;
        for factors in &self.factors {
            let (own, inputs) = (self.own(*factors), factors.a / factors.rank);
            let (a, grads) = (&parameters[start..start + factors.a], &mut gradient[start..start + factors.a]);
            for k in own.clone() {
                let (row, grad) = (&a[k * inputs..][..inputs], &mut grads[k * inputs..][..inputs]);
                for before in a[..own.start * inputs].chunks_exact(inputs) {
                    let product: f32 = row.iter().zip(before).map(|(x, y)| x * y).sum();
                    // At 0 the absolute value has no slope.
                    let slope = if product == 0.0 { 0.0 } else { weight * product.signum() };
                    grad.iter_mut().zip(before).for_each(|(grad, y)| *grad += slope * y);
                }
            }
            start += factors.a + factors.b;
        }
        self.for_others(|at| gradient[at] = 0.0);
    }

    /// Puts what is not the task's own back to what it was: decay moves what has no gradient.
    pub(super) fn restore(&self, before: &[f32], parameters: &mut [f32]) {
        self.for_others(|at| parameters[at] = before[at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subspaces() -> Subspaces {
        // Two tasks of rank 1, 2 inputs, 1 output.
        let factors = Factors { rank: 2, a: 4, b: 2 };
        Subspaces::new(Orthogonality { weight: 0.5, tasks: 2 }, vec![factors])
    }

    #[test]
    fn a_task_is_pulled_off_the_rows_of_earlier_ones_and_moves_only_its_own() {
        let mut subspaces = subspaces();
        // A = [[1, 2], [3, -1]]: the rows' product is 1.
        let parameters = [1.0, 2.0, 3.0, -1.0, 7.0, 8.0];
        let mut gradient = [1.0; 6];
        subspaces.constrain(&parameters, &mut gradient);
        assert_eq!(gradient, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        subspaces.advance();
        let mut gradient = [0.0; 6];
        subspaces.constrain(&parameters, &mut gradient);
        assert_eq!(gradient, [0.0, 0.0, 0.5, 1.0, 0.0, 0.0]);
        let mut moved = [0.0; 6];
        subspaces.restore(&parameters, &mut moved);
        assert_eq!(moved, [1.0, 2.0, 0.0, 0.0, 7.0, 0.0]);
        // No room for a third: it shares the last one's.
        subspaces.advance();
        assert_eq!(subspaces.done, 1);
    }

    #[test]
    fn a_widened_adapter_changes_what_it_changed() {
        use crate::engine::{Place, Target};
        let place = Place { layer: 0, target: Target::Query };
        let change = LowRank { rank: 1, scale: 2.0, a: vec![1.0, 2.0], b: vec![3.0, 4.0, 5.0], magnitude: None };
        let wide = widened(&[(place, change)].into_iter().collect(), 3, 7);
        let LowRank { rank, scale, a, b, .. } = &wide[&place];
        assert_eq!((*rank, *scale, &a[..2], a.len()), (3, 2.0, &[1.0, 2.0][..], 6));
        assert_eq!(b, &[3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 5.0, 0.0, 0.0]);
        assert!(a[2..].iter().all(|value| *value != 0.0 && value.abs() <= 0.5_f32.sqrt()));
    }
}
