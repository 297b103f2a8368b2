//! Measured values.
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
pub(super) mod exact {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in crate::event) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let returned = serde_json::to_string(value).and_then(|text| serde_json::from_str::<f64>(&text));
        if returned.is_ok_and(|returned| returned.to_bits() == value.to_bits()) {
            serializer.serialize_f64(*value)
        } else {
            serializer.collect_str(value)
        }
    }

    pub(in crate::event) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
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
