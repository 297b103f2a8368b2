//! The workloads, each in one file, and the launch that runs them in a child process.
mod adapt;
mod continual;
mod decode;
mod error;
mod kl_divergence;
mod kv_pressure;
mod launch;
mod opened;
mod perplexity;
mod prefill;
mod prompt;
mod recorder;
mod sona;
mod train;
mod verify;
mod windows;

pub use error::LaunchError;
pub use launch::launch;
