//! The types of a recipe, schema `ruvlab/v1`. Doc comments here are the user's reference: they
//! become the JSON Schema and `recipes/README.md`.
//!
//! Field terms are PEFT's for adapters, torch's and transformers' for training, llama.cpp's for
//! KV types and bench sizes. No `flatten`, `untagged` or `tag`: they lose error positions.
mod adapter;
mod continual;
mod kv_cache;
mod matrix;
mod measure;
mod model;
mod sona;
mod training;
mod workload;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use adapter::{Adapter, AdapterType, MicroLora, MicroOptimizer, TargetModule};
pub use continual::{
    Boundaries, Continual, ContinualMethod, DEFAULT_PROMPT, Ewc, EwcMode, EwcSpace, FisherKind, MethodName,
    PenaltyConvention, Task,
};
pub use kv_cache::{CacheTier, KvCache, KvType, Pressure, PressurePolicy};
pub use matrix::{AxisPoint, Matrix, same_value};
pub use measure::{Baseline, Isolation, Launches, Measure, Order};
pub use model::{
    ActivationPrecision, Attention, Device, KernelSet, Kernels, Model, ModelLoad, Quantization, QuantizationFormat,
    Rope, RopeScaling, Sampling, Verify,
};
pub use sona::{Sona, SonaBackground, SonaDeep, SonaInstant};
pub use training::{AnnealStrategy, LrScheduler, LrSchedulerType, Optimizer, Training};
pub use workload::{
    Adapt, AdaptState, ContinualLearning, Decode, KlDivergence, KlReference, KvPressure, Perplexity, Prefill,
    RequestOrder, SonaControl, SonaStream, Train, TrainEval, TrainSource, Workload,
};

/// The version of the recipe format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchemaVersion {
    /// The first, and the only one so far.
    #[default]
    #[serde(rename = "ruvlab/v1")]
    V1,
}

/// An experiment: a model, how it is run, what is measured, and against what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version of the recipe format.
    pub schema: SchemaVersion,
    /// The name results are stored under: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What the experiment asks, for people.
    #[serde(default)]
    pub description: String,
    /// Labels for finding it again.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Recipes this one starts from, earlier ones first; paths relative to this file.
    #[serde(default)]
    pub extends: Vec<String>,
    /// Random seeds; every cell runs once for each.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// The weights.
    pub model: Model,
    /// How the weights are stored while running.
    #[serde(default)]
    pub quantization: Quantization,
    /// Which code computes.
    #[serde(default)]
    pub kernels: Kernels,
    /// Rotary position embedding, where it differs from the model's own.
    #[serde(default)]
    pub rope: Rope,
    /// How tokens are chosen.
    #[serde(default)]
    pub sampling: Sampling,
    /// The key-value cache.
    #[serde(default)]
    pub kv_cache: KvCache,
    /// A LoRA adapter.
    #[serde(default)]
    pub adapter: Option<Adapter>,
    /// An adapter that learns from single requests.
    #[serde(default)]
    pub micro_lora: Option<MicroLora>,
    /// How adapters are trained.
    #[serde(default)]
    pub training: Option<Training>,
    /// Learning a sequence of tasks without forgetting.
    #[serde(default)]
    pub continual: Option<Continual>,
    /// The three learning loops.
    #[serde(default)]
    pub sona: Option<Sona>,
    /// What is run and measured, in this order.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// How often and in what order.
    #[serde(default)]
    pub measure: Measure,
    /// Variations of this recipe: one cell each.
    #[serde(default)]
    pub matrix: Option<Matrix>,
    /// What results are compared with.
    #[serde(default)]
    pub baseline: Option<Baseline>,
}

impl Recipe {
    /// Returns the adapter that the workloads run with, as it is: a path.
    #[must_use]
    pub fn attached(&self) -> Option<&str> {
        self.adapter.as_ref().filter(|_| self.training.is_none())?.init.as_deref()
    }

    /// Returns every text its workloads and tasks name, each with the path of its key.
    pub fn texts_mut(&mut self) -> Vec<(String, &mut String)> {
        let workloads = self.workloads.iter_mut().enumerate().flat_map(|(index, workload)| {
            let texts = workload.texts_mut().into_iter();
            texts.map(move |(key, text)| (format!("workloads[{index}].{key}"), text))
        });
        let tasks = self.continual.iter_mut().flat_map(|continual| &mut continual.tasks).enumerate();
        let tasks = tasks.flat_map(|(index, task)| {
            let texts = task.texts_mut();
            texts.map(move |(key, text)| (format!("continual.tasks[{index}].{key}"), text))
        });
        workloads.chain(tasks).collect()
    }
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}
