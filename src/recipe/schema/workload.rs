//! What is run and measured.
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing to run and measure, written as a one-key map: `- decode: {output_tokens: 64}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Processes a prompt (llama-bench's `pp`).
    Prefill(Prefill),
    /// Answers a prompt token by token (llama-bench's `tg`, after a real prompt).
    Decode(Decode),
    /// Scores a text.
    Perplexity(Perplexity),
}

/// Processes a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prefill {
    /// Tokens of the prompt, taken from `builtin:heldout`.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub prompt_tokens: u32,
    /// Tokens already in the context before the timed part (llama-bench's `-d`).
    #[schemars(range(max = 16_777_216))]
    pub context_depth: u32,
    /// Sequences at once.
    #[schemars(range(min = 1, max = 1024))]
    pub batch_size: u32,
    /// Measured repetitions in a launch.
    #[schemars(range(min = 1, max = 10_000))]
    pub repetitions: u32,
}

impl Default for Prefill {
    fn default() -> Self {
        Self { prompt_tokens: 512, context_depth: 0, batch_size: 1, repetitions: 3 }
    }
}

/// Answers a prompt token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decode {
    /// Tokens of the prompt, taken from `builtin:heldout`.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub prompt_tokens: u32,
    /// Tokens to generate; the model's end token does not stop it.
    #[schemars(range(min = 2, max = 16_777_216))]
    pub output_tokens: u32,
    /// Sequences at once.
    #[schemars(range(min = 1, max = 1024))]
    pub batch_size: u32,
    /// Measured repetitions in a launch.
    #[schemars(range(min = 1, max = 10_000))]
    pub repetitions: u32,
}

impl Default for Decode {
    fn default() -> Self {
        Self { prompt_tokens: 128, output_tokens: 64, batch_size: 1, repetitions: 3 }
    }
}

/// Scores a text by llama.cpp's convention: windows of `n_ctx` tokens side by side, the second
/// half of each scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Perplexity {
    /// The text: `builtin:NAME` or a path, relative to the recipe's folder.
    pub text: String,
    /// Tokens in a window.
    #[schemars(range(min = 8, max = 16_777_216))]
    pub n_ctx: u32,
    /// Windows to score; absent scores all.
    #[schemars(range(min = 1))]
    pub chunks: Option<u32>,
}

impl Default for Perplexity {
    fn default() -> Self {
        Self { text: "builtin:heldout".to_owned(), n_ctx: 512, chunks: None }
    }
}

impl fmt::Display for Workload {
    /// Writes the short label results carry, such as `decode(p128,n64)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = |f: &mut fmt::Formatter<'_>, size: u32| if size == 1 { Ok(()) } else { write!(f, ",b{size}") };
        match self {
            Self::Prefill(Prefill { prompt_tokens, context_depth, batch_size, repetitions: _ }) => {
                write!(f, "prefill(p{prompt_tokens}")?;
                if *context_depth > 0 {
                    write!(f, ",d{context_depth}")?;
                }
                batch(f, *batch_size)?;
            }
            Self::Decode(Decode { prompt_tokens, output_tokens, batch_size, repetitions: _ }) => {
                write!(f, "decode(p{prompt_tokens},n{output_tokens}")?;
                batch(f, *batch_size)?;
            }
            Self::Perplexity(Perplexity { text, n_ctx, chunks }) => {
                let text = text.rsplit(['/', ':']).next().unwrap_or(text);
                write!(f, "perplexity({text},c{n_ctx}")?;
                if let Some(chunks) = chunks {
                    write!(f, ",k{chunks}")?;
                }
            }
        }
        f.write_str(")")
    }
}
