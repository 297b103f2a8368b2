//! The loops around one model, and what they share.
use std::sync::Arc;

use super::{
    Account, Baseline, CacheSettings, Evidence, Feedback, Instant, Served, SonaError,
    serving::{INSTANT, published},
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLora, Request, Settings},
        registry::Registry,
    },
    clock::Stopwatch,
    model::spec::ModelSpec,
};

/// Which loops run, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SonaSettings {
    /// How micro adapters learn.
    pub micro: Settings,
    /// The instant loop; off when absent.
    pub instant: Option<CacheSettings>,
}

/// The loops, what they share, and what they publish.
#[derive(Debug)]
pub struct Sona {
    spec: ModelSpec,
    registry: Arc<Registry>,
    /// For its directions: it never learns.
    blank: MicroLora,
    instant: Option<Instant>,
    baseline: Baseline,
    requests: u64,
}

impl Sona {
    /// Returns loops that know nothing yet, and publishes that.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, or the registry has no room.
    pub fn new(
        settings: &SonaSettings,
        spec: &ModelSpec,
        directions: &Directions,
        registry: Arc<Registry>,
    ) -> Result<Self, SonaError> {
        let instant = settings.instant.map(|cache| Instant::new(settings.micro, cache, directions, spec.vocab_size));
        let sona = Self {
            spec: spec.clone(),
            registry,
            blank: MicroLora::new(settings.micro, directions, spec.vocab_size)?,
            instant: instant.transpose()?,
            baseline: Baseline::default(),
            requests: 0,
        };
        if let Some(instant) = &sona.instant {
            sona.registry.insert(INSTANT, published(&sona.spec, instant.micro()))?;
        }
        Ok(sona)
    }

    /// Returns the instant loop, where it is on.
    #[must_use]
    pub fn instant(&self) -> Option<&Instant> {
        self.instant.as_ref()
    }

    /// Returns where everything is published.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Returns how many requests were finished.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns a micro adapter that adds nothing and has the directions of all others.
    #[must_use]
    pub fn blank(&self) -> &MicroLora {
        &self.blank
    }

    /// Returns room for a request of so many tokens.
    #[must_use]
    pub fn request(&self, tokens: usize) -> Request {
        self.blank.request(tokens)
    }

    /// Pins what a request is served with.
    ///
    /// # Errors
    ///
    /// If the registry lost what was published.
    pub fn serve(&self) -> Result<Served, SonaError> {
        Served::pin(&self.registry, self.instant.is_some())
    }

    /// Returns the mean loss of a request's tokens as they were served: as recorded, with the neural cache mixed in
    /// where the instant loop is on. `hidden` are the inputs of the head at its positions.
    ///
    /// # Errors
    ///
    /// If the parts are not of one request.
    pub fn loss(&self, evidence: Evidence<'_>) -> Result<f64, SonaError> {
        evidence.check(self.spec.hidden_size)?;
        let Evidence { request, hidden, tokens } = evidence;
        let mixed = |((loss, hidden), token): ((&f64, &[f32]), &u32)| match &self.instant {
            Some(instant) => instant.mixed_loss(*loss, hidden, *token),
            None => *loss,
        };
        let positions = request.losses().iter().zip(hidden.chunks_exact(self.spec.hidden_size)).zip(tokens);
        Ok(positions.map(mixed).sum::<f64>() / tokens.len() as f64)
    }

    /// Ends a request: learns from it at once, and publishes that. Returns the weight it had, and the account of the
    /// instant loop where that is on.
    ///
    /// # Errors
    ///
    /// If the evidence is not of the model, or a reward is no number; nothing has changed then.
    pub fn finish(&mut self, evidence: Evidence<'_>, feedback: Feedback) -> Result<(f64, Option<Account>), SonaError> {
        let stopwatch = Stopwatch::start();
        evidence.check(self.spec.hidden_size)?;
        let mut baseline = self.baseline;
        let weight = baseline.weight(feedback)?;
        let mut account = None;
        if let Some(instant) = &mut self.instant {
            let mut learned = instant.learn(evidence, weight)?;
            learned.version = self.registry.insert(INSTANT, published(&self.spec, instant.micro()))?.version;
            learned.time = stopwatch.elapsed();
            account = Some(learned);
        }
        self.baseline = baseline;
        self.requests += 1;
        Ok((weight, account))
    }
}
