//! The open sequences of an engine, and the checks every engine makes before a step.
use std::collections::BTreeMap;

use super::{Chunk, EngineError, SequenceId};

/// What an engine keeps of one sequence.
pub(super) struct Sequence<S> {
    /// Tokens in it.
    pub(super) length: usize,
    /// The engine's own.
    pub(super) state: S,
}

/// Open sequences. Numbers are never given twice, so a closed one stays unknown.
pub(super) struct Sequences<S> {
    next: SequenceId,
    open: BTreeMap<SequenceId, Sequence<S>>,
}

impl<S> Sequences<S> {
    pub(super) fn new() -> Self {
        Self { next: 0, open: BTreeMap::new() }
    }

    pub(super) fn open(&mut self, engine: &'static str, state: S) -> Result<SequenceId, EngineError> {
        let id = self.next;
        let full = || EngineError::Unsupported { engine, what: "open any more sequences".to_owned() };
        self.next = id.checked_add(1).ok_or_else(full)?;
        self.open.insert(id, Sequence { length: 0, state });
        Ok(id)
    }

    /// Closes a sequence and returns what the engine kept of it, if it was open.
    pub(super) fn close(&mut self, id: SequenceId) -> Option<S> {
        self.open.remove(&id).map(|sequence| sequence.state)
    }

    pub(super) fn get(&self, id: SequenceId) -> Result<&Sequence<S>, EngineError> {
        self.open.get(&id).ok_or(EngineError::UnknownSequence(id))
    }

    pub(super) fn get_mut(&mut self, id: SequenceId) -> Result<&mut Sequence<S>, EngineError> {
        self.open.get_mut(&id).ok_or(EngineError::UnknownSequence(id))
    }

    /// Checks all chunks of a step; a sequence may be in it more than once.
    pub(super) fn check(
        &self,
        batch: &[Chunk<'_>],
        vocab_size: usize,
        context_length: usize,
    ) -> Result<(), EngineError> {
        for (index, chunk) in batch.iter().enumerate() {
            let length = self.get(chunk.sequence)?.length;
            if chunk.tokens.is_empty() {
                return Err(EngineError::EmptyChunk);
            }
            if let Some(token) = chunk.tokens.iter().find(|token| **token as usize >= vocab_size) {
                return Err(EngineError::TokenOutOfRange { token: *token, vocab_size });
            }
            let same = batch[..=index].iter().filter(|other| other.sequence == chunk.sequence);
            let needed = length + same.map(|other| other.tokens.len()).sum::<usize>();
            if needed > context_length {
                return Err(EngineError::ContextFull { needed, context_length });
            }
        }
        Ok(())
    }
}
