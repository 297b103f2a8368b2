//! What comes back for each request of a stream.
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{recipe::schema::SonaControl, sona::Feedback, workload::prompt::derive_seed};

/// What a request was answered with, before the user's word on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What the text goes on with.
    Right,
    /// General text, which has nothing to do with the prompt.
    OffTopic,
}

/// An answer with what came back for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) answer: Answer,
    pub(super) feedback: Feedback,
}

/// Returns the outcomes of so many requests; of shuffled ones the answers are the same, and what came back
/// is that of another request.
pub(super) fn outcomes(count: usize, seed: u64, control: SonaControl) -> Vec<Outcome> {
    let mut random = ChaCha8Rng::seed_from_u64(derive_seed("feedback", seed, 0, 0));
    let draw = |_| {
        let (answer, feedback) = match random.random_range(0..8) {
            0 | 1 => (Answer::Right, Feedback::Accepted),
            2 => (Answer::Right, Feedback::Corrected),
            3 | 4 => (Answer::Right, Feedback::Reward(1.0)),
            _ => (Answer::OffTopic, Feedback::Reward(0.0)),
        };
        Outcome { answer, feedback }
    };
    let mut all: Vec<Outcome> = (0..count).map(draw).collect();
    if control == SonaControl::ShuffledFeedback {
        let mut feedback: Vec<Feedback> = all.iter().map(|outcome| outcome.feedback).collect();
        feedback.shuffle(&mut random);
        all.iter_mut().zip(feedback).for_each(|(outcome, feedback)| outcome.feedback = feedback);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_deals_the_same_feedback_to_the_same_answers_anew() {
        let [plain, shuffled] =
            [SonaControl::None, SonaControl::ShuffledFeedback].map(|control| outcomes(500, 3, control));
        assert_eq!(outcomes(500, 3, SonaControl::None), plain);
        assert!(outcomes(500, 4, SonaControl::None) != plain);
        assert!(plain.iter().zip(&shuffled).all(|(a, b)| a.answer == b.answer));
        let names = |all: &[Outcome]| {
            let mut names: Vec<&str> = all.iter().map(|outcome| outcome.feedback.name()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&plain), names(&shuffled));
        let taken = |all: &[Outcome]| {
            let wrong = all.iter().filter(|outcome| outcome.answer == Answer::OffTopic);
            wrong.filter(|outcome| outcome.feedback == Feedback::Accepted).count()
        };
        assert_eq!(taken(&plain), 0);
        assert!(taken(&shuffled) >= 20, "{}", taken(&shuffled));
    }
}
