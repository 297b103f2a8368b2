//! Learning: how small changes to a model's matrices are trained and stored.
pub mod compose;
pub mod file;
pub mod merge;
pub mod optim;
pub mod peft;
pub mod schedule;
pub mod train;
