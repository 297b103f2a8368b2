//! Which engines there are, and what each can do.
use ruvlab_kernels::Tier;

use super::{EngineError, candle, native, reference};
use crate::model::spec::ModelSpec;

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

    /// Returns the most tokens the engine computes at once, however long a chunk is; none where it takes a chunk whole.
    #[must_use]
    pub fn most_rows(self) -> Option<usize> {
        match self {
            Self::Reference => None,
            Self::Candle => Some(candle::STEP_ROWS),
            Self::Native(_) => Some(native::STEP_ROWS),
        }
    }

    /// Returns whether sequences can have adapters ([`LanguageModel::attach`](super::LanguageModel::attach)).
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
