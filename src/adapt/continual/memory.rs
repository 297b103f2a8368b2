//! Examples of earlier tasks.
use rand::{Rng, seq::IndexedRandom};

use super::protection::Rehearsal;
use crate::{
    adapt::data::Example,
    engine::{EngineError, TopLogits, Trainable},
};

/// An example, and what the model said at its scored positions at the end of its task.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) example: Example,
    /// Empty where they are not wanted.
    pub(super) logits: Vec<TopLogits>,
}

/// What is learned again: of every task as many.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) rehearsal: Rehearsal,
    kept: Vec<Vec<Kept>>,
}

impl Memory {
    pub(super) fn new(rehearsal: Rehearsal) -> Self {
        Self { rehearsal, kept: Vec::new() }
    }

    /// Keeps a finished task's share of these examples, and less of the others.
    pub(super) fn keep(
        &mut self,
        examples: impl Iterator<Item = Example>,
        trainee: &dyn Trainable,
    ) -> Result<(), EngineError> {
        let share = self.rehearsal.kept / (self.kept.len() + 1);
        self.kept.iter_mut().for_each(|kept| kept.truncate(share));
        let keep = |example: Example| {
            let count = self.rehearsal.distillation.map(|distillation| distillation.logits);
            let logits = count.map(|count| trainee.top_logits(&[example.scored()], count)).transpose()?;
            Ok(Kept { example, logits: logits.unwrap_or_default() })
        };
        self.kept.push(examples.take(share).map(keep).collect::<Result<_, EngineError>>()?);
        Ok(())
    }

    /// Returns so many, drawn anew each; none before the first task is done.
    pub(super) fn draw(&self, count: usize, random: &mut impl Rng) -> Vec<&Kept> {
        let all: Vec<&Kept> = self.kept.iter().flatten().collect();
        (0..count).filter_map(|_| all.choose(random).copied()).collect()
    }
}
