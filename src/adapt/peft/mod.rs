//! Adapters as PEFT stores them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Matrices keep PEFT's names and row order on disk. Files of the architecture `llama` hold the rows of
//! each head's queries and keys interleaved, so B of those places is brought to that order and back.
//! Matrices that a family has in one (`qkv_proj`, `gate_up_proj` of phi3) have one A there: read, all parts
//! have it; written, parts with an A of their own each stand in blocks of a larger rank.
mod modules;
mod read;
mod scaling;
#[cfg(test)]
mod tests;
mod write;

use std::io;

pub use modules::module;
pub use read::read;
pub use scaling::{Patterns, Scaling};
pub use write::write;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Why a PEFT folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// A file cannot be read or written.
    #[error("adapter file {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The settings are no JSON.
    #[error("{CONFIG} is damaged: {0}")]
    Json(#[from] serde_json::Error),
    /// The tensors cannot be read or written.
    #[error("{TENSORS}: {0}")]
    Tensors(#[from] candle_core::Error),
    /// The adapter has something that is not computed, or that the model has no place for.
    #[error("adapter {path}: {problem}")]
    Unsupported {
        /// The folder.
        path: String,
        /// What.
        problem: String,
    },
}
