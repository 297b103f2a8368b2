//! The one stream between running and everything that watches: journal, collector, progress.
use serde::{Deserialize, Serialize};

/// What a measurement belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening and preparing weights.
    Load,
    /// Processing a prompt.
    Prefill,
    /// Generating tokens.
    Decode,
    /// Scoring text.
    Eval,
    /// Training.
    Train,
    /// The process as a whole.
    Process,
}

impl Phase {
    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Eval => "eval",
            Self::Train => "train",
            Self::Process => "process",
        }
    }
}

/// Which side of a comparison a launch measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The thing under test; every plain run.
    #[default]
    Candidate,
    /// What it is compared with.
    Baseline,
}

impl Arm {
    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Baseline => "baseline",
        }
    }
}

/// One measured value. Its unit, direction and definition are the metric registry's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The metric's registered name.
    pub metric: String,
    /// What it belongs to.
    pub phase: Phase,
    /// Which workload of the recipe, by its label (`decode(p128,n64)`); empty for the process.
    pub workload: String,
    /// Repetition inside the launch, from 0.
    pub rep: u32,
    /// Whether it warms up and does not count.
    pub warmup: bool,
    /// The value, in the metric's unit; may be NaN or infinite, which does not count.
    #[serde(with = "exact")]
    pub value: f64,
    /// Tokens or items behind the value.
    pub n: u64,
    /// Nanoseconds since the launch began.
    pub t_ns: u64,
    /// Position inside the workload (a window of the perplexity text, a training step).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The task it is of, where tasks are learned one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Tasks that had been learned by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_through: Option<u32>,
}

/// A float that comes back from JSON bit for bit.
///
/// JSON has no NaN and no infinities, and `serde_json`'s reader may be off by the last bit where a
/// number has 17 digits. A value it would not return is written as a string instead.
mod exact {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let returned = serde_json::to_string(value).and_then(|text| serde_json::from_str::<f64>(&text));
        if returned.is_ok_and(|returned| returned.to_bits() == value.to_bits()) {
            serializer.serialize_f64(*value)
        } else {
            serializer.collect_str(value)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a number in a string")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
                Ok(value)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
                Ok(value as f64)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
                Ok(value as f64)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
                text.parse().map_err(|_error| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

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

/// How a launch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every workload was measured.
    Complete,
    /// It failed, for this reason.
    Failed {
        /// The exit code the failure asks for.
        exit_code: u8,
        /// The whole error, in one text.
        reason: String,
    },
}

/// Something that happened. One line of the journal each, `Progress` excepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A process began to write this run: the first, or one that resumes it.
    SessionStarted {
        /// RFC 3339, UTC.
        at: String,
        /// The writing process.
        pid: u32,
        /// `ruvlab`'s version and commit.
        build: String,
    },
    /// A launch began.
    LaunchStarted {
        /// Number inside the run, from 0, never used again.
        launch: u32,
        /// Which side it measures.
        arm: Arm,
        /// Number of the pair or round it belongs to.
        block: u32,
        /// Its place in the order of execution inside the block.
        slot: u32,
        /// What part of the cell it runs: the name of a `plan::LaunchTask`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        task: String,
        /// RFC 3339, UTC.
        at: String,
    },
    /// A measured value of a launch.
    Sample {
        /// The launch.
        launch: u32,
        /// The value.
        sample: Sample,
    },
    /// The tokens of one request of a launch.
    Tokens {
        /// The launch.
        launch: u32,
        /// The tokens.
        trace: TokenTrace,
    },
    /// The scored tokens of one window of a launch.
    Scores {
        /// The launch.
        launch: u32,
        /// The tokens.
        trace: ScoreTrace,
    },
    /// The key-value cache did something because it was full.
    CacheTransition {
        /// The launch.
        launch: u32,
        /// What it did.
        transition: CacheTransition,
    },
    /// A learning loop made a step.
    LearningStep {
        /// The launch.
        launch: u32,
        /// The step.
        step: LearningStep,
    },
    /// The learning loops saw a request.
    LearningRequest {
        /// The launch.
        launch: u32,
        /// The request.
        request: LearningRequest,
    },
    /// How far a launch is; for people, never stored.
    Progress {
        /// The launch.
        launch: u32,
        /// The workload's label.
        workload: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Something was not measured, and why (energy counters not readable, say).
    Unavailable {
        /// The launch.
        launch: u32,
        /// The metric's registered name.
        metric: String,
        /// Why.
        reason: String,
    },
    /// A launch ended.
    LaunchFinished {
        /// The launch.
        launch: u32,
        /// How.
        outcome: Outcome,
        /// Wall time of the process, milliseconds.
        wall_ms: u64,
    },
}

impl Event {
    /// Returns whether the journal keeps it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::Progress { .. })
    }
}

/// Anything that watches events.
pub trait Sink {
    /// Takes note of one event.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Sink for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_json_bit_for_bit() {
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let special = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1];
        let drawn = std::iter::repeat_with(|| {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            f64::from_bits(random)
        });
        for value in special.into_iter().chain(drawn.filter(|value| !value.is_nan()).take(20_000)) {
            let sample = Sample {
                metric: "decode_tok_s".to_owned(),
                phase: Phase::Decode,
                workload: String::new(),
                rep: 0,
                warmup: false,
                value,
                n: 1,
                t_ns: 1,
                step: None,
                task: None,
                trained_through: None,
            };
            let text = serde_json::to_string(&sample).unwrap();
            let back: Sample = serde_json::from_str(&text).unwrap();
            assert_eq!(back.value.to_bits(), value.to_bits(), "{text}");
        }
    }
}
