//! A request read through an engine: what it leaves to score, and to learn from.
use std::sync::Arc;

use super::{Addition, SonaError};
use crate::{
    adapt::micro_lora::{MicroLora, MicroLoraError, Request},
    engine::{Adapter, Chunk, LanguageModel, LogitRows, SequenceId},
};

/// Tokens at the end of a prompt whose inputs of the head make its key.
pub const KEY_TOKENS: usize = 16;

/// A prompt with its answer, as a model with an adapter reads them.
#[derive(Clone, Debug, PartialEq)]
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
        let Some((_, answered)) = answer.split_last().filter(|_| !prompt.is_empty()) else {
            return Err(SonaError::Empty);
        };
        engine.keep_hidden(true)?;
        let sequence = engine.open()?;
        let mut read = || {
            engine.attach(sequence, adapter.cloned())?;
            let (prompt, mut logits) = read_prompt(engine, sequence, prompt)?;
            let (vocab_size, hidden_size) = (logits.len(), engine.spec().hidden_size);
            let mut hidden = prompt[prompt.len() - hidden_size..].to_vec();
            if !answered.is_empty() {
                let rest = engine.step(&[Chunk { sequence, tokens: answered, logits: LogitRows::All }])?.remove(0);
                logits.extend(rest.values);
                hidden.extend(engine.hidden());
            }
            Ok(Self { prompt, hidden, logits, vocab_size, hidden_size })
        };
        let passage = read();
        engine.close(sequence);
        passage
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
        let mut row = vec![0.0; self.vocab_size];
        let loss = |((hidden, logits), token): ((&[f32], &[f32]), &u32)| {
            row.copy_from_slice(logits);
            addition.apply(micro.project(hidden), &mut row);
            ruvlab_kernels::log_sum_exp_f32(&row) - f64::from(row[*token as usize])
        };
        let positions = self.hidden.chunks_exact(self.hidden_size).zip(self.logits.chunks_exact(self.vocab_size));
        positions.zip(answer).map(loss).sum::<f64>() / answer.len() as f64
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
