//! Examples of earlier tasks.
use rand::{Rng, seq::IndexedRandom};

use super::protection::Rehearsal;
use crate::adapt::data::Example;

/// What is learned again: of every task as many.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    rehearsal: Rehearsal,
    kept: Vec<Vec<Example>>,
}

impl Memory {
    pub(super) fn new(rehearsal: Rehearsal) -> Self {
        Self { rehearsal, kept: Vec::new() }
    }

    /// Keeps a finished task's share of these examples, and less of the others.
    pub(super) fn keep(&mut self, examples: impl Iterator<Item = Example>) {
        let share = self.rehearsal.kept / (self.kept.len() + 1);
        self.kept.iter_mut().for_each(|kept| kept.truncate(share));
        self.kept.push(examples.take(share).collect());
    }

    /// Returns so many, drawn anew each; none before the first task is done.
    pub(super) fn draw(&self, count: usize, random: &mut impl Rng) -> Vec<&Example> {
        let all: Vec<&Example> = self.kept.iter().flatten().collect();
        (0..count).filter_map(|_| all.choose(random).copied()).collect()
    }
}
