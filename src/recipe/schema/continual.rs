//! Learning a sequence of tasks without forgetting.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sequence of tasks and what protects the earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Continual {
    /// The tasks, in order.
    pub tasks: Vec<Task>,
    /// Random orders of the tasks to run; 0 keeps only the written one.
    #[serde(default)]
    pub task_orders: u32,
    /// Elastic weight consolidation.
    #[serde(default)]
    pub ewc: Option<Ewc>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What it learns from: `builtin:NAME` or a path.
    pub train: String,
    /// What it is tested on.
    pub test: String,
}

/// Elastic weight consolidation (arXiv 1612.00796): a quadratic pull to earlier optima, weighted
/// by the diagonal Fisher information.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ewc {
    /// Which variant.
    pub mode: EwcMode,
    /// The strength.
    #[schemars(range(min = 0.0))]
    pub lambda: f64,
    /// How much of the old Fisher information stays at an update.
    #[serde(default = "default_fisher_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub fisher_decay: f64,
    /// Whose gradients make the Fisher information.
    #[serde(default)]
    pub fisher: FisherKind,
    /// Where the penalty is measured.
    #[serde(default)]
    pub space: EwcSpace,
}

fn default_fisher_decay() -> f64 {
    0.999
}

/// A variant of EWC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EwcMode {
    /// One anchor a task.
    Ewc,
    /// One running anchor (arXiv 1805.06370).
    Online,
    /// A moving average at every step (arXiv 1801.10112).
    EwcPp,
}

/// Whose gradients make the Fisher information (arXiv 1905.12558).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FisherKind {
    /// Labels drawn from the model: unbiased.
    #[default]
    Sampled,
    /// The data's labels.
    Empirical,
    /// All labels, weighted by the model.
    Exact,
}

/// Where the penalty is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EwcSpace {
    /// On the product BA, which is what the model sees.
    #[default]
    DeltaW,
    /// On the factors.
    Factors,
}
