//! Ranks and scales: of an adapter, and of modules that differ.
use regex::Regex;
use serde_json::Value;

use super::modules::module_path;
use crate::{
    engine::{Place, Target},
    model::spec::ModelSpec,
};

/// How an adapter is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The rank.
    pub r: usize,
    /// The numerator.
    pub lora_alpha: f64,
    /// Whether the root of the rank divides it (arXiv 2312.03732).
    pub use_rslora: bool,
}

impl Scaling {
    /// Returns what `B A x` is multiplied by.
    #[must_use]
    pub fn factor(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Returns the alpha whose factor is `scale`, to the bit in f32.
    pub(super) fn alpha_of(self, scale: f32) -> f64 {
        f64::from(scale) / Self { lora_alpha: 1.0, ..self }.factor()
    }
}

/// Numbers of some modules that differ from the others': PEFT's `rank_pattern` and `alpha_pattern`. A key
/// stands for the modules whose names end in what it, a regular expression, fits after a dot.
#[derive(Debug, Default)]
struct Pattern(Vec<(Regex, f64)>);

impl Pattern {
    fn new<'a>(key: &str, entries: impl IntoIterator<Item = (&'a str, f64)>) -> Result<Self, String> {
        let entry = |(name, number): (&str, f64)| {
            let fits = Regex::new(&format!(r"^(.*\.)?({name})$")).map_err(|error| format!("`{key}`: {error}"))?;
            Ok((fits, number))
        };
        Ok(Self(entries.into_iter().map(entry).collect::<Result<_, String>>()?))
    }

    fn read(config: &Value, key: &str) -> Result<Self, String> {
        let Some(map) = config[key].as_object() else { return Ok(Self::default()) };
        let number = |value: &Value| value.as_f64().ok_or_else(|| format!("`{key}`: {value} is no number"));
        let entries = map.iter().map(|(name, value)| Ok((name.as_str(), number(value)?)));
        Self::new(key, entries.collect::<Result<Vec<_>, String>>()?)
    }

    /// Returns the number of the first key that fits a module's path.
    fn of(&self, path: &str) -> Option<f64> {
        self.0.iter().find(|(fits, _)| fits.is_match(path)).map(|(_, number)| *number)
    }
}

/// Which modules are scaled in their own way: PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Debug, Default)]
pub struct Patterns {
    ranks: Pattern,
    alphas: Pattern,
}

impl Patterns {
    /// Returns the patterns of these keys, regular expressions for the ends of modules' names.
    ///
    /// # Errors
    ///
    /// If one is no regular expression.
    pub fn new<'a>(
        ranks: impl IntoIterator<Item = (&'a str, f64)>,
        alphas: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<Self, String> {
        Ok(Self { ranks: Pattern::new("rank_pattern", ranks)?, alphas: Pattern::new("alpha_pattern", alphas)? })
    }

    pub(super) fn read(config: &Value) -> Result<Self, String> {
        Ok(Self { ranks: Pattern::read(config, "rank_pattern")?, alphas: Pattern::read(config, "alpha_pattern")? })
    }

    pub(super) fn of_module(&self, path: &str, other: Scaling) -> Scaling {
        Scaling {
            r: self.ranks.of(path).map_or(other.r, |r| r as usize),
            lora_alpha: self.alphas.of(path).unwrap_or(other.lora_alpha),
            ..other
        }
    }

    /// Returns how a place is scaled, where all others are as `other`.
    #[must_use]
    pub fn scaling(&self, spec: &ModelSpec, place: Place, other: Scaling) -> Scaling {
        self.of_module(&module_path(spec, place), other)
    }

    /// Returns whether the key, in `rank_pattern` or `alpha_pattern`, fits any place of these targets.
    #[must_use]
    pub fn fits(key: &str, spec: &ModelSpec, targets: &[Target]) -> bool {
        let pattern = Pattern::new("", [(key, 0.0)]);
        let fits = |place| pattern.as_ref().is_ok_and(|pattern| pattern.of(&module_path(spec, place)).is_some());
        Place::all(spec, targets).into_iter().any(fits)
    }
}
