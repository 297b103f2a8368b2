//! What one request is served with.
use std::sync::Arc;

use super::{Addition, Evidence, Instant, Recalled, Recollection, Sona, SonaError};
use crate::{
    adapt::{
        micro_lora::{MicroLora, Request},
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

impl Sona {
    /// Pins what a request is served with.
    ///
    /// # Errors
    ///
    /// If the registry lost what was published.
    pub fn serve(&self) -> Result<Served, SonaError> {
        Served::pin(&self.registry, self.instant.is_some())
    }

    /// Adds to what a request is served with the adapter of the pattern it is of, if it is like one, by the inputs of
    /// the head at the end of its prompt.
    ///
    /// # Errors
    ///
    /// As [`Bank::key`](super::Bank::key).
    pub fn recognise(&self, served: &mut Served, prompt: &[f32]) -> Result<(), SonaError> {
        self.pattern_of(prompt)?.map_or(Ok(()), |at| self.serve_as(served, at))
    }

    /// Returns the pattern whose adapter a prompt is served with.
    fn pattern_of(&self, prompt: &[f32]) -> Result<Option<usize>, SonaError> {
        let Some(background) = &self.background else { return Ok(None) };
        let nearest = self.memory.bank.nearest(&self.memory.bank.key(prompt)?)?;
        Ok(nearest.filter(|(_, cosine)| *cosine >= background.settings().similarity).map(|(at, _)| at))
    }

    /// Returns a share of what micro adapters add where a prompt is answered.
    pub(super) fn learned_addition(&self, prompt: &[f32], share: f64) -> Result<Addition, SonaError> {
        let own = self.pattern_of(prompt)?;
        let pattern = self.background.iter().zip(own).filter_map(|(background, at)| background.micros().get(at));
        let micros = self.instant.iter().map(Instant::micro).chain(pattern);
        let parts: Vec<LowRank> = micros
            .map(|micro| {
                let change = micro.low_rank();
                LowRank { scale: change.scale * share as f32, ..change }
            })
            .collect();
        Addition::of(&parts, self.spec.hidden_size)
    }

    /// Adds to what a request is served with the adapter of a pattern, whatever it is like.
    ///
    /// # Errors
    ///
    /// If there is no such pattern.
    pub fn serve_as(&self, served: &mut Served, pattern: usize) -> Result<(), SonaError> {
        served.pin_pattern(&self.registry, pattern)
    }

    /// Returns the mean loss of a request's tokens as they were served: as recorded, with the neural cache mixed in
    /// where the instant loop is on.
    ///
    /// # Errors
    ///
    /// If the parts are not of one request.
    pub fn loss(&self, evidence: Evidence<'_>) -> Result<f64, SonaError> {
        evidence.check(self.spec.hidden_size, self.instant.is_some())?;
        let Evidence { request, recalled, .. } = evidence;
        let Some(instant) = &self.instant else { return Ok(request.mean_loss()) };
        let positions = request.losses().iter().zip(recalled);
        let mixed = positions.map(|(loss, recalled)| instant.recall.mixed_loss(*loss, *recalled));
        Ok(mixed.sum::<f64>() / recalled.len() as f64)
    }

    /// Leaves in `recalled` what the neural cache holds of a request's tokens at these inputs of the head; nothing without
    /// the instant loop.
    ///
    /// # Panics
    ///
    /// If an input has another width.
    pub fn recall(&self, request: &Request, hidden: &[f32], tokens: &[u32], recalled: &mut Vec<Recalled>) {
        recalled.clear();
        let Some(instant) = &self.instant else { return };
        let mut found = Recollection::default();
        let positions = hidden.chunks_exact(self.spec.hidden_size).zip(tokens).zip(request.sure());
        recalled.extend(positions.map(|((hidden, token), sure)| {
            instant.recall.look(hidden, sure, &mut found);
            found.of(*token)
        }));
    }
}
