//! What workloads run with, opened as it was planned: weights, tokenizers, texts, engines.
use std::num::NonZeroUsize;

use super::{error::LaunchError, recorder::Recorder};
use crate::{
    clock::Stopwatch,
    engine::{self, Adapter, EngineKind, LanguageModel, Settings, Trainable, TraineeSettings},
    event::Phase,
    model::{tokenizer::Tokenizer, weights::Weights},
    plan::{self, Attachment, Cell, LaunchTask},
    recipe::schema::KernelSet,
    text,
};

/// A model with all that a workload needs of it.
pub(super) struct Loaded {
    pub(super) engine: Box<dyn LanguageModel>,
    pub(super) tokenizer: Tokenizer,
}

impl Loaded {
    /// Checks that a workload fits.
    pub(super) fn check_context(&self, workload: &str, needed: usize) -> Result<(), LaunchError> {
        let context_length = self.engine.context_length();
        if needed <= context_length {
            return Ok(());
        }
        Err(LaunchError::Context { workload: workload.to_owned(), needed, context_length })
    }
}

pub(super) fn engine_kind(set: KernelSet) -> Result<EngineKind, LaunchError> {
    plan::engine_kind(set).ok_or(LaunchError::KernelSet(set))
}

/// Returns the cell's weights as they run.
pub(super) fn open_weights(cell: &Cell) -> Result<Weights, LaunchError> {
    let model = &cell.model;
    let file = Weights::open(if model.path.is_empty() { &cell.recipe.model.source } else { &model.path })?;
    let weights = match plan::storage_type(cell.recipe.quantization.format) {
        // Where nothing would change, the file itself is used: it needs no second copy in memory.
        Some(format) if file.index().tensors.values().any(|info| info.shape.len() == 2 && info.kind != format) => {
            file.requantized(format)?
        }
        _ => file,
    };
    let (found, planned) = (weights.total_bytes(), cell.model.weights_bytes);
    if found != planned {
        return Err(LaunchError::Changed { source_name: cell.model.source.clone(), found, planned });
    }
    Ok(weights.with_rope(&plan::rope_change(&cell.recipe.rope))?)
}

/// Returns the model ready to run, with the cell's adapter if it has one: checked to be the one that was
/// planned with.
pub(super) fn load_engine(
    cell: &Cell,
    kind: EngineKind,
    weights: &Weights,
    settings: &Settings,
) -> Result<Box<dyn LanguageModel>, LaunchError> {
    let engine = engine::load_with(kind, weights, settings)?;
    let (Some(planned), Some(wanted)) = (&cell.model.adapter, cell.recipe.attached()) else { return Ok(engine) };
    let attachment = Attachment::read(wanted, weights.spec())?;
    if attachment.hash != planned.hash {
        return Err(LaunchError::AdapterChanged { path: planned.path.clone() });
    }
    Ok(attachment.give(engine)?)
}

/// Returns the model with an adapter that learns, on the engine that trains for the cell's kernel set.
pub(super) fn load_trainee(
    cell: &Cell,
    weights: &Weights,
    adapter: &Adapter,
    held: TraineeSettings,
) -> Result<Box<dyn Trainable>, LaunchError> {
    let (kind, device) = (engine_kind(cell.kernel_set)?, plan::device(cell.recipe.kernels.device));
    let threads = NonZeroUsize::new(cell.threads.into());
    Ok(engine::trainee(kind, device, weights, adapter, held, threads)?)
}

pub(super) fn open_tokenizer(cell: &Cell, weights: &Weights) -> Result<Tokenizer, LaunchError> {
    Tokenizer::new(weights).map_err(|error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error })
}

/// Returns a text, checked to be the one that was planned with.
pub(super) fn open_text(cell: &Cell, source: &str) -> Result<text::Text, LaunchError> {
    let text = text::load(source)?;
    if cell.texts.get(source).is_some_and(|planned| *planned != text.hash) {
        return Err(LaunchError::TextChanged { name: source.to_owned() });
    }
    Ok(text)
}

/// Returns the cell's model, and records what loading it took where speed is measured.
pub(super) fn load(cell: &Cell, task: LaunchTask, recorder: &mut Recorder<'_>) -> Result<Loaded, LaunchError> {
    let stopwatch = Stopwatch::start();
    let weights = open_weights(cell)?;
    let tokenizer = open_tokenizer(cell, &weights)?;
    let engine = load_engine(cell, engine_kind(cell.kernel_set)?, &weights, &plan::engine_settings(cell))?;
    let load_ms = stopwatch.elapsed().as_secs_f64() * 1e3;
    if task == LaunchTask::Speed {
        recorder.once("load_ms", Phase::Load, load_ms, weights.total_bytes());
        let tensors = weights.index().tensors.len() as u64;
        recorder.once("weights_bytes", Phase::Load, weights.total_bytes() as f64, tensors);
    }
    Ok(Loaded { engine, tokenizer })
}
