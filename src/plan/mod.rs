//! What a recipe means on this machine: a serialisable list of cells that any process can run.
mod adapter;
mod attachment;
mod baseline;
mod cache;
mod demand;
mod device;
pub mod effort;
mod fingerprint;
mod identity;
mod kernels;
mod launch;
mod learning;
mod memory;
mod reference;
mod resolve;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    diag::Diagnostic,
    recipe::{
        Recipe,
        schema::{KernelSet, KlDivergence},
    },
    units::Bytes,
};

pub use adapter::{beginning, prepare};
pub use attachment::Attachment;
pub(crate) use demand::{SCORED_AT_ONCE, demand};
pub use identity::{auto_set, device, engine_kind, engine_settings, rope_change, set_name, storage_type};
pub use launch::{LaunchSpec, LaunchTask, PROTOCOL};
pub use learning::{schedule, target, training_settings};
pub use resolve::{PlanError, resolve, single};

/// A recipe, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The recipe's name.
    pub recipe: String,
    /// The recipe file as written, for the run directory.
    pub source_text: String,
    /// What is to be run, in the order of the matrix.
    pub cells: Vec<Cell>,
}

/// One point of a matrix with one seed: the unit of caching, storage and comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// BLAKE3, in 64 hexadecimal digits, of everything that can change a result but the machine:
    /// the resolved recipe without cosmetic keys, weights, texts, metric versions.
    pub hash: String,
    /// The matrix keys and this cell's values; empty without a matrix. `seed` is among them when
    /// the recipe has several.
    pub axes: IndexMap<String, serde_json::Value>,
    /// The random seed.
    pub seed: u64,
    /// The recipe at this point: no matrix, no `extends`, paths absolute.
    pub recipe: Recipe,
    /// The kernel set that runs; never `auto`.
    pub kernel_set: KernelSet,
    /// Worker threads.
    pub threads: u16,
    /// The weights.
    pub model: ModelIdentity,
    /// The texts, each with its BLAKE3.
    pub texts: IndexMap<String, String>,
    /// What its divergences are from, by the label of the workload.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub references: IndexMap<String, Reference>,
    /// Estimate of the memory a launch needs.
    pub estimated_memory: Bytes,
}

impl Cell {
    /// Returns the axis values in one short text, such as `kernels.set=candle seed=1`.
    #[must_use]
    pub fn label(&self) -> String {
        axes_label(&self.axes)
    }

    /// Returns what a person should know before reading its results.
    #[must_use]
    pub fn warning(&self) -> Option<Diagnostic> {
        if !self.model.synthetic || !self.has_task(LaunchTask::Quality) {
            return None;
        }
        let message =
            format!("{} has synthetic weights: random numbers, so its perplexity means nothing", self.model.source);
        Some(
            Diagnostic::warning("synthetic-weights", message)
                .hint("use it for speed and memory; take real weights for quality"),
        )
    }

    /// Returns the cell that runs the reference of one of its divergences: this one, with the
    /// reference's weights and kernel set in place of its own.
    #[must_use]
    pub fn referring(&self, divergence: &KlDivergence, reference: &Reference) -> Self {
        Self {
            recipe: divergence.reference.of(&self.recipe),
            kernel_set: reference.kernel_set,
            model: reference.model.clone(),
            ..self.clone()
        }
    }

    /// Returns the models it needs: its own, then those its divergences are from.
    pub fn models(&self) -> impl Iterator<Item = &ModelIdentity> {
        std::iter::once(&self.model).chain(self.references.values().map(|reference| &reference.model))
    }

    /// Returns whether a launch of this task has anything to do.
    #[must_use]
    pub fn has_task(&self, task: LaunchTask) -> bool {
        let any = |wanted: LaunchTask| self.recipe.workloads.iter().any(|workload| wanted.runs(workload));
        match task {
            LaunchTask::Verify => {
                self.recipe.kernels.verify.reference.is_some_and(|reference| reference != self.kernel_set)
            }
            LaunchTask::Quality | LaunchTask::Speed => any(task),
        }
    }

    /// Returns whether its launches tell of single tokens, where `measure.token_trace` is on.
    #[must_use]
    pub fn has_traces(&self) -> bool {
        self.recipe.workloads.iter().any(|workload| demand(workload).traced)
    }

    /// Returns the BLAKE3 of every text that its workloads and tasks read, by the key that names the text and
    /// whose key that is: two cells are compared by what they read, wherever it lies.
    #[must_use]
    pub fn text_hashes(&self) -> IndexMap<String, String> {
        let mut named: Vec<(String, String)> = Vec::new();
        for mut workload in self.recipe.workloads.clone() {
            let label = workload.to_string();
            let texts = workload.texts_mut().into_iter();
            named.extend(texts.map(|(key, text)| (format!("{key} of {label}"), text.clone())));
        }
        for task in self.recipe.continual.iter().flat_map(|continual| &continual.tasks) {
            let texts = [("train", Some(&task.train)), ("test", Some(&task.test)), ("labels", task.labels.as_ref())];
            let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text?)));
            named.extend(texts.map(|(key, text)| (format!("{key} of task {}", task.name), text.clone())));
        }
        named.into_iter().filter_map(|(place, text)| Some((place, self.texts.get(&text)?.clone()))).collect()
    }
}

/// What a divergence is from, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The weights.
    pub model: ModelIdentity,
    /// The kernel set that runs; never `auto`.
    pub kernel_set: KernelSet,
}

/// Returns axis values in one short text.
#[must_use]
pub fn axes_label(axes: &IndexMap<String, serde_json::Value>) -> String {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    axes.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(" ")
}

/// Which weights, by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The source as the recipe names it.
    pub source: String,
    /// The model's own name for itself.
    pub name: String,
    /// The architecture, in the file's term (`llama`).
    pub architecture: String,
    /// BLAKE3 of the file and, when requantised, of the target format.
    pub weights_hash: String,
    /// The most common format among the matrices as they run, such as `q8_0`.
    pub format: String,
    /// Bytes of all tensors as they run.
    pub weights_bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// Tokens of context to make room for.
    pub context_length: u32,
    /// What a launch opens: a file or folder on this machine, or `builtin:NAME`. Empty in what
    /// earlier versions stored, where the source itself was opened.
    #[serde(default)]
    pub path: String,
    /// The commit it is of, for a model of the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether the weights are random numbers in a real model's shape, for speed only.
    #[serde(default)]
    pub synthetic: bool,
    /// The adapter it runs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterIdentity>,
}

/// Which adapter, by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterIdentity {
    /// The folder or file; several with ` + ` between them.
    pub path: String,
    /// BLAKE3 of its matrices, their places and scales, whatever file they lie in; of several, of how they become
    /// one, too.
    pub hash: String,
    /// Numbers in its matrices.
    pub parameters: u64,
}

impl ModelIdentity {
    /// Returns whether two are the same weights with the same adapter, wherever those lie.
    #[must_use]
    pub fn is_same_content(&self, other: &Self) -> bool {
        let adapter = |model: &Self| model.adapter.as_ref().map(|adapter| adapter.hash.clone());
        self.weights_hash == other.weights_hash && adapter(self) == adapter(other)
    }

    /// Returns what a person must know to have the same weights again, where the source does not say it: the
    /// commit that a branch of the hub stood for.
    #[must_use]
    pub fn resolved(&self) -> Option<String> {
        let commit = self.commit.as_deref().filter(|commit| !self.source.contains(*commit))?;
        Some(format!("{} is commit {}", self.source, commit.get(..12).unwrap_or(commit)))
    }
}
