//! Learning: how small changes to a model's matrices are trained and stored.
pub mod caches;
pub mod checkpoint;
pub mod compose;
pub mod continual;
pub mod data;
pub mod ewc;
pub mod file;
pub mod labelled;
pub mod merge;
pub mod micro_lora;
pub mod optim;
pub mod peft;
pub mod registry;
pub mod schedule;
pub mod train;
