//! A method against forgetting.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EwcSpace, FisherKind, default_fisher_decay};

/// A method, and how strong it is: one arm for each strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContinualMethod {
    /// The method.
    pub method: MethodName,
    /// What results call it: letters, digits, `_`, `-`, `.` and `+`. Absent, as the method; two entries of one
    /// method need two names.
    #[serde(default)]
    pub name: Option<String>,
    /// Strengths of its penalty; of `o_lora`, λ1. They are of importances with a mean of 1 where these are
    /// normalized.
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
    /// `replay` and `der_pp`: sequences of earlier tasks that are kept, in all.
    #[serde(default = "default_replay_sequences")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub replay_sequences: u32,
    /// `der_pp`: α, the weight of the mean square distance from kept logits.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0))]
    pub logits_weight: f64,
    /// `der_pp`: β, the weight of the loss of what is learned again.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0))]
    pub labels_weight: f64,
    /// `der_pp`: logits that are kept of a position, the greatest.
    #[serde(default = "default_kept_logits")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub kept_logits: u32,
    /// Who says where a task ends.
    #[serde(default)]
    pub boundaries: Boundaries,
    /// `detected`: updates within which, on average, one end is found where there is none.
    #[serde(default = "default_false_alarm_steps")]
    #[schemars(range(min = 10.0))]
    pub false_alarm_steps: f64,
}

fn default_fisher_batches() -> u32 {
    32
}

fn default_replay_sequences() -> u32 {
    64
}

fn default_kept_logits() -> u32 {
    64
}

fn default_false_alarm_steps() -> f64 {
    1.0e4
}

fn half() -> f64 {
    0.5
}

fn yes() -> bool {
    true
}

impl ContinualMethod {
    /// Returns a method with defaults for the rest.
    #[must_use]
    pub fn of(method: MethodName, lambda: Vec<f64>) -> Self {
        Self {
            method,
            name: None,
            lambda,
            fisher_decay: default_fisher_decay(),
            fisher: FisherKind::default(),
            fisher_batches: default_fisher_batches(),
            normalize_fisher: true,
            space: EwcSpace::default(),
            penalty_convention: PenaltyConvention::default(),
            replay_sequences: default_replay_sequences(),
            logits_weight: half(),
            labels_weight: half(),
            kept_logits: default_kept_logits(),
            boundaries: Boundaries::default(),
            false_alarm_steps: default_false_alarm_steps(),
        }
    }

    /// Returns what results call it.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.method.name())
    }
}

/// Who says where a task ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Boundaries {
    /// The recipe: every task ends after `training.max_steps`.
    #[default]
    Given,
    /// A test of the losses for a rise of their mean (a self-starting CUSUM), after every update.
    Detected,
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
    /// DER++ (arXiv 2004.07211): replay, held to the logits that were kept, too.
    DerPp,
    /// O-LoRA (arXiv 2310.14152): factors of its own for every task, orthogonal to those of earlier ones.
    OLora,
    /// All tasks at once: what could be had at best.
    Joint,
}

impl MethodName {
    /// Returns whether it pulls to what was learned.
    #[must_use]
    pub fn is_penalty(self) -> bool {
        matches!(self, Self::L2 | Self::Ewc | Self::Online | Self::EwcPp | Self::Rwalk)
    }

    /// Returns whether it has a strength.
    #[must_use]
    pub fn has_strength(self) -> bool {
        self.is_penalty() || self == Self::OLora
    }

    /// Returns its name, as written in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::L2 => "l2",
            Self::Ewc => "ewc",
            Self::Online => "online",
            Self::EwcPp => "ewc_pp",
            Self::Rwalk => "rwalk",
            Self::Replay => "replay",
            Self::DerPp => "der_pp",
            Self::OLora => "o_lora",
            Self::Joint => "joint",
        }
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
