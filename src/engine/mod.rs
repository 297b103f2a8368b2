//! Engines: everything that turns tokens into logits, behind one trait.
//!
//! A step takes a batch of sequences, each at its own position. No engine keeps state outside a
//! sequence, so two sequences on one model give what each gives alone.
mod adapted;
mod adapter;
mod attached;
mod candle;
mod device;
mod error;
mod generation;
mod head_rows;
mod kind;
mod language_model;
mod layer_kind;
mod mixture;
mod native;
mod places;
mod reference;
mod sequences;
mod settings;
mod steps;
mod training;

pub use adapted::{adapted, mixed};
pub use adapter::{Adapter, LowRank};
pub use candle::Autograd;
pub use device::Device;
pub use error::EngineError;
pub use generation::{GenerationError, next_tokens};
pub use head_rows::{HEAD_RANK, HeadRows, project};
pub use kind::EngineKind;
pub use language_model::{Admitted, Chunk, LanguageModel, LogitRows, Logits, SequenceId};
pub use mixture::{Choice, MOST_MEMBERS, Member, Mixture};
pub use native::AttentionMethod;
pub use places::{Place, Target};
pub use ruvlab_kernels::{Precision, Tier, TierError, select, setting};
pub use settings::{Settings, WeightLoad};
pub use training::{
    Dropout, Flow, Gradients, Labels, Magnitudes, Noted, Scored, TopLogits, Trainable, Trainee, TraineeSettings,
    trainee,
};

pub use crate::kv::CacheType;
use crate::model::weights::Weights;

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
