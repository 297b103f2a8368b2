//! Learning from a stream of requests, as a workload.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Streams requests of several domains past the model, each scored before anything learns from it, and
/// compares what learns: a unigram cache, a neural cache, `micro_lora`, both of the latter, and a
/// placebo, which is `micro_lora` given the answers of another domain. Timed, it answers prompts with
/// `micro_lora` and without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adapt {
    /// The domains' texts, two at least: `builtin:NAME` or paths, relative to the recipe's folder.
    pub domains: Vec<String>,
    /// Requests of each domain: stretches of its text, side by side.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: u32,
    /// Tokens of a request that come before what is scored.
    #[schemars(range(max = 1_000_000))]
    pub prompt_tokens: u32,
    /// Tokens of a request that are scored, and learned from.
    #[schemars(range(min = 2, max = 4096))]
    pub output_tokens: u32,
    /// The order of the requests.
    pub order: RequestOrder,
    /// What is adapted: something of its own for each domain, as for each user, or one for all.
    pub state: AdaptState,
    /// The text whose inputs of the head give `micro_lora` its directions; none of the domains.
    pub calibration: String,
}

/// The order of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestOrder {
    /// Domains in turn as the seed draws them.
    #[default]
    Interleaved,
    /// One domain after the other.
    Blocked,
}

/// What requests adapt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdaptState {
    /// Each domain its own.
    #[default]
    PerDomain,
    /// All domains the same.
    Shared,
}

impl Default for Adapt {
    fn default() -> Self {
        let domains = ["kjv", "python", "german", "jargon", "french"].map(|name| format!("builtin:{name}.test"));
        Self {
            domains: domains.into(),
            requests: 24,
            prompt_tokens: 32,
            output_tokens: 64,
            order: RequestOrder::default(),
            state: AdaptState::default(),
            calibration: "builtin:heldout".to_owned(),
        }
    }
}

impl Adapt {
    /// Returns the tokens of a request.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prompt_tokens as usize + self.output_tokens as usize
    }

    /// Returns what results call a domain.
    #[must_use]
    pub fn short(text: &str) -> &str {
        text.rsplit(['/', ':']).next().unwrap_or(text)
    }
}
