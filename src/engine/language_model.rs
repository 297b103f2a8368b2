//! What every engine is: a model that sequences are appended to.
use std::sync::Arc;

use super::{Adapter, EngineError, HeadRows, Mixture};
use crate::{
    kv::{CacheReport, Transition},
    model::{sampler::TopK, spec::ModelSpec},
};

/// A sequence an engine holds context for.
pub type SequenceId = u32;

/// Which positions of a chunk give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// The last one: what sampling needs.
    Last,
    /// All of them: what scoring needs. `reference` computes them one position at a time.
    All,
}

/// The next tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The sequence, from [`LanguageModel::open`].
    pub sequence: SequenceId,
    /// Its next tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of them give logits.
    pub logits: LogitRows,
}

/// Logits of one chunk, row-major.
///
/// # Shapes
///
/// `values` is `[rows, V]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    /// Positions.
    pub rows: usize,
    /// V.
    pub vocab_size: usize,
    /// The values.
    pub values: Vec<f32>,
}

impl Logits {
    /// Returns the logits of one position.
    ///
    /// # Panics
    ///
    /// If `index` is not below `rows`.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab_size..][..self.vocab_size]
    }
}

/// A sequence that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The sequence.
    pub sequence: SequenceId,
    /// Tokens of its prompt that are cached already, not to be computed again.
    pub cached: usize,
}

/// A loaded model.
pub trait LanguageModel {
    /// Returns its shape.
    fn spec(&self) -> &ModelSpec;

    /// Returns how many tokens a sequence may hold.
    fn context_length(&self) -> usize;

    /// Opens an empty sequence.
    ///
    /// # Errors
    ///
    /// If there is no room for another.
    fn open(&mut self) -> Result<SequenceId, EngineError>;

    /// Opens a sequence that begins with `prompt` and will hold `tokens` tokens at most: what an engine
    /// needs to know to reserve room for all of it, or to share what it has of the prompt.
    ///
    /// # Errors
    ///
    /// If there may be no room for it; nothing has changed then.
    fn admit(&mut self, prompt: &[u32], tokens: usize) -> Result<Admitted, EngineError> {
        let _ = (prompt, tokens);
        Ok(Admitted { sequence: self.open()?, cached: 0 })
    }

    /// Does what [`LanguageModel::admit`] does, with an adapter from the first token on. What is shared of
    /// the prompt was computed with an adapter of the same numbers.
    ///
    /// # Errors
    ///
    /// As [`LanguageModel::admit`] and [`LanguageModel::attach`].
    fn admit_with(&mut self, prompt: &[u32], tokens: usize, adapter: Arc<Adapter>) -> Result<Admitted, EngineError> {
        // No prompt is given, so that nothing is found that was computed without the adapter.
        let _ = prompt;
        let admitted = self.admit(&[], tokens)?;
        match self.attach(admitted.sequence, Some(adapter)) {
            Ok(()) => Ok(admitted),
            Err(error) => {
                self.close(admitted.sequence);
                Err(error)
            }
        }
    }

    /// Opens a sequence with all that another has. The two go on without seeing each other.
    ///
    /// # Errors
    ///
    /// If the sequence is not open, there is no room for another, or the engine cannot share a cache.
    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError>;

    /// Closes a sequence and frees its room; closing twice does nothing.
    fn close(&mut self, sequence: SequenceId);

    /// Gives a sequence an adapter for the tokens it takes from now on, or none. What it holds already
    /// stays as it was computed, a prefix that [`LanguageModel::admit`] found cached included. Sequences of
    /// one step may have different ones; each gives what it gives alone, and one without gives what it
    /// gives in a model that never had any.
    ///
    /// An adapter is made ready once for all sequences that are given the same one, and kept ready as
    /// long as somebody outside has it.
    ///
    /// # Errors
    ///
    /// If the engine has no adapters, the sequence is not open, or the shapes are not the model's;
    /// then the sequence stays as it is.
    fn attach(&mut self, sequence: SequenceId, adapter: Option<Arc<Adapter>>) -> Result<(), EngineError>;

    /// Gives a sequence several adapters that each of its tokens chooses among, as [`LanguageModel::attach`] gives
    /// it one.
    ///
    /// # Errors
    ///
    /// As [`LanguageModel::attach`].
    fn attach_mixture(&mut self, sequence: SequenceId, mixture: Arc<Mixture>) -> Result<(), EngineError> {
        let _ = (sequence, mixture);
        let what = "choose among adapters (`candle` and our own kernels can)".to_owned();
        Err(EngineError::Unsupported { engine: "chosen", what })
    }

    /// Gives a sequence rows to be added to its logits from now on, or none, beside its adapter. They change
    /// nothing that is cached.
    ///
    /// # Errors
    ///
    /// If the engine cannot add them, the sequence is not open, or the shapes are not the model's; then the
    /// sequence stays as it is.
    fn attach_head(&mut self, sequence: SequenceId, rows: Option<Arc<HeadRows>>) -> Result<(), EngineError> {
        let (_, None) = (sequence, rows) else {
            let what = "add rows to a sequence's logits (our own kernels can)".to_owned();
            return Err(EngineError::Unsupported { engine: "chosen", what });
        };
        Ok(())
    }

    /// Appends each chunk to its sequence and returns their logits, in the chunks' order.
    ///
    /// # Errors
    ///
    /// If a sequence is not open, a token is not in the vocabulary, a chunk is empty or the
    /// context is full. All chunks are checked first, so such an error changes no sequence. Nor does a
    /// full cache ([`EngineError::CacheFull`]), but for what its policy did before it gave up.
    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError>;

    /// Does what [`LanguageModel::step`] does, and returns only the `k` greatest logits of each position that
    /// gives any, in the order of the chunks: all that sampling needs where few tokens may be chosen
    /// ([`deciding_logits`](crate::model::sampler::Sampling::deciding_logits)), so that an engine need not keep the others.
    ///
    /// # Errors
    ///
    /// As [`LanguageModel::step`].
    fn step_top_k(&mut self, batch: &[Chunk<'_>], k: usize) -> Result<Vec<TopK>, EngineError> {
        let all = self.step(batch)?;
        let rows = all.iter().flat_map(|logits| (0..logits.rows).map(|row| logits.row(row)));
        Ok(rows.map(|row| TopK::of(row, k)).collect())
    }

    /// Keeps what learning from an answer needs, from the next step on, or keeps it no longer: what goes into
    /// the head, after the last norm, for the rows that give logits; and their normalisers, where not all logits
    /// are returned.
    ///
    /// # Errors
    ///
    /// If the engine cannot show it.
    fn keep_hidden(&mut self, keep: bool) -> Result<(), EngineError> {
        if keep {
            let what = "show the inputs of its head (our own kernels can)".to_owned();
            return Err(EngineError::Unsupported { engine: "chosen", what });
        }
        Ok(())
    }

    /// Returns what went into the head in the last step, `[rows, E]`: a row for each row of logits, in
    /// their order. Empty unless it is kept.
    fn hidden(&self) -> &[f32] {
        &[]
    }

    /// Returns `ln Σ exp` of all logits of each position whose greatest ones the last
    /// [`LanguageModel::step_top_k`] returned, in their order. Empty unless it is kept, with `hidden`.
    fn normalisers(&self) -> &[f64] {
        &[]
    }

    /// Keeps all logits of the positions whose greatest ones [`LanguageModel::step_top_k`] returns, too, from the next
    /// step on, or keeps them no longer: for whoever asks for single ones of them. It comes with
    /// [`LanguageModel::keep_hidden`], and ends with it.
    ///
    /// # Errors
    ///
    /// As [`LanguageModel::keep_hidden`].
    fn keep_logits(&mut self, keep: bool) -> Result<(), EngineError> {
        if keep { self.keep_hidden(true) } else { Ok(()) }
    }

    /// Returns all logits of the positions whose greatest ones the last [`LanguageModel::step_top_k`] returned, in their
    /// order, `[rows, V]`. Empty unless they are kept.
    fn logits(&self) -> &[f32] {
        &[]
    }

    /// Wakes the threads that compute, so that a step that comes at once need not wait for them; where something else
    /// was done for long since the last one they sleep.
    fn rouse(&mut self) {}

    /// Returns what the cache holds, where the engine counts it.
    fn cache_report(&self) -> Option<CacheReport> {
        None
    }

    /// Returns what was done under pressure since the last call.
    fn take_transitions(&mut self) -> Vec<Transition> {
        Vec::new()
    }
}
