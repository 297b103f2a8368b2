//! Learning: how small changes to a model's matrices are trained and stored.
pub mod ewc;
pub mod optim;
pub mod peft;
pub mod schedule;
pub mod train;
