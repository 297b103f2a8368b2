//! Why engines fail.
use std::io;

use super::SequenceId;
use crate::kv::CacheError;

/// Why an engine could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A sequence outgrew its room.
    #[error("sequence of {needed} tokens does not fit the context of {context_length}")]
    ContextFull {
        /// Tokens with the new ones.
        needed: usize,
        /// Tokens there is room for.
        context_length: usize,
    },
    /// A token the vocabulary does not have.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// V.
        vocab_size: usize,
    },
    /// No such sequence is open.
    #[error("sequence {0} is not open")]
    UnknownSequence(SequenceId),
    /// A chunk without tokens.
    #[error("a chunk needs at least one token")]
    EmptyChunk,
    /// Something the engine cannot do.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Its name.
        engine: &'static str,
        /// What was asked.
        what: String,
    },
    /// The cache has no room, and nothing that may go. Every sequence is as long as it was, less what a policy that
    /// evicts dropped for this step.
    #[error(
        "the cache needs {needed_bytes} bytes more and {free_bytes} of its budget of {budget_bytes} are free: raise kv_cache.budget, run fewer or shorter sequences, or choose a kv_cache.pressure policy that makes room"
    )]
    CacheFull {
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes free, after all that may go has gone.
        free_bytes: u64,
        /// Bytes in all.
        budget_bytes: u64,
    },
    /// The cache could not do as asked for another reason.
    #[error("key-value cache: {0}")]
    Cache(#[source] CacheError),
    /// The weights lack something or have it in another shape.
    #[error("weights: {0}")]
    Weights(String),
    /// An adapter does not belong to the model.
    #[error("adapter: {0}")]
    Adapter(String),
    /// The system gave no threads.
    #[error("worker threads: {0}")]
    Threads(#[source] io::Error),
    /// candle said no.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

impl From<CacheError> for EngineError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Full { needed_bytes, free_bytes, budget_bytes } => {
                Self::CacheFull { needed_bytes, free_bytes, budget_bytes }
            }
            CacheError::UnknownSequence(sequence) => Self::UnknownSequence(sequence),
            error => Self::Cache(error),
        }
    }
}
