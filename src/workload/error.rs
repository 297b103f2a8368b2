//! Why launches fail, and with which exit code.
use crate::{
    adapt::{
        checkpoint::CheckpointError, file::AdapterFileError, labelled::LabelledError, micro_lora::MicroLoraError,
        peft::PeftError,
    },
    engine::{EngineError, GenerationError},
    exit,
    model::{sampler::SamplerError, tokenizer::TokenizerError, weights::WeightsError},
    plan::PROTOCOL,
    recipe::schema::KernelSet,
    sona::SonaError,
    text::TextError,
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
    #[error(
        "the text {name} has {found} tokens, {needed} are needed: take a longer text, or shorter or fewer windows of it"
    )]
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
    /// A budget that does not hold what it was to hold, not even alone.
    #[error(
        "{workload}: the cache's budget of {budget_bytes} bytes, with its policy, does not hold {what}, even alone: raise kv_cache.budget, or make them shorter"
    )]
    NothingFits {
        /// Its label.
        workload: String,
        /// How many of what.
        what: String,
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
