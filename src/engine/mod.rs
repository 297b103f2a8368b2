//! Engines: everything that turns tokens into logits, behind one trait.
//!
//! A step takes a batch of sequences, each at its own position. No engine keeps state outside a
//! sequence, so two sequences on one model give what each gives alone.
mod adapted;
mod adapter;
mod candle;
mod device;
mod generation;
mod native;
mod places;
mod reference;
mod sequences;
mod steps;
mod training;

use std::{io, num::NonZeroUsize, sync::Arc};

pub use adapted::adapted;
pub use adapter::{Adapter, LowRank};
pub use candle::Autograd;
pub use device::Device;
pub use generation::{GenerationError, next_tokens};
pub use native::AttentionMethod;
pub use places::{Place, Target};
pub use ruvlab_kernels::{Precision, Tier, TierError, select, setting};
pub use training::{
    Dropout, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainable, Trainee, TraineeSettings,
    trainee,
};

pub use crate::kv::CacheType;
use crate::{
    kv::{CacheError, CacheReport, Policy, Transition},
    model::{sampler::TopK, spec::ModelSpec, weights::Weights},
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
    /// The cache has no room, and nothing that may go. Every sequence is as long as it was.
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

    /// Returns whether sequences can have adapters ([`LanguageModel::attach`]).
    #[must_use]
    pub fn has_adapters(self) -> bool {
        self != Self::Reference
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

/// How the native engine holds matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightLoad {
    /// Copied, packed for the kernels: fast, and in memory as a whole.
    #[default]
    Packed,
    /// Used from the mapped file, packed again for every product, and let go of after it: slow, for
    /// models larger than memory. What a folder's conversion makes is packed all the same. The results
    /// are the same to the last bit.
    Mapped,
}

/// How a model is to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Tokens of context to make room for; the most the engine and the model have when absent.
    pub context_length: Option<usize>,
    /// Where the candle engine computes; the others have the processor alone.
    pub device: Device,
    /// Worker threads of the native engine; all the process may use when absent. The others take
    /// theirs from `RAYON_NUM_THREADS`.
    pub threads: Option<NonZeroUsize>,
    /// The type of the native engine's cached keys; the others have f32.
    pub key_type: CacheType,
    /// The type of its cached values.
    pub value_type: CacheType,
    /// How it holds matrices; the others make their own copies.
    pub load: WeightLoad,
    /// How it attends; the others have all scores at once.
    pub attention: AttentionMethod,
    /// How finely it codes what goes into products with quantised weights.
    pub activations: Precision,
    /// Tokens in a page of its cache, a power of two from 8 to 64; 32 when absent.
    pub page_tokens: Option<usize>,
    /// The most bytes of its cache; no limit when absent.
    pub cache_bytes: Option<u64>,
    /// What it does when they run out.
    pub pressure: Option<Policy>,
    /// Whether sequences share whole pages they begin with.
    pub share_prefixes: bool,
}

impl Settings {
    /// Returns the same without anything only the native engine's cache does.
    #[must_use]
    pub fn unlimited(&self) -> Self {
        Self { cache_bytes: None, pressure: None, share_prefixes: false, ..self.clone() }
    }
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
    if settings.device != Device::Cpu && kind != EngineKind::Candle {
        let what = format!("compute on {:?}", settings.device.name());
        return Err(EngineError::Unsupported { engine: kind.name(), what });
    }
    if !matches!(kind, EngineKind::Native(_)) && *settings != settings.unlimited() {
        let what = "hold its cache within a budget, or share it between sequences".to_owned();
        return Err(EngineError::Unsupported { engine: kind.name(), what });
    }
    Ok(match kind {
        EngineKind::Reference => Box::new(reference::Reference::load(weights, context_length)?),
        EngineKind::Candle => Box::new(candle::Candle::load(weights, context_length, settings.device)?),
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

/// Refuses an adapter in an engine that has none; to have none is what such an engine can do.
fn no_adapters(engine: &'static str, adapter: Option<&Adapter>) -> Result<(), EngineError> {
    match adapter {
        None => Ok(()),
        Some(_) => {
            Err(EngineError::Unsupported { engine, what: "run adapters (`candle` and our own kernels can)".to_owned() })
        }
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

    /// Keeps what goes into the head, after the last norm, for the rows that give logits, from the next step
    /// on, or keeps it no longer.
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

    /// Returns what the cache holds, where the engine counts it.
    fn cache_report(&self) -> Option<CacheReport> {
        None
    }

    /// Returns what was done under pressure since the last call.
    fn take_transitions(&mut self) -> Vec<Transition> {
        Vec::new()
    }
}
