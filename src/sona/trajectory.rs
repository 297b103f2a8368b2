//! What a request leaves behind, and what its user said of the answer.
use super::SonaError;

/// What came back for an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Feedback {
    /// The answer was taken as it was.
    Accepted,
    /// The user put an answer of their own in its place, which is what is learned.
    Corrected,
    /// A number, of which more is better; it counts by how much it is above what answers usually get.
    Reward(f64),
}

impl Feedback {
    /// Returns its name, as the journal writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Corrected => "corrected",
            Self::Reward(_) => "reward",
        }
    }
}

/// The running mean of rewards over requests: what REINFORCE subtracts (Williams 1992).
///
/// It is of the requests before, never of the one it judges: a baseline of the same request's own reward
/// leaves nothing to learn from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    mean: Option<f64>,
}

/// The share of the newest reward in the running mean.
const NEWEST: f64 = 0.1;

impl Baseline {
    /// Returns how much a reward is above the mean of those before, 0 for the first, and takes it in.
    pub fn advantage(&mut self, reward: f64) -> f64 {
        let Some(mean) = self.mean else {
            self.mean = Some(reward);
            return 0.0;
        };
        self.mean = Some(mean + NEWEST * (reward - mean));
        reward - mean
    }

    /// Returns the weight a request's loss has in learning.
    ///
    /// # Errors
    ///
    /// If a reward is no number: an outcome that was never set must not pass for one.
    pub fn weight(&mut self, feedback: Feedback) -> Result<f64, SonaError> {
        match feedback {
            Feedback::Accepted | Feedback::Corrected => Ok(1.0),
            Feedback::Reward(reward) if reward.is_finite() => Ok(self.advantage(reward)),
            Feedback::Reward(reward) => Err(SonaError::Reward(reward)),
        }
    }

    pub(super) fn mean(self) -> Option<f64> {
        self.mean
    }

    pub(super) fn of(mean: Option<f64>) -> Self {
        Self { mean }
    }
}

/// A request that is worth learning again.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Its number.
    pub id: u64,
    /// The tokens of its prompt, at least one.
    pub prompt: Vec<u32>,
    /// The answer to learn: the user's own where they corrected it.
    pub answer: Vec<u32>,
    /// Where it lies among the others: [`Bank::key`](super::Bank::key) of its prompt.
    pub key: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A learner whose baseline is the request's own reward would find nothing above it, ever.
    #[test]
    fn the_baseline_is_of_other_requests() {
        let rewards = [1.0, 0.0, 1.0, 1.0, 0.0];
        let weights = |advantage: &mut dyn FnMut(f64) -> f64| rewards.map(advantage);
        let gate = |weights: [f64; 5]| {
            let signs = weights.map(|weight| (weight * 1e9) as i64);
            signs[1] < 0 && signs[2] > 0 && signs[4] < 0
        };
        let mut baseline = Baseline::default();
        assert!(gate(weights(&mut |reward| baseline.advantage(reward))));
        assert!(!gate(weights(&mut |reward| reward - reward)), "the gate lets a one-step baseline pass");
        // Rewards that never change teach nothing.
        let mut baseline = Baseline::default();
        assert!([0.7; 20].into_iter().all(|reward| baseline.advantage(reward).abs() <= 1e-12));
    }

    #[test]
    fn an_outcome_that_was_never_set_is_an_error() {
        let mut baseline = Baseline::default();
        assert!(matches!(baseline.weight(Feedback::Reward(f64::NAN)), Err(SonaError::Reward(_))));
        assert_eq!(baseline, Baseline::default());
        assert!((baseline.weight(Feedback::Accepted).unwrap() - 1.0).abs() <= 0.0);
    }
}
