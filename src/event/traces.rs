//! What is kept of single tokens, requests and steps.
use serde::{Deserialize, Serialize};

use super::sample::exact;

/// One generated token and its time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenTime {
    /// Position in the sequence, from 0 for the first prompt token.
    pub position: u32,
    /// The token.
    pub token_id: u32,
    /// Nanoseconds from the request to this token.
    pub t_ns: u64,
}

/// Every token of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenTrace {
    /// Which workload of the recipe, by its label.
    pub workload: String,
    /// Repetition inside the launch, from 0.
    pub rep: u32,
    /// Sequence inside the batch, from 0.
    pub request: u32,
    /// Whether it warms up and does not count.
    pub warmup: bool,
    /// The generated tokens, in order.
    pub tokens: Vec<TokenTime>,
}

/// One scored token: how likely two models held it, and how far their predictions are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// The token's position in its window, from 0.
    pub position: u32,
    /// The token.
    pub token_id: u32,
    /// Its negative log-likelihood, nats.
    #[serde(with = "exact")]
    pub nll: f64,
    /// Its negative log-likelihood by the reference, nats.
    #[serde(with = "exact")]
    pub reference_nll: f64,
    /// KL(reference || candidate) of the predictions of this position, nats.
    #[serde(with = "exact")]
    pub kl_divergence: f64,
    /// Whether both hold the same token to be the likeliest.
    pub top1_equal: bool,
}

/// Every scored token of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreTrace {
    /// Which workload of the recipe, by its label.
    pub workload: String,
    /// The window, from 0.
    pub window: u32,
    /// Nanoseconds from the beginning of the launch to the end of this window.
    pub t_ns: u64,
    /// The scored tokens, in order.
    pub tokens: Vec<TokenScore>,
}

/// Something the key-value cache did because it was full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTransition {
    /// Which workload of the recipe, by its label.
    pub workload: String,
    /// Repetition inside the launch, from 0.
    pub rep: u32,
    /// The step it was done for, from 0.
    pub step: u64,
    /// What: `evicted`, `narrowed`, `spilled`, …: the name of a `kv::TransitionKind`.
    pub kind: String,
    /// Pages it was done to.
    pub pages: u64,
    /// Bytes of pages in memory before.
    pub before_bytes: u64,
    /// Bytes of pages in memory after.
    pub after_bytes: u64,
    /// Nanoseconds everything waited for it.
    pub duration_ns: u64,
    /// Nanoseconds since the launch began.
    pub t_ns: u64,
}

/// A step of a learning loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningStep {
    /// Which workload of the recipe, by its label.
    pub workload: String,
    /// Requests that were finished by then.
    pub request: u64,
    /// The loop: `instant`, `background` or `deep`.
    pub of: String,
    /// What came of it: `applied`, `rejected`, `reset` or `unjudged`.
    pub decision: String,
    /// The loss it is judged by, before, nats a token.
    #[serde(with = "exact")]
    pub loss_before: f64,
    /// The same, after.
    #[serde(with = "exact")]
    pub loss_after: f64,
    /// What its gradients promised.
    #[serde(with = "exact")]
    pub predicted_decrease: f64,
    /// The gradient's norm.
    #[serde(with = "exact")]
    pub grad_norm: f64,
    /// Nanoseconds it took.
    pub duration_ns: u64,
    /// The version of the adapters that the next request sees.
    pub version: u64,
    /// Of a transaction of the deep loop: how far its candidate changed the loss on general text, relative to the model
    /// as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general_drift: Option<f64>,
    /// Nanoseconds since the launch began.
    pub t_ns: u64,
}

/// A request as the learning loops saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRequest {
    /// Which workload of the recipe, by its label.
    pub workload: String,
    /// Its number, from 0.
    pub request: u64,
    /// The domain it is of.
    pub domain: String,
    /// The version of the adapters it was served with.
    pub version: u64,
    /// The pattern whose adapter was among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<u64>,
    /// What came back: `accepted`, `corrected` or `reward`.
    pub feedback: String,
    /// The reward, where that is what came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// The weight its loss had in learning.
    #[serde(with = "exact")]
    pub weight: f64,
    /// The mean loss of its answer as it was served, nats a token.
    #[serde(with = "exact")]
    pub nll: f64,
    /// Nanoseconds since the launch began.
    pub t_ns: u64,
}
