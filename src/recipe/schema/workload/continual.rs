//! Continual learning, as a workload.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learns the tasks of `continual` one after the other, with `adapter` as `training` says, `max_steps` a
/// task. Scores every task's held-out text before the first task and after each, which is the matrix
/// R[i, j], and what follows from it: forgetting, transfer, plasticity and drift of general text. Of tasks with
/// labels, accuracy as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContinualLearning {
    /// Sequences of `training.sequence_length` tokens, or texts with labels, of each task's test data that are
    /// scored: the first.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub eval_sequences: u32,
    /// Those of its training data that are learned from, the first; absent, all.
    #[schemars(range(min = 1))]
    pub train_sequences: Option<u32>,
    /// The text general drift is measured on: `builtin:NAME` or a path, relative to the recipe's folder.
    pub general: String,
}

impl Default for ContinualLearning {
    fn default() -> Self {
        Self { eval_sequences: 16, train_sequences: None, general: "builtin:heldout".to_owned() }
    }
}
