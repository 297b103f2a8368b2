//! What one request is served with.
use std::sync::Arc;

use super::SonaError;
use crate::{
    adapt::{
        micro_lora::MicroLora,
        registry::{Pinned, Registry},
    },
    engine::{Adapter, LowRank, Place, Target},
    model::spec::ModelSpec,
};

/// The name under which the deep loop publishes, and what is active then.
pub(super) const BASE: &str = "base";

/// The name under which the instant loop publishes.
pub(super) const INSTANT: &str = "instant";

/// Returns the name under which the background loop publishes what it learned of a pattern.
pub(super) fn pattern(at: usize) -> String {
    format!("pattern-{at}")
}

/// Returns the head, where micro adapters add.
pub(super) fn head(spec: &ModelSpec) -> Place {
    Place { layer: spec.layers, target: Target::Head }
}

/// Returns a micro adapter as it is published.
pub(super) fn published(spec: &ModelSpec, micro: &MicroLora) -> Adapter {
    Adapter::from([(head(spec), micro.low_rank())])
}

/// The most directions an addition has.
const RANK: usize = 2;

/// Additions of several micro adapters to the head, as one: they share their A, so `Σ s B` is of the same rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    width: usize,
    /// `[2, E]`.
    a: Vec<f32>,
    /// `[V, 2]`, times its scale; empty where nothing is added.
    b: Vec<[f32; RANK]>,
}

impl Addition {
    /// Returns one that adds nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { width: 0, a: Vec::new(), b: Vec::new() }
    }

    /// Returns the sum of these additions to a head whose input has `width` values.
    ///
    /// # Errors
    ///
    /// If their shapes are not of one model, or their A not the same.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a LowRank>, width: usize) -> Result<Self, SonaError> {
        let mut sum = Self::none();
        for LowRank { rank, scale, a, b, magnitude: _ } in parts {
            if a.len() != rank * width || !(1..=RANK).contains(rank) {
                return Err(SonaError::Width { what: "directions", found: a.len(), needed: width });
            }
            if b.iter().all(|value| value.abs() <= 0.0) {
                continue;
            }
            let mut directions = a.clone();
            directions.resize(RANK * width, 0.0);
            if sum.b.is_empty() {
                sum = Self { width, a: directions, b: vec![[0.0; RANK]; b.len() / rank] };
            } else if sum.a != directions || b.len() != rank * sum.b.len() {
                return Err(SonaError::Width { what: "a micro adapter", found: b.len(), needed: sum.b.len() * rank });
            }
            for (row, more) in sum.b.iter_mut().zip(b.chunks_exact(*rank)) {
                row.iter_mut().zip(more).for_each(|(sum, value)| *sum += scale * value);
            }
        }
        Ok(sum)
    }

    /// Adds to the logits of a position, A h being `projected`; where nothing is added every bit stays as it is.
    ///
    /// # Panics
    ///
    /// If the logits are not of the model.
    pub fn apply(&self, projected: [f32; RANK], logits: &mut [f32]) {
        if self.b.is_empty() {
            return;
        }
        assert!(logits.len() == self.b.len(), "{} logits, {} wanted", logits.len(), self.b.len());
        let [first, second] = projected;
        for (logit, row) in logits.iter_mut().zip(&self.b) {
            *logit += row[0] * first + row[1] * second;
        }
    }
}

/// What a request has pinned: it keeps that to its end, whatever is learned meanwhile.
#[derive(Debug)]
pub struct Served {
    base: Pinned,
    instant: Option<Pinned>,
    pattern: Option<(usize, Pinned)>,
}

impl Served {
    /// Pins the active adapter and the instant loop's for a request.
    pub(super) fn pin(registry: &Registry, with_instant: bool) -> Result<Self, SonaError> {
        let instant = with_instant.then(|| registry.pin(INSTANT)).transpose()?;
        Ok(Self { base: registry.pin_active(), instant, pattern: None })
    }

    /// Pins what was learned of a pattern, besides.
    pub(super) fn pin_pattern(&mut self, registry: &Registry, at: usize) -> Result<(), SonaError> {
        self.pattern = Some((at, registry.pin(&pattern(at))?));
        Ok(())
    }

    /// Returns the registry's version it was pinned at: what goes back with the response.
    #[must_use]
    pub fn version(&self) -> u64 {
        let parts = [self.instant.as_ref(), self.pattern.as_ref().map(|(_, pinned)| pinned)];
        parts.into_iter().flatten().map(Pinned::version).fold(self.base.version(), u64::max)
    }

    /// Returns the adapter of the model, for the engine to attach.
    #[must_use]
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.base.adapter()
    }

    /// Returns the pattern whose adapter is among what it is served with.
    #[must_use]
    pub fn pattern(&self) -> Option<usize> {
        self.pattern.as_ref().map(|(at, _)| *at)
    }

    /// Returns the additions to the head, as one.
    ///
    /// # Errors
    ///
    /// If they are not of this model.
    pub fn addition(&self, spec: &ModelSpec) -> Result<Addition, SonaError> {
        self.addition_with(spec, None)
    }

    /// Returns the additions to the head and one more, as one.
    pub(super) fn addition_with(&self, spec: &ModelSpec, more: Option<&LowRank>) -> Result<Addition, SonaError> {
        let place = head(spec);
        let pinned = [self.instant.as_ref(), self.pattern.as_ref().map(|(_, pinned)| pinned)];
        let parts = pinned.into_iter().flatten().filter_map(|pinned| pinned.adapter()?.get(&place));
        Addition::of(parts.chain(more), spec.hidden_size)
    }
}
