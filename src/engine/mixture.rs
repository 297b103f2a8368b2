//! Several adapters of which every token, at every matrix, takes what suits it.
use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{Adapter, EngineError, Place};

/// The most adapters that can be chosen among.
pub const MOST_MEMBERS: usize = 32;

/// One of the adapters that are chosen among at a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its ranks among those of the whole.
    pub ranks: Range<usize>,
    /// What its product is multiplied by where it alone is chosen.
    pub scale: f32,
    /// w, by which its score is `|w · (A x)|`, A being its own: one number a rank. A direction of inputs that
    /// lies in the rows of A is all that this can tell, so no other product with x is needed.
    pub prototype: Vec<f32>,
}

/// How a token chooses at a matrix: the members with the `top_k` highest scores share it, by the softmax of their
/// scores over `temperature`.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Whom there is to choose.
    pub members: Vec<Member>,
    /// How many are chosen.
    pub top_k: usize,
    /// What scores are divided by.
    pub temperature: f32,
}

impl Choice {
    /// Multiplies what A made of one input with what was chosen: ranks of members that were not become zero.
    pub(super) fn apply(&self, narrow: &mut [f32]) {
        let mut shares = [0.0f32; MOST_MEMBERS];
        for (Member { ranks, prototype, .. }, score) in self.members.iter().zip(&mut shares) {
            *score = narrow[ranks.clone()].iter().zip(prototype).map(|(x, w)| x * w).sum::<f32>().abs();
        }
        let shares = &mut shares[..self.members.len()];
        self.share(shares);
        for (Member { ranks, scale, .. }, share) in self.members.iter().zip(shares) {
            narrow[ranks.clone()].iter_mut().for_each(|x| *x *= *scale * *share);
        }
    }

    /// Puts shares, which sum to 1, in the place of scores; of equals the first are chosen.
    fn share(&self, scores: &mut [f32]) {
        let mut order = [0usize; MOST_MEMBERS];
        let order = &mut order[..scores.len()];
        order.iter_mut().zip(0..).for_each(|(at, index)| *at = index);
        order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let (chosen, others) = order.split_at(self.top_k.min(scores.len()));
        others.iter().for_each(|at| scores[*at] = 0.0);
        let highest = chosen.first().map_or(0.0, |at| scores[*at]);
        let mut total = 0.0;
        for at in chosen {
            scores[*at] = ((scores[*at] - highest) / self.temperature).exp();
            total += scores[*at];
        }
        chosen.iter().for_each(|at| scores[*at] /= total);
    }
}

/// How rows choose, by the place; where there is nothing, an adapter adds what it is.
pub(super) type Choices = BTreeMap<Place, Choice>;

/// Those of an adapter by itself.
pub(super) static NO_CHOICES: Choices = Choices::new();

/// Adapters that every token chooses among, at every matrix for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    adapter: Arc<Adapter>,
    choices: Choices,
}

impl Mixture {
    /// Returns a mixture of changes that lie side by side in one: at each place A of all members, one below the
    /// other, and B of all, one beside the other.
    ///
    /// # Errors
    ///
    /// If the members of a choice are too many, or do not divide the ranks of the change at its place.
    pub fn new(adapter: Adapter, choices: BTreeMap<Place, Choice>) -> Result<Self, EngineError> {
        for (place, Choice { members, top_k, temperature }) in &choices {
            let wrong = |problem: String| Err(EngineError::Adapter(format!("choice at the {place}: {problem}")));
            if members.len() > MOST_MEMBERS {
                return wrong(format!("{} adapters, of {MOST_MEMBERS} at most", members.len()));
            }
            if *top_k == 0 || temperature.is_nan() || *temperature <= 0.0 {
                return wrong(format!("{top_k} are chosen at the temperature {temperature}"));
            }
            let mut end = 0;
            for Member { ranks, prototype, .. } in members {
                if ranks.start != end || prototype.len() != ranks.len() {
                    return wrong(format!("{} numbers for the ranks {ranks:?} after {end}", prototype.len()));
                }
                end = ranks.end;
            }
            let rank = adapter.get(place).map_or(0, |change| change.rank);
            if end != rank {
                return wrong(format!("{end} ranks of {rank}"));
            }
        }
        Ok(Self { adapter: Arc::new(adapter), choices })
    }

    /// Returns all changes side by side. Nobody else has them, so they name the mixture.
    #[must_use]
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    pub(super) fn choices(&self) -> &Choices {
        &self.choices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{LowRank, Target};

    const PLACE: Place = Place { layer: 0, target: Target::Query };

    fn member(ranks: Range<usize>, scale: f32) -> Member {
        let prototype = vec![1.0; ranks.len()];
        Member { ranks, scale, prototype }
    }

    #[test]
    fn the_best_share_by_their_scores() {
        let members = vec![member(0..2, 2.0), member(2..3, 3.0), member(3..4, 5.0)];
        let mut choice = Choice { members, top_k: 1, temperature: 2.0 };
        let mut narrow = [1.0, -4.0, 2.0, -1.0];
        choice.apply(&mut narrow);
        assert_eq!(narrow, [2.0, -8.0, 0.0, 0.0]);
        choice.top_k = 2;
        let mut narrow = [1.0, -4.0, 2.0, -1.0];
        choice.apply(&mut narrow);
        let share = 1.0 / (1.0 + (-0.5f32).exp());
        for (found, right) in narrow.iter().zip([2.0 * share, -8.0 * share, 6.0 * (1.0 - share), 0.0]) {
            assert!((found - right).abs() <= 1e-6, "{found} {right}");
        }
        // All of them, and more than there are.
        choice.top_k = 9;
        let mut narrow = [1.0, -4.0, 2.0, -1.0];
        choice.apply(&mut narrow);
        assert!(narrow[3] < 0.0 && narrow[3] > -5.0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let change = LowRank { rank: 3, scale: 1.0, a: vec![0.0; 9], b: vec![0.0; 6], magnitude: None };
        let make = |members: Vec<Member>, top_k: usize| {
            let choice = Choice { members, top_k, temperature: 1.0 };
            Mixture::new(Adapter::from([(PLACE, change.clone())]), BTreeMap::from([(PLACE, choice)]))
        };
        assert_eq!(
            make(vec![member(0..1, 1.0), member(1..3, 1.0)], 1)
                .unwrap()
                .adapter()
                .values()
                .map(LowRank::parameters)
                .sum::<usize>(),
            15
        );
        assert!(make(vec![member(0..1, 1.0), member(2..3, 1.0)], 1).is_err());
        assert!(make(vec![member(0..2, 1.0)], 1).is_err());
        assert!(make(vec![member(0..3, 1.0)], 0).is_err());
        assert!(make((0..40).map(|at| member(at..at + 1, 1.0)).collect(), 1).is_err());
    }
}
