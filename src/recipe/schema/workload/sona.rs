//! The learning loops at work on a stream of requests, as a workload.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Adapt, AdaptState, RequestOrder};

/// Streams requests of several domains past the model and the loops of `sona`, each scored before anything
/// learns from it. Then its feedback comes, as the seed draws it: of eight two are accepted, one is corrected, two earn
/// a reward of 1, and three were answered with general text that has nothing to do with them, which earns 0. Requests
/// that the loops never see tell what is left at the end. Timed, it answers prompts with the loops and without, in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SonaStream {
    /// The domains' texts, two at least: `builtin:NAME` or paths, relative to the recipe's folder.
    pub domains: Vec<String>,
    /// Requests of each domain: stretches of its text, side by side.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: u32,
    /// Requests of each domain after those, which are scored and never learned from.
    #[schemars(range(min = 2, max = 100_000))]
    pub test_requests: u32,
    /// Tokens of a request that come before what is scored.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub prompt_tokens: u32,
    /// Tokens of a request that are scored, and learned from.
    #[schemars(range(min = 2, max = 4096))]
    pub output_tokens: u32,
    /// The order of the requests.
    pub order: RequestOrder,
    /// General text, none of the domains: parts of it give `micro_lora` its directions, judge the deep loop and tell how
    /// far the model drifts.
    pub general: String,
    /// Prompts that are answered with the loops and without where time is measured; 0 measures no time.
    #[schemars(range(max = 100_000))]
    pub timed_answers: u32,
    /// Requests after which nobody asks for `pause_ms`: the deep loop runs then where that is as long as its `idle_ms`.
    #[schemars(range(min = 1))]
    pub pause_every: Option<u32>,
    /// How long that is, in milliseconds; nobody waits for it.
    pub pause_ms: u64,
    /// Whether the loops are ended in the middle of the stream and begin again from their saved state: nothing may change
    /// by that.
    pub restart: bool,
    /// Whether what the loops are at the end is left as `sona.state` in the run's folder of `artifacts`: another run can
    /// begin with it (`sona.init`).
    pub save_state: bool,
    /// What the loops are given in place of the feedback, to see what that alone does. Where the same stream without a
    /// control comes before it in `workloads`, the losses of both are compared request by request.
    pub control: SonaControl,
}

/// What the loops learn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SonaControl {
    /// The feedback of each request.
    #[default]
    None,
    /// As much general text in place of the requests, all accepted: it says nothing of the domains.
    Placebo,
    /// The feedback of requests dealt out to others.
    ShuffledFeedback,
}

impl Default for SonaStream {
    fn default() -> Self {
        let Adapt { domains, calibration, .. } = Adapt::default();
        Self {
            domains,
            requests: 24,
            test_requests: 4,
            prompt_tokens: 32,
            output_tokens: 64,
            order: RequestOrder::default(),
            general: calibration,
            timed_answers: 48,
            pause_every: None,
            pause_ms: 1000,
            restart: false,
            save_state: false,
            control: SonaControl::default(),
        }
    }
}

impl SonaStream {
    /// Returns the tokens of a request.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prompt_tokens as usize + self.output_tokens as usize
    }

    /// Returns a stream of the same form over texts, of so many requests each.
    #[must_use]
    pub fn over(&self, texts: &[String], requests: u32) -> Adapt {
        Adapt {
            domains: texts.to_vec(),
            requests,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            order: self.order,
            state: AdaptState::Shared,
            calibration: self.general.clone(),
        }
    }
}
