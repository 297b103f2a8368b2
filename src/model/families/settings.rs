//! The settings of a file: reading them, and refusing those that nobody would heed.
use indexmap::IndexMap;

use super::FamilyError;
use crate::model::weights::Value;

/// Keys that are read, after `ARCHITECTURE.`, and those that say nothing a result depends on.
const KNOWN: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.finetuned",
    "vocab_size",
    "tensor_data_layout",
];

/// Keys of what is not computed, with the value that means it is not there.
const NEUTRAL: &[(&str, f64)] = &[
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("rope.scaling.alpha", 0.0),
];

/// A file's settings under the name of its architecture.
pub(super) struct Settings<'a> {
    pub(super) architecture: &'a str,
    pub(super) metadata: &'a IndexMap<String, Value>,
}

impl Settings<'_> {
    pub(super) fn value(&self, key: &str) -> (String, Option<&Value>) {
        let key = format!("{}.{key}", self.architecture);
        let value = self.metadata.get(&key);
        (key, value)
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>, FamilyError> {
        let (key, value) = self.value(key);
        let Some(value) = value else { return Ok(None) };
        // Beyond every model, and small enough for products of two to stay inside 64 bits.
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 24).contains(n));
        let problem = || FamilyError::Setting { key, problem: "is not a number from 1 to 16777216".to_owned() };
        count.map(Some).ok_or_else(problem)
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, FamilyError> {
        self.optional_count(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// Returns a number above 0; none where it is absent or 0, which files write for "none".
    pub(super) fn optional_positive(&self, key: &str) -> Result<Option<f64>, FamilyError> {
        let Some(value) = self.value(key).1 else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite() && *x >= 0.0);
        let number = number.ok_or_else(|| self.wrong(key, "is not a number of 0 or more"))?;
        Ok(Some(number).filter(|x| *x > 0.0))
    }

    pub(super) fn positive(&self, key: &str, default: Option<f64>) -> Result<f64, FamilyError> {
        let number = match self.value(key).1 {
            Some(value) => value.as_f64(),
            None => Some(default.ok_or_else(|| self.wrong(key, "is missing"))?),
        };
        number.filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| self.wrong(key, "is not a number above 0"))
    }

    pub(super) fn wrong(&self, key: &str, problem: &str) -> FamilyError {
        FamilyError::Setting { key: self.value(key).0, problem: problem.to_owned() }
    }

    /// Refuses what would change the numbers and is not computed: a key that is neither read here or
    /// by the family (`more`), nor neutral.
    pub(super) fn refuse_unknown(&self, more: &[&str]) -> Result<(), FamilyError> {
        let prefix = format!("{}.", self.architecture);
        for (name, value) in self.metadata {
            let Some(key) = name.strip_prefix(&prefix) else { continue };
            if KNOWN.contains(&key) || more.contains(&key) {
                continue;
            }
            let problem = match NEUTRAL.iter().find(|(neutral, _)| *neutral == key) {
                Some((_, neutral)) if value.as_f64().is_some_and(|found| (found - neutral).abs() <= 0.0) => continue,
                Some((_, neutral)) => format!("is {value:?}: only {neutral} is supported"),
                // What older and other converters write for "none".
                None if value.as_f64().is_some_and(|found| found.abs() <= 0.0) => continue,
                None => "is not known here; running without it could give wrong results".to_owned(),
            };
            return Err(FamilyError::Setting { key: name.clone(), problem });
        }
        Ok(())
    }
}
