//! Learning tasks one after the other: one adapter that goes from task to task, and what keeps it from
//! forgetting the earlier ones.
//!
//! A [`ContinualTrainer`] is told where a task ends ([`ContinualTrainer::finish`]), or finds out by itself where
//! losses say that the text has become another one ([`MeanShift`]). What it does there is its [`Protection`]: a penalty (EWC and its relatives, [`super::ewc`]), examples of earlier tasks
//! that are learned again (replay, DER++), or factors of its own for each task (O-LoRA).
mod boundary;
mod importance;
mod labels;
mod matrix;
mod memory;
mod protection;
mod subspaces;
mod trainer;

pub use boundary::{MeanShift, Shift};
pub use labels::{Answer, Choices, Question};
pub use matrix::Matrix;
pub use protection::{Distillation, Geometry, Orthogonality, Penalty, Protection, Rehearsal, Source};
pub use subspaces::widened;
pub use trainer::{ContinualTrainer, Updates};

#[cfg(test)]
mod tests;
