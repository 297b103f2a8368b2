//! One launch: what a child process does from its specification to its last event.
use std::{num::NonZeroUsize, path::Path};

use super::{
    adapt, continual, decode, kl_divergence, kv_pressure, perplexity, prefill, prompt::Prompts, recorder::Recorder,
    sona, train, verify,
};
use crate::{
    adapt::{
        checkpoint::CheckpointError, file::AdapterFileError, labelled::LabelledError, micro_lora::MicroLoraError,
        peft::PeftError,
    },
    clock::Stopwatch,
    engine::{
        self, Adapter, EngineError, EngineKind, GenerationError, LanguageModel, Settings, Trainable, TraineeSettings,
    },
    event::{Phase, Sink},
    exit, host,
    model::{
        sampler::SamplerError,
        tokenizer::{Tokenizer, TokenizerError},
        weights::{Weights, WeightsError},
    },
    plan::{self, Attachment, Cell, LaunchSpec, LaunchTask, PROTOCOL},
    recipe::schema::{KernelSet, Workload},
    sona::SonaError,
    text::{self, TextError},
};

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Parent and child are of different builds.
    #[error("the parent speaks protocol {found}, this process {PROTOCOL}: run both from one build of ruvlab")]
    Protocol {
        /// The parent's.
        found: u32,
    },
    /// A kernel set without an engine.
    #[error("kernel set {0:?} has no engine in this build")]
    KernelSet(KernelSet),
    /// No weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Other weights than were planned with.
    #[error("the model {source_name} changed since it was planned: {found} bytes of tensors, planned {planned}")]
    Changed {
        /// The source as the recipe names it.
        source_name: String,
        /// Bytes of all tensors as they run.
        found: u64,
        /// Bytes planned.
        planned: u64,
    },
    /// No adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// Another adapter than was planned with.
    #[error("the adapter {path} changed since it was planned")]
    AdapterChanged {
        /// The folder or file.
        path: String,
    },
    /// No text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Other text than was planned with.
    #[error("the text {name} changed since it was planned")]
    TextChanged {
        /// The text.
        name: String,
    },
    /// Less text than the workload needs.
    #[error("the text {name} has {found} tokens, {needed} are needed")]
    TextTooShort {
        /// The text.
        name: String,
        /// Tokens it has.
        found: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// More text around an example than a sequence holds.
    #[error("{name} has {found} tokens with its longest label, a sequence {most}: raise training.sequence_length")]
    TextTooLong {
        /// What is too long.
        name: String,
        /// Tokens it has.
        found: usize,
        /// Tokens of a sequence.
        most: usize,
    },
    /// A file without texts with labels.
    #[error("{name}: {error}")]
    Labels {
        /// The file.
        name: String,
        /// Why.
        #[source]
        error: LabelledError,
    },
    /// No tokenizer.
    #[error("model {source_name}: {error}")]
    Tokenizer {
        /// The source as the recipe names it.
        source_name: String,
        /// Why.
        #[source]
        error: TokenizerError,
    },
    /// A workload beyond the engine's context.
    #[error("{workload} needs a context of {needed} tokens, there is room for {context_length}")]
    Context {
        /// Its label.
        workload: String,
        /// Tokens needed.
        needed: usize,
        /// Tokens there is room for.
        context_length: usize,
    },
    /// A budget that holds not even one sequence.
    #[error(
        "{workload}: the cache's budget of {budget_bytes} bytes holds no text of {n_ctx} tokens, not even alone: raise kv_cache.budget"
    )]
    NothingFits {
        /// Its label.
        workload: String,
        /// Tokens of a text.
        n_ctx: u32,
        /// The budget.
        budget_bytes: u64,
    },
    /// A divergence without a reference.
    #[error("{0} has no reference in the plan: plan and run it with one build of ruvlab")]
    NoReference(String),
    /// A reference with other tokens.
    #[error("{workload}: the model has a vocabulary of {ours} tokens, its reference one of {found}")]
    Vocabulary {
        /// Its label.
        workload: String,
        /// The cell's.
        ours: usize,
        /// The reference's.
        found: usize,
    },
    /// A training that cannot be run.
    #[error("{workload}: {problem}")]
    Training {
        /// Its label.
        workload: String,
        /// Why.
        problem: String,
    },
    /// An adapter that cannot be read or written.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Nothing could be learned from requests.
    #[error(transparent)]
    MicroLora(#[from] MicroLoraError),
    /// The learning loops failed.
    #[error(transparent)]
    Sona(#[from] SonaError),
    /// The engine computed something that is no number.
    #[error("{workload}: {problem}")]
    Numerics {
        /// What was run.
        workload: String,
        /// What is wrong with the numbers.
        problem: String,
    },
}

impl LaunchError {
    /// Returns the exit code it asks for.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Numerics { .. } => exit::NUMERICS,
            Self::Weights(_)
            | Self::Changed { .. }
            | Self::Adapter(_)
            | Self::AdapterChanged { .. }
            | Self::Text(_)
            | Self::TextChanged { .. }
            | Self::Labels { .. }
            | Self::Peft(_)
            | Self::Checkpoint(_) => exit::RESOURCE,
            Self::Protocol { .. }
            | Self::KernelSet(_)
            | Self::TextTooShort { .. }
            | Self::TextTooLong { .. }
            | Self::Tokenizer { .. }
            | Self::Context { .. }
            | Self::NothingFits { .. }
            | Self::NoReference(_)
            | Self::Vocabulary { .. }
            | Self::Training { .. }
            | Self::Engine(_)
            | Self::MicroLora(_)
            | Self::Sona(_) => exit::UNEXPECTED,
        }
    }

    pub(super) fn sampler(workload: &str, error: SamplerError) -> Self {
        Self::Numerics { workload: workload.to_owned(), problem: error.to_string() }
    }

    pub(super) fn generation(workload: &str, error: GenerationError) -> Self {
        match error {
            GenerationError::Engine(error) => error.into(),
            GenerationError::Sampler(error) => Self::sampler(workload, error),
        }
    }
}

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

/// Runs one part of a cell and reports everything it measures.
///
/// # Errors
///
/// If weights or texts are missing or changed, the engine cannot run the model, a workload does not
/// fit, or the numbers are invalid. What was measured before has been reported.
pub fn launch(spec: &LaunchSpec, sink: &mut dyn Sink) -> Result<(), LaunchError> {
    let LaunchSpec { protocol, launch, task, cell, artifacts } = spec;
    if *protocol != PROTOCOL {
        return Err(LaunchError::Protocol { found: *protocol });
    }
    let mut recorder = Recorder::new(*launch, sink);
    match task {
        LaunchTask::Verify => verify::run(cell, &mut recorder),
        LaunchTask::Quality | LaunchTask::Speed => workloads(cell, *task, artifacts.as_deref(), &mut recorder),
    }
}

fn load(cell: &Cell, task: LaunchTask, recorder: &mut Recorder<'_>) -> Result<Loaded, LaunchError> {
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

fn workloads(
    cell: &Cell,
    task: LaunchTask,
    artifacts: Option<&Path>,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let own = cell.recipe.workloads.iter().filter(|workload| task.runs(workload));
    let (trainings, others): (Vec<_>, Vec<_>) =
        own.partition(|workload| matches!(workload, Workload::Train(_) | Workload::Continual(_)));
    for workload in trainings {
        recorder.begin(workload.to_string());
        match workload {
            Workload::Train(train) => train::run(train, cell, artifacts, recorder)?,
            Workload::Continual(learning) => continual::run(learning, cell, recorder)?,
            _ => {}
        }
    }
    // Training holds the model in its own way, and needs no engine for inference.
    if others.is_empty() {
        return Ok(());
    }
    let mut loaded = load(cell, task, recorder)?;
    let mut streams = sona::Streams::default();
    for workload in &cell.recipe.workloads {
        recorder.begin(workload.to_string());
        match (workload, task) {
            (Workload::Prefill(prefill), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                prefill::run(prefill, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Decode(decode), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                decode::run(decode, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Perplexity(perplexity), LaunchTask::Quality) => {
                perplexity::run(perplexity, cell, &mut loaded, recorder)?;
            }
            (Workload::KlDivergence(divergence), LaunchTask::Quality) => {
                kl_divergence::run(divergence, cell, &mut loaded, recorder)?;
            }
            (Workload::KvPressure(pressure), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                kv_pressure::run_trace(pressure, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::KvPressure(pressure), LaunchTask::Quality) => {
                kv_pressure::run_texts(pressure, cell, &mut loaded, recorder)?;
            }
            (Workload::Adapt(adapt), LaunchTask::Quality) => adapt::run(adapt, cell, &mut loaded, recorder)?,
            (Workload::Adapt(adapt), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                adapt::run_speed(adapt, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Sona(stream), LaunchTask::Quality) => {
                sona::run(stream, cell, &mut loaded, artifacts, &mut streams, recorder)?;
            }
            (Workload::Sona(stream), LaunchTask::Speed) => sona::run_speed(stream, cell, &mut loaded, recorder)?,
            (
                Workload::Prefill(_)
                | Workload::Decode(_)
                | Workload::Perplexity(_)
                | Workload::KlDivergence(_)
                | Workload::KvPressure(_)
                | Workload::Train(_)
                | Workload::Continual(_)
                | Workload::Adapt(_)
                | Workload::Sona(_),
                _,
            ) => {}
        }
    }
    if task == LaunchTask::Speed {
        recorder.begin(String::new());
        recorder.finish_energy();
        match host::peak_rss_bytes() {
            Some(bytes) => recorder.once("peak_rss_bytes", Phase::Process, bytes as f64, 1),
            None => recorder.unavailable("peak_rss_bytes", "the kernel does not tell (/proc/self/status)".to_owned()),
        }
    }
    Ok(())
}
