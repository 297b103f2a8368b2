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
    /// Elastic weight consolidation: beside `sequential`, the one method that runs where `methods` is empty.
    #[serde(default)]
    pub ewc: Option<Ewc>,
    /// What is compared, each on all orders. `sequential` always runs, since plasticity is told against it.
    #[serde(default)]
    pub methods: Vec<ContinualMethod>,
}

/// A method, and how strong it is: one arm for each strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContinualMethod {
    /// The method.
    pub method: MethodName,
    /// Strengths of its penalty. They are of importances with a mean of 1 where these are normalized.
    #[serde(default)]
    pub lambda: Vec<f64>,
    /// `online`: how much of the old Fisher information stays at the end of a task. `ewc_pp` and `rwalk`: how
    /// much stays at a step, so 0.9 forgets fast and 0.999 slowly.
    #[serde(default = "default_fisher_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub fisher_decay: f64,
    /// Whose gradients make the Fisher information.
    #[serde(default)]
    pub fisher: FisherKind,
    /// Batches that make a finished task's Fisher information.
    #[serde(default = "default_fisher_batches")]
    #[schemars(range(min = 1, max = 100_000))]
    pub fisher_batches: u32,
    /// Whether Fisher information is brought to a mean of 1, so that λ means the same to all kinds of it.
    #[serde(default = "yes")]
    pub normalize_fisher: bool,
    /// Where the penalty is measured.
    #[serde(default)]
    pub space: EwcSpace,
    /// Whether a penalty is λ/2 or λ times the weighted squares.
    #[serde(default)]
    pub penalty_convention: PenaltyConvention,
    /// `replay`: sequences of earlier tasks that are kept, in all.
    #[serde(default = "default_replay_sequences")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub replay_sequences: u32,
}

fn default_fisher_batches() -> u32 {
    32
}

fn default_replay_sequences() -> u32 {
    64
}

fn yes() -> bool {
    true
}

/// What is done against forgetting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// Nothing: one task after the other.
    Sequential,
    /// A pull to the latest optimum, all numbers alike.
    L2,
    /// EWC (arXiv 1612.00796): an anchor and a Fisher information a task.
    Ewc,
    /// Online EWC (arXiv 1805.06370): one anchor, Fisher information summed.
    Online,
    /// EWC++ (arXiv 1801.10112): Fisher information as a moving average of every step's.
    EwcPp,
    /// `RWalk` (arXiv 1801.10112): EWC++ and the score of the path. Not in `delta_w_rank1`.
    Rwalk,
    /// Learns sequences of earlier tasks again beside new ones.
    Replay,
    /// All tasks at once: what could be had at best.
    Joint,
}

impl MethodName {
    /// Returns whether it has a penalty, and so a strength.
    #[must_use]
    pub fn is_penalty(self) -> bool {
        matches!(self, Self::L2 | Self::Ewc | Self::Online | Self::EwcPp | Self::Rwalk)
    }
}

/// What λ is multiplied by: papers clash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyConvention {
    /// λ/2 Σ F D².
    #[default]
    Half,
    /// λ Σ F D².
    Full,
}

impl Continual {
    /// Returns every method that runs, `sequential` first.
    #[must_use]
    pub fn arms(&self) -> Vec<ContinualMethod> {
        let plain = |method, lambda: Vec<f64>| ContinualMethod {
            method,
            lambda,
            fisher_decay: default_fisher_decay(),
            fisher: FisherKind::default(),
            fisher_batches: default_fisher_batches(),
            normalize_fisher: true,
            space: EwcSpace::default(),
            penalty_convention: PenaltyConvention::default(),
            replay_sequences: default_replay_sequences(),
        };
        let mut arms = vec![plain(MethodName::Sequential, Vec::new())];
        arms.extend(self.methods.iter().filter(|own| own.method != MethodName::Sequential).cloned());
        if let Some(Ewc { mode, lambda, fisher_decay, fisher, space }) = self.ewc.as_ref().filter(|_| arms.len() == 1) {
            let method = match mode {
                EwcMode::Ewc => MethodName::Ewc,
                EwcMode::Online => MethodName::Online,
                EwcMode::EwcPp => MethodName::EwcPp,
            };
            let own = plain(method, vec![*lambda]);
            arms.push(ContinualMethod { fisher_decay: *fisher_decay, fisher: *fisher, space: *space, ..own });
        }
        arms
    }
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
    /// The data's labels, each example by itself.
    Empirical,
    /// The square of a batch's gradient with the data's labels: not the Fisher information, and common.
    Batched,
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
    /// On the product, with Fisher information of rank 1: as blind to how a product is cut in factors, and
    /// needs no matrix of its own.
    DeltaWRank1,
    /// On the factors.
    Factors,
}
