//! Which label a text has, by how likely the model holds each label's words after it.
use super::ContinualTrainer;
use crate::{
    adapt::data::Example,
    engine::{EngineError, Scored, Trainable},
};

/// A text, and which label it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// All that comes before the label.
    pub prompt: Vec<u32>,
    /// The label's place in [`Choices`].
    pub label: usize,
}

/// What a model made of a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The negative log-likelihood of the right label's tokens, in nats.
    pub nll: f64,
    /// How many these are.
    pub tokens: usize,
    /// Whether no other label is likelier.
    pub right: bool,
}

/// The labels there are to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    labels: Vec<Vec<u32>>,
    /// Every token of theirs once.
    tokens: Vec<u32>,
}

/// What is known of a question's labels: of each the log-likelihood of its first tokens, and how many.
struct Known {
    labels: Vec<(f64, usize)>,
}

impl Choices {
    /// Returns the choice between these labels, none of them empty.
    #[must_use]
    pub fn new(labels: Vec<Vec<u32>>) -> Self {
        let mut tokens: Vec<u32> = labels.iter().flatten().copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self { labels, tokens }
    }

    /// Returns the tokens of each label.
    #[must_use]
    pub fn labels(&self) -> &[Vec<u32>] {
        &self.labels
    }

    /// Returns a question with its label, to learn from.
    #[must_use]
    pub fn example(&self, question: &Question) -> Example {
        let tokens = question.prompt.iter().chain(&self.labels[question.label]).copied().collect();
        Example { tokens, prompt: question.prompt.len() }
    }

    /// Returns the model's answers to questions, so many at once.
    ///
    /// A pass over a prompt with one label tells the likelihood of every label as far as both are the same
    /// and one token beyond. The right label is the first; another gets a pass of its own only while what is
    /// known of it is likelier than the likeliest that is known whole, since more tokens make none likelier.
    ///
    /// # Errors
    ///
    /// As [`Trainable::loss`].
    pub fn ask(
        &self,
        trainee: &dyn Trainable,
        questions: &[Question],
        batch: usize,
    ) -> Result<Vec<Answer>, EngineError> {
        let mut known: Vec<Known> =
            questions.iter().map(|_| Known { labels: vec![(0.0, 0); self.labels.len()] }).collect();
        let mut passes: Vec<(usize, usize)> = questions.iter().map(|question| question.label).enumerate().collect();
        while !passes.is_empty() {
            for passes in passes.chunks(batch.max(1)) {
                self.pass(trainee, questions, passes, &mut known)?;
            }
            passes = known.iter().enumerate().filter_map(|(at, known)| Some((at, self.open(known)?))).collect();
        }
        let answer = |(question, known): (&Question, &Known)| {
            let (own, tokens) = known.labels[question.label];
            let whole = known.labels.iter().zip(&self.labels).filter(|((_, known), label)| *known == label.len());
            Answer { nll: -own, tokens, right: whole.into_iter().all(|((other, _), _)| *other <= own) }
        };
        Ok(questions.iter().zip(&known).map(answer).collect())
    }

    /// Returns the likeliest label that is not known whole, if it is likelier than all that are.
    fn open(&self, known: &Known) -> Option<usize> {
        let labels = || known.labels.iter().zip(&self.labels).enumerate();
        let whole = labels().filter(|(_, ((_, count), label))| *count == label.len());
        let best = whole.map(|(_, ((likely, _), _))| *likely).fold(f64::NEG_INFINITY, f64::max);
        let open = labels().filter(|(_, ((likely, count), label))| *count < label.len() && *likely > best);
        open.max_by(|(_, ((a, _), _)), (_, ((b, _), _))| a.total_cmp(b)).map(|(at, _)| at)
    }

    /// Learns what passes over prompts with a label each tell.
    fn pass(
        &self,
        trainee: &dyn Trainable,
        questions: &[Question],
        passes: &[(usize, usize)],
        known: &mut [Known],
    ) -> Result<(), EngineError> {
        let of = |(at, label): &(usize, usize)| self.example(&Question { label: *label, ..questions[*at].clone() });
        let examples: Vec<Example> = passes.iter().map(of).collect();
        let sequences: Vec<Scored<'_>> = examples.iter().map(Example::scored).collect();
        let rows = trainee.log_likelihoods(&sequences, &self.tokens)?;
        let mut rows = rows.chunks_exact(self.tokens.len());
        for (at, passed) in passes {
            let passed = &self.labels[*passed];
            let rows: Vec<&[f64]> = rows.by_ref().take(passed.len()).collect();
            for (label, (likely, count)) in self.labels.iter().zip(&mut known[*at].labels) {
                let shared = label.iter().zip(passed).take_while(|(a, b)| a == b).count();
                let told = (shared + 1).min(label.len()).min(passed.len());
                if told > *count {
                    let token = |(row, token): (&&[f64], &u32)| {
                        self.tokens.binary_search(token).map_or(f64::NEG_INFINITY, |column| row[column])
                    };
                    *likely = rows.iter().zip(&label[..told]).map(token).sum();
                    *count = told;
                }
            }
        }
        Ok(())
    }
}

impl ContinualTrainer {
    /// Returns its answers to questions.
    ///
    /// # Errors
    ///
    /// As [`Trainable::loss`].
    pub fn answers(&self, choices: &Choices, questions: &[Question]) -> Result<Vec<Answer>, EngineError> {
        choices.ask(self.trainee.as_ref(), questions, self.updates.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapt::train::fresh,
        engine::{Target, Trainee, TraineeSettings},
        model::weights::Weights,
    };

    #[test]
    fn answers_are_those_of_every_label_scored_in_full() {
        let weights = Weights::open("builtin:pico").unwrap();
        let adapter = fresh(weights.spec(), &[Target::Query], 1, 1.0, 0);
        let trainee = Trainee::load(&weights, &adapter, TraineeSettings::default()).unwrap();
        let labels = vec![vec![40], vec![41, 42], vec![41, 43, 44], vec![45, 46, 47], vec![46]];
        let choices = Choices::new(labels.clone());
        let questions: Vec<Question> = (0..15u32)
            .map(|at| Question {
                prompt: (0..3 + at % 4).map(|i| 5 + (i * 7 + at * 11) % 60).collect(),
                label: at as usize % 5,
            })
            .collect();
        let answers = choices.ask(&trainee, &questions, 4).unwrap();
        for (question, answer) in questions.iter().zip(&answers) {
            let nll = |label: usize| {
                let example = choices.example(&Question { label, ..question.clone() });
                trainee.loss(&[example.scored()]).unwrap()
            };
            let own = nll(question.label);
            assert!((answer.nll - own).abs() <= 1.0e-4, "{} {own}", answer.nll);
            assert_eq!(answer.tokens, labels[question.label].len());
            let best = (0..labels.len()).map(nll).fold(f64::INFINITY, f64::min);
            assert_eq!(answer.right, own <= best, "{own} {best}");
        }
        assert!(answers.iter().any(|answer| answer.right) && answers.iter().any(|answer| !answer.right));
    }
}
