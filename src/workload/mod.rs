//! The workloads, each in one file, and the launch that runs them in a child process.
mod decode;
mod launch;
mod perplexity;
mod prefill;
mod prompt;
mod recorder;
mod verify;

pub use launch::{LaunchError, launch};
