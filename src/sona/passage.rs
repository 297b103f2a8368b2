//! A request read through an engine: what it leaves to score, and to learn from.
use std::sync::Arc;

use super::{Addition, SonaError};
use crate::{
    adapt::micro_lora::{MicroLora, MicroLoraError, Request},
    engine::{Adapter, Chunk, LanguageModel, LogitRows, SequenceId},
    model::sampler::greatest,
};

/// Tokens at the end of a prompt whose inputs of the head make its key.
pub const KEY_TOKENS: usize = 16;

/// A prompt with its answer, as a model with an adapter reads them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passage {
    /// The inputs of the head at the last tokens of the prompt, `[rows, E]`.
    pub prompt: Vec<f32>,
    /// The inputs of the head that predict the answer, `[answer, E]`.
    pub hidden: Vec<f32>,
    /// The logits of the answer's tokens, `[answer, V]`, without any addition.
    pub logits: Vec<f32>,
    vocab_size: usize,
    hidden_size: usize,
}

impl Passage {
    /// Reads a prompt and its answer.
    ///
    /// # Errors
    ///
    /// If one of them is empty, they do not fit the context, or the engine does not show the inputs of its head.
    pub fn read(
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
        prompt: &[u32],
        answer: &[u32],
    ) -> Result<Self, SonaError> {
        let mut reading = Reading::begin(engine, adapter, prompt, answer)?;
        let read = reading.go_on(engine, usize::MAX);
        let passage = reading.end(engine);
        read.map(|_| passage)
    }

    /// Takes note of every position in a request, under an addition, for micro adapters with the directions of
    /// `micro` to learn from.
    ///
    /// # Errors
    ///
    /// If the logits are no numbers.
    pub fn record(
        &self,
        micro: &MicroLora,
        addition: &Addition,
        answer: &[u32],
        request: &mut Request,
    ) -> Result<(), MicroLoraError> {
        let mut row = vec![0.0; self.vocab_size];
        let positions = self.hidden.chunks_exact(self.hidden_size).zip(self.logits.chunks_exact(self.vocab_size));
        for ((hidden, logits), token) in positions.zip(answer) {
            let projected = micro.project(hidden);
            row.copy_from_slice(logits);
            addition.apply(projected, &mut row);
            request.record(projected, &row, *token)?;
        }
        Ok(())
    }

    /// Returns the mean loss of the answer under an addition with the directions of `micro`.
    #[must_use]
    pub fn loss(&self, micro: &MicroLora, addition: &Addition, answer: &[u32]) -> f64 {
        self.loss_with(micro, addition, answer, |loss, _, _| loss)
    }

    /// Returns what [`Self::loss`] does, where what else is mixed into a prediction makes of the loss of a token what
    /// `mixed` returns, by the input of the head and by how likely the likeliest token is.
    pub(super) fn loss_with(
        &self,
        micro: &MicroLora,
        addition: &Addition,
        answer: &[u32],
        mut mixed: impl FnMut(f64, (&[f32], f32), u32) -> f64,
    ) -> f64 {
        let mut row = vec![0.0; self.vocab_size];
        let loss = |((hidden, logits), token): ((&[f32], &[f32]), &u32)| {
            row.copy_from_slice(logits);
            addition.apply(micro.project(hidden), &mut row);
            let normaliser = ruvlab_kernels::log_sum_exp_f32(&row);
            let sure = (greatest(&row) - normaliser as f32).exp();
            mixed(normaliser - f64::from(row[*token as usize]), (hidden, sure), *token)
        };
        let positions = self.hidden.chunks_exact(self.hidden_size).zip(self.logits.chunks_exact(self.vocab_size));
        positions.zip(answer).map(loss).sum::<f64>() / answer.len() as f64
    }
}

/// A prompt with its answer that is read a part at a time.
#[derive(Debug)]
pub(super) struct Reading {
    sequence: SequenceId,
    /// The prompt and all of its answer but for the last token, which is only predicted.
    tokens: Vec<u32>,
    prompt: usize,
    read: usize,
    passage: Passage,
}

impl Reading {
    /// Opens a sequence for it.
    pub(super) fn begin(
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
        prompt: &[u32],
        answer: &[u32],
    ) -> Result<Self, SonaError> {
        let Some((_, answered)) = answer.split_last().filter(|_| !prompt.is_empty()) else {
            return Err(SonaError::Empty);
        };
        engine.keep_hidden(true)?;
        let sequence = engine.open()?;
        if let Err(error) = engine.attach(sequence, adapter.cloned()) {
            engine.close(sequence);
            return Err(error.into());
        }
        let (vocab_size, hidden_size) = (engine.spec().vocab_size, engine.spec().hidden_size);
        let passage = Passage { vocab_size, hidden_size, ..Passage::default() };
        Ok(Self { sequence, tokens: [prompt, answered].concat(), prompt: prompt.len(), read: 0, passage })
    }

    /// Returns how many tokens are left to be read.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.read
    }

    /// Reads on, so many tokens at the most, and at least one; returns how many are left.
    pub(super) fn go_on(&mut self, engine: &mut dyn LanguageModel, most: usize) -> Result<usize, SonaError> {
        let mut left = most.max(1);
        let Self { sequence, tokens, prompt, read, passage } = self;
        engine.keep_hidden(true)?;
        while left > 0 && *read < tokens.len() {
            // Logits are needed of the answer alone, inputs of the head of the prompt's end, too.
            let keyed = prompt.saturating_sub(KEY_TOKENS);
            let end = [keyed, *prompt, tokens.len()].into_iter().find(|end| *end > *read).unwrap_or(tokens.len());
            let end = end.min(read.saturating_add(left));
            let logits = if end <= keyed { LogitRows::Last } else { LogitRows::All };
            let chunk = Chunk { sequence: *sequence, tokens: &tokens[*read..end], logits };
            let rows = engine.step(&[chunk])?.remove(0);
            let hidden = engine.hidden();
            if *read >= *prompt {
                passage.logits.extend(rows.values);
                passage.hidden.extend(hidden);
            } else if end > keyed {
                passage.prompt.extend(hidden);
                if end == *prompt {
                    passage.logits.extend(rows.row(rows.rows - 1));
                    passage.hidden.extend(&hidden[hidden.len() - passage.hidden_size..]);
                }
            }
            left -= end - *read;
            *read = end;
        }
        Ok(tokens.len() - *read)
    }

    /// Closes its sequence and returns what was read.
    pub(super) fn end(self, engine: &mut dyn LanguageModel) -> Passage {
        engine.close(self.sequence);
        self.passage
    }
}

/// Reads a prompt into an empty sequence of an engine that keeps the inputs of its head; returns those at its last
/// tokens, `[rows, E]`, and the logits of its last, `[V]`.
///
/// # Errors
///
/// If the prompt is empty or does not fit the context.
pub fn read_prompt(
    engine: &mut dyn LanguageModel,
    sequence: SequenceId,
    prompt: &[u32],
) -> Result<(Vec<f32>, Vec<f32>), SonaError> {
    let (begin, end) = prompt.split_at(prompt.len().saturating_sub(KEY_TOKENS));
    if !begin.is_empty() {
        engine.step(&[Chunk { sequence, tokens: begin, logits: LogitRows::Last }])?;
    }
    let logits = engine.step(&[Chunk { sequence, tokens: end, logits: LogitRows::All }])?.remove(0);
    Ok((engine.hidden().to_vec(), logits.row(logits.rows - 1).to_vec()))
}
