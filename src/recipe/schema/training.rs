//! Training, in torch's and transformers' terms.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How adapters are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The highest learning rate.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Sequences in a micro-batch.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub batch_size: u32,
    /// Micro-batches in a step.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub gradient_accumulation_steps: u32,
    /// Tokens in a sequence.
    #[serde(default = "default_sequence_length")]
    #[schemars(range(min = 2))]
    pub sequence_length: u32,
    /// Optimizer steps; schedules that end need it.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// The gradient's largest global norm.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: Option<f64>,
    /// What the learning rate of B is to that of A (LoRA+, arXiv 2402.12354).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub loraplus_lr_ratio: Option<f64>,
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time,
    /// the same result.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// How the learning rate moves.
    #[serde(default)]
    pub lr_scheduler: LrScheduler,
}

fn one() -> u32 {
    1
}

fn default_sequence_length() -> u32 {
    256
}

/// An optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay (arXiv 1711.05101).
    #[default]
    Adamw,
    /// Plain gradient descent.
    Sgd,
}

/// How the learning rate moves over the steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LrScheduler {
    /// The shape.
    #[serde(rename = "type")]
    pub kind: LrSchedulerType,
    /// Steps of linear warm-up, before `constant`, `linear` or `cosine`.
    pub warmup_steps: Option<u64>,
    /// Where `cosine` ends.
    #[schemars(range(min = 0.0))]
    pub min_lr: Option<f64>,
    /// `one_cycle`: the share of steps that rise (torch's default is 0.3).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub pct_start: Option<f64>,
    /// `one_cycle`: the start is the peak divided by this (25).
    #[schemars(range(min = 1.0))]
    pub div_factor: Option<f64>,
    /// `one_cycle`: the end is the start divided by this (1e4).
    #[schemars(range(min = 1.0))]
    pub final_div_factor: Option<f64>,
    /// `one_cycle`: whether a third phase falls symmetrically.
    pub three_phase: Option<bool>,
    /// `one_cycle`: the curve between the points.
    pub anneal_strategy: Option<AnnealStrategy>,
}

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// The same at every step.
    #[default]
    Constant,
    /// A straight line from the peak to 0.
    Linear,
    /// Half a cosine from the peak to the floor.
    Cosine,
    /// Up and down once, momentum mirrored (arXiv 1708.07120).
    OneCycle,
}

/// A curve between two points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnealStrategy {
    /// Half a cosine.
    #[default]
    Cos,
    /// A straight line.
    Linear,
}
