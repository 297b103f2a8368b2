//! Engines: everything that turns tokens into logits, behind one trait.
//!
//! A step takes a batch of sequences, each at its own position. No engine keeps state outside a
//! sequence, so two sequences on one model give what each gives alone.
mod candle;
mod native;
mod reference;
mod sequences;
mod steps;

use std::{io, num::NonZeroUsize};

pub use native::CacheType;
pub use ruvlab_kernels::{Tier, TierError, select, setting};

use crate::model::{spec::ModelSpec, weights::Weights};

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
    /// The weights lack something or have it in another shape.
    #[error("weights: {0}")]
    Weights(String),
    /// The system gave no threads.
    #[error("worker threads: {0}")]
    Threads(#[source] io::Error),
    /// candle said no.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// candle-transformers' own model files, as they ship.
    Reference,
    /// Our decoder on candle tensors.
    Candle,
    /// Our decoder on our kernels.
    Native(Tier),
}

impl EngineKind {
    /// Returns its name, as recipes write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Candle => "candle",
            Self::Native(tier) => tier.name(),
        }
    }

    /// Returns whether this processor runs it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Reference | Self::Candle => true,
            Self::Native(tier) => ruvlab_kernels::for_tier(tier).is_some(),
        }
    }

    /// Returns the most tokens of context the engine can hold of a model.
    #[must_use]
    pub fn longest_context(self, spec: &ModelSpec) -> usize {
        match self {
            Self::Reference => reference::longest_context(spec),
            Self::Candle | Self::Native(_) => spec.context_length,
        }
    }

    /// Returns whether the engine holds all weights of a model in f32, however they are stored.
    #[must_use]
    pub fn widens(self, spec: &ModelSpec) -> bool {
        match self {
            Self::Reference => reference::widens(spec),
            Self::Candle | Self::Native(_) => false,
        }
    }

    /// Checks that the engine can run a model, as far as its shape tells.
    ///
    /// # Errors
    ///
    /// Says what of the model the engine does not compute.
    pub fn check(self, spec: &ModelSpec) -> Result<(), EngineError> {
        match self {
            Self::Reference => reference::check(spec),
            Self::Candle => Ok(()),
            Self::Native(tier) => native::check(tier, spec),
        }
    }
}

/// How a model is to be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Tokens of context to make room for; the most the engine and the model have when absent.
    pub context_length: Option<usize>,
    /// Worker threads of the native engine; all the process may use when absent. The others take
    /// theirs from `RAYON_NUM_THREADS`.
    pub threads: Option<NonZeroUsize>,
    /// The type of the native engine's cached keys; the others have f32.
    pub key_type: CacheType,
    /// The type of its cached values.
    pub value_type: CacheType,
}

/// Returns the model, ready for its first step, with room for `context_length` tokens and default
/// settings otherwise. Weights are copied, so they may be dropped.
///
/// # Errors
///
/// If the engine cannot run this model or hold that much context.
pub fn load(
    kind: EngineKind,
    weights: &Weights,
    context_length: Option<usize>,
) -> Result<Box<dyn LanguageModel>, EngineError> {
    load_with(kind, weights, &Settings { context_length, ..Settings::default() })
}

/// Returns the model, ready for its first step. Weights are copied, so they may be dropped.
///
/// # Errors
///
/// If the engine cannot run this model as set, or not on this processor.
pub fn load_with(
    kind: EngineKind,
    weights: &Weights,
    settings: &Settings,
) -> Result<Box<dyn LanguageModel>, EngineError> {
    let context_length = settings.context_length;
    Ok(match kind {
        EngineKind::Reference => Box::new(reference::Reference::load(weights, context_length)?),
        EngineKind::Candle => Box::new(candle::Candle::load(weights, context_length)?),
        EngineKind::Native(tier) => Box::new(native::Native::load(tier, weights, settings)?),
    })
}

/// Returns the context to make room for, `longest` when none is asked for.
fn room(engine: &'static str, asked: Option<usize>, longest: usize) -> Result<usize, EngineError> {
    let asked = asked.unwrap_or(longest);
    if (1..=longest).contains(&asked) {
        return Ok(asked);
    }
    Err(EngineError::Unsupported {
        engine,
        what: format!("hold a context of {asked} tokens of this model, {longest} at most"),
    })
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

    /// Closes a sequence and frees its room; closing twice does nothing.
    fn close(&mut self, sequence: SequenceId);

    /// Appends each chunk to its sequence and returns their logits, in the chunks' order.
    ///
    /// # Errors
    ///
    /// If a sequence is not open, a token is not in the vocabulary, a chunk is empty or the
    /// context is full. All chunks are checked first, so such an error changes no sequence.
    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError>;
}
