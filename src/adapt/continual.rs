//! Learning tasks one after the other: one adapter that goes from task to task, and what keeps it from
//! forgetting the earlier ones.
//!
//! A [`ContinualTrainer`] learns a task and is told where it ends ([`ContinualTrainer::finish`]). What it does
//! there is its [`Protection`]: a penalty (EWC and its relatives, [`super::ewc`]), examples of earlier tasks
//! that are learned again (replay, DER++), or factors of its own for each task (O-LoRA).
mod importance;
mod labels;
mod matrix;
mod memory;
mod protection;
mod subspaces;
mod trainer;

pub use labels::{Answer, Choices, Question};
pub use matrix::Matrix;
pub use protection::{Distillation, Geometry, Orthogonality, Penalty, Protection, Rehearsal, Source};
pub use subspaces::widened;
pub use trainer::{ContinualTrainer, Updates};

#[cfg(test)]
mod tests;
