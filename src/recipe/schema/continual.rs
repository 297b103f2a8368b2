//! Learning a sequence of tasks without forgetting.
mod method;

pub use method::{Boundaries, ContinualMethod, MethodName, PenaltyConvention};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sequence of tasks and what protects the earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Continual {
    /// The tasks, in order.
    pub tasks: Vec<Task>,
    /// The folder that paths of the tasks begin in; absent, the recipe's own.
    #[serde(default)]
    pub data_folder: Option<String>,
    /// Orders to run, each naming every task; the written one where there are none.
    #[serde(default)]
    pub orders: Vec<Vec<String>>,
    /// Random orders of the tasks to run besides.
    #[serde(default)]
    pub task_orders: u32,
    /// Elastic weight consolidation: beside `sequential`, the one method that runs where `methods` is empty.
    #[serde(default)]
    pub ewc: Option<Ewc>,
    /// What is compared, each on all orders. `sequential` always runs, since plasticity is told against it.
    #[serde(default)]
    pub methods: Vec<ContinualMethod>,
}

impl Continual {
    /// Returns every method that runs, `sequential` first.
    #[must_use]
    pub fn arms(&self) -> Vec<ContinualMethod> {
        let mut arms = vec![ContinualMethod::of(MethodName::Sequential, Vec::new())];
        arms.extend(self.methods.iter().filter(|own| own.method != MethodName::Sequential).cloned());
        if let Some(Ewc { mode, lambda, fisher_decay, fisher, space }) = self.ewc.as_ref().filter(|_| arms.len() == 1) {
            let method = match mode {
                EwcMode::Ewc => MethodName::Ewc,
                EwcMode::Online => MethodName::Online,
                EwcMode::EwcPp => MethodName::EwcPp,
            };
            let own = ContinualMethod::of(method, vec![*lambda]);
            arms.push(ContinualMethod { fisher_decay: *fisher_decay, fisher: *fisher, space: *space, ..own });
        }
        arms
    }
}

/// One task: a text, or texts with labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What it learns from: `builtin:NAME` or a path.
    pub train: String,
    /// What it is tested on.
    pub test: String,
    /// A JSON array of labels, by path. With it, `train` and `test` are texts with labels: JSON, JSON lines or
    /// CSV with `text` (or `sentence`) and `label`. Only the label is learned and scored, and the model's
    /// answer is the label whose tokens it holds likeliest after the text.
    #[serde(default)]
    pub labels: Option<String>,
    /// What a label follows; `{text}` stands for the text, which is cut where the whole would be longer than
    /// `training.sequence_length`.
    #[serde(default = "default_prompt")]
    pub prompt: String,
}

/// What labels follow where a task does not say.
pub const DEFAULT_PROMPT: &str = "{text}\nLabel:";

fn default_prompt() -> String {
    DEFAULT_PROMPT.to_owned()
}

impl Task {
    /// Returns every text it names, with its key.
    pub(super) fn texts_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut String)> {
        let labels = self.labels.iter_mut().map(|labels| ("labels", labels));
        [("train", &mut self.train), ("test", &mut self.test)].into_iter().chain(labels)
    }
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
