//! Loops that learn while a model answers requests.
//!
//! | loop | when | what moves | what decides |
//! | --- | --- | --- | --- |
//! | [`Instant`] | at the end of a request, under a millisecond | a rank-2 addition to the head, and a neural cache | the step's own loss (Armijo), recent requests, general text |
//! | [`Background`] | between requests, a slice at a time | a rank-2 addition to the head for each kind of request | requests of that kind that are never learned again, general text |
//! | [`Deep`] | after many requests | an adapter of the model's layers and head | general text, and recent requests that are never learned again |
//!
//! Complementary learning systems: a fast and forgetful store is replayed into a slow one (`McClelland` et al.
//! 1995; CLS-ER, arXiv 2201.12604). A request leaves a [`Trajectory`]; a [`Reservoir`] keeps a fair sample of
//! those, and a [`Bank`] finds what kinds of them there are. All loops publish through one
//! [`Registry`](crate::adapt::registry): a request pins what it is served with, and what is learned meanwhile
//! is for later ones. Every step gives account of itself ([`Account`]). [`Sona`] holds them together.
mod addition;
mod answering;
mod background;
mod bytes;
mod coordinator;
mod deep;
mod instant;
mod memory;
mod passage;
mod patterns;
mod recall;
mod replay;
mod reserve;
mod serving;
mod stored;
#[cfg(test)]
mod tests;
mod trajectory;
mod transaction;

use std::time::Duration;

pub use addition::Addition;
pub use answering::Answering;
pub use background::{Background, BackgroundSettings};
pub use coordinator::{Counters, Sona, SonaSettings};
pub use deep::{Deep, DeepSettings, When};
pub use instant::{Evidence, Instant};
pub use memory::{Memory, MemorySettings};
pub use passage::{KEY_TOKENS, Passage, read_prompt};
pub use patterns::{Bank, Pattern};
pub use recall::{CacheSettings, Recall, Recalled, Recollection};
pub use replay::Reservoir;
pub use reserve::Reserve;
pub use serving::Served;
pub use trajectory::{Baseline, Feedback, Trajectory};
pub use transaction::{General, Transaction, Verdict};

use crate::{
    adapt::{compose::ComposeError, micro_lora::MicroLoraError, registry::RegistryError},
    engine::EngineError,
    model::sampler::SamplerError,
};

/// Why a loop could not learn.
#[derive(Debug, thiserror::Error)]
pub enum SonaError {
    /// Numbers of another width than the model's.
    #[error("{what} of {found} values, where {needed} make one: they are of another model")]
    Width {
        /// Which numbers.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// Inputs of the head without a direction.
    #[error("the inputs of the head are as far from their mean as from nothing: they are zero or no numbers")]
    Directionless,
    /// An outcome that is no number.
    #[error("the reward is {0}: give every request that is learned from a finite one")]
    Reward(f64),
    /// A request without a prompt or an answer.
    #[error("a request needs a prompt and an answer of one token at least each")]
    Empty,
    /// A loop that is switched off was asked for.
    #[error("the {0} loop is switched off")]
    Off(&'static str),
    /// A micro adapter refused.
    #[error(transparent)]
    MicroLora(#[from] MicroLoraError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Adapters could not be folded.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The state before could not be sampled from.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A file of a state that cannot be read or written.
    #[error("the state of the learning loops in {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A stored state that is damaged, or of another model or recipe.
    #[error("a stored state of the learning loops: {0} (begin anew without it)")]
    Stored(String),
    /// A transaction that was taken back and left something behind.
    #[error("a rolled back transaction left {0} bytes of what was learned changed, or something else serves")]
    Rollback(usize),
}

/// A loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// After every request.
    Instant,
    /// In slices between requests.
    Background,
    /// After many requests.
    Deep,
}

impl LoopKind {
    /// Returns its name, as recipes and the journal write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Background => "background",
            Self::Deep => "deep",
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is published.
    Applied,
    /// It was taken back, or there was nothing to learn.
    Rejected,
    /// What had been learned was forgotten: it had made recent requests worse.
    Reset,
    /// It was not made: no held-out request is of the pattern it would have been about.
    Unjudged,
}

impl Decision {
    /// Returns its name, as the journal writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::Reset => "reset",
            Self::Unjudged => "unjudged",
        }
    }
}

/// The account of a step. Losses are mean negative log-likelihoods a token, in nats: of the request
/// itself, times its weight, in the instant loop; in the other of requests that are never learned again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    /// Whose step it was.
    pub of: LoopKind,
    /// What came of it.
    pub decision: Decision,
    /// Before it; 0, as after it, where none was made.
    pub loss_before: f64,
    /// After it, had it been taken.
    pub loss_after: f64,
    /// What the gradients promise of the loss that was descended: `Σ g · Δθ`, which is η ‖g‖² of one step.
    pub predicted_decrease: f64,
    /// Of the last gradient, before any cap.
    pub grad_norm: f64,
    /// Wall time, publishing included; of the background loop that of all its slices.
    pub time: Duration,
    /// The registry's version after it: what the next request sees.
    pub version: u64,
}
