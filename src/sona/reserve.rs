//! General text that shows what the fast loops cost it.
use std::sync::Arc;

use super::{Addition, Passage, Recall, Recollection, SonaError};
use crate::{
    adapt::micro_lora::{MicroLora, Request},
    engine::{Adapter, LanguageModel},
};

/// The likeliest tokens of each position that are taken note of: a step moves those of a request, which are not the
/// likeliest here.
const TOP_K: usize = 128;

/// As many tokens the reserve counts for in the precision of a micro adapter's prior.
const PRIOR_TOKENS: f32 = 32.0;

/// Positions at which the cache is held against general text after a request.
const POSITIONS: usize = 16;

/// General text as the model reads it that answers, and by how much learning may raise its loss.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// Prompts with what follows.
    text: Vec<(Vec<u32>, Vec<u32>)>,
    max_drift: f64,
    request: Request,
    /// The inputs of the head, `[positions, E]`, and the tokens that came.
    hidden: Vec<f32>,
    tokens: Vec<u32>,
    /// How likely the model held the likeliest token there.
    sure: Vec<f32>,
    /// The position the cache is held against next.
    next: usize,
}

impl Reserve {
    /// Reads general text, whose loss a loop may raise by the share `max_drift`.
    ///
    /// # Errors
    ///
    /// As [`Passage::read`].
    pub fn read(
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
        blank: &MicroLora,
        text: Vec<(Vec<u32>, Vec<u32>)>,
        max_drift: f64,
    ) -> Result<Self, SonaError> {
        let tokens: Vec<u32> = text.iter().flat_map(|(_, answer)| answer).copied().collect();
        let mut request = blank.request_of(TOP_K, tokens.len());
        let mut hidden = Vec::new();
        for (prompt, answer) in &text {
            let passage = Passage::read(engine, adapter, prompt, answer)?;
            passage.record(blank, &Addition::none(), answer, &mut request)?;
            hidden.extend(passage.hidden);
        }
        let sure = request.sure().collect();
        Ok(Self { text, max_drift, request, hidden, tokens, sure, next: 0 })
    }

    /// Reads the same text as the model reads it with another adapter.
    pub(super) fn read_again(
        &self,
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
        blank: &MicroLora,
    ) -> Result<Self, SonaError> {
        let read = Self::read(engine, adapter, blank, self.text.clone(), self.max_drift)?;
        Ok(Self { next: self.next, ..read })
    }

    /// Makes a micro adapter hold back the tokens that matter here.
    pub(super) fn protect(&self, micro: &mut MicroLora) {
        micro.protect(&self.request, PRIOR_TOKENS);
    }

    /// Takes a micro adapter back to where it costs general text no more than it may; returns the share that is left.
    pub(super) fn hold(&self, micro: &mut MicroLora) -> f64 {
        micro.retreat(&self.request, self.max_drift * self.request.mean_loss())
    }

    /// Teaches a cache what it is worth here, at some positions in turn, beside a request of so many tokens.
    pub(super) fn temper(&mut self, recall: &mut Recall, tokens: usize, room: &mut Recollection) {
        let positions = self.tokens.len();
        let weight = recall.settings().general_weight * tokens as f64 / POSITIONS as f64;
        for _ in 0..POSITIONS.min(positions) {
            let at = self.next % positions;
            self.next = at + 1;
            let width = self.hidden.len() / positions;
            recall.look(&self.hidden[at * width..][..width], self.sure[at], room);
            recall.gate.learn(room.of(self.tokens[at]), (-self.request.losses()[at]).exp(), weight);
        }
    }

    pub(super) fn max_drift(&self) -> f64 {
        self.max_drift
    }

    pub(super) fn next(&self) -> usize {
        self.next
    }

    pub(super) fn go_on_at(&mut self, next: usize) {
        self.next = next;
    }
}
