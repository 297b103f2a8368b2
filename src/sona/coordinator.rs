//! The loops around one model, and what they share.
use std::{sync::Arc, time::Duration};

use super::{
    Account, Background, BackgroundSettings, Baseline, CacheSettings, Evidence, Feedback, Instant, Memory,
    MemorySettings, Served, SonaError, Trajectory,
    serving::{INSTANT, published},
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLora, Request, Settings},
        registry::Registry,
    },
    clock::Stopwatch,
    engine::LanguageModel,
    model::spec::ModelSpec,
};

/// Which loops run, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SonaSettings {
    /// How micro adapters learn.
    pub micro: Settings,
    /// The instant loop; off when absent.
    pub instant: Option<CacheSettings>,
    /// The background loop; off when absent.
    pub background: Option<BackgroundSettings>,
    /// What is kept of requests.
    pub memory: MemorySettings,
}

/// The loops, what they share, and what they publish.
#[derive(Debug)]
pub struct Sona {
    spec: ModelSpec,
    registry: Arc<Registry>,
    /// For its directions: it never learns.
    blank: MicroLora,
    instant: Option<Instant>,
    background: Option<Background>,
    memory: Memory,
    baseline: Baseline,
    requests: u64,
}

impl Sona {
    /// Returns loops that know nothing yet, and publishes that; `center` is the mean of the head's inputs.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, or the registry has no room.
    pub fn new(
        settings: &SonaSettings,
        spec: &ModelSpec,
        directions: &Directions,
        center: Vec<f32>,
        registry: Arc<Registry>,
    ) -> Result<Self, SonaError> {
        if center.len() != spec.hidden_size {
            return Err(SonaError::Width { what: "the mean input", found: center.len(), needed: spec.hidden_size });
        }
        let instant = settings.instant.map(|cache| Instant::new(settings.micro, cache, directions, spec.vocab_size));
        let background =
            settings.background.map(|own| Background::new(own, settings.micro, directions, spec.vocab_size));
        let sona = Self {
            spec: spec.clone(),
            registry,
            blank: MicroLora::new(settings.micro, directions, spec.vocab_size)?,
            instant: instant.transpose()?,
            background: background.transpose()?,
            memory: Memory::new(settings.memory, center),
            baseline: Baseline::default(),
            requests: 0,
        };
        sona.publish()?;
        Ok(sona)
    }

    /// Publishes all there is.
    fn publish(&self) -> Result<(), SonaError> {
        if let Some(instant) = &self.instant {
            self.registry.insert(INSTANT, published(&self.spec, instant.micro()))?;
        }
        self.background.iter().try_for_each(|background| background.publish(&self.registry, &self.spec))
    }

    /// Returns the instant loop, where it is on.
    #[must_use]
    pub fn instant(&self) -> Option<&Instant> {
        self.instant.as_ref()
    }

    /// Returns the background loop, where it is on.
    #[must_use]
    pub fn background(&self) -> Option<&Background> {
        self.background.as_ref()
    }

    /// Returns what is kept of requests.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
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

    /// Adds to what a request is served with the adapter of the pattern it is of, if it is like one, by the inputs of
    /// the head at the end of its prompt.
    ///
    /// # Errors
    ///
    /// As [`Bank::key`](super::Bank::key).
    pub fn recognise(&self, served: &mut Served, prompt: &[f32]) -> Result<(), SonaError> {
        let Some(background) = &self.background else { return Ok(()) };
        let nearest = self.memory.bank.nearest(&self.memory.bank.key(prompt)?)?;
        match nearest.filter(|(_, cosine)| *cosine >= background.settings().similarity) {
            Some((at, _)) => self.serve_as(served, at),
            None => Ok(()),
        }
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

    /// Keeps a finished request to be learned again, or to judge by, where a loop does so; `prompt` are the inputs of
    /// the head at the end of its prompt.
    ///
    /// # Errors
    ///
    /// As [`Bank::key`](super::Bank::key).
    pub fn keep(&mut self, id: u64, (prompt, answer): (&[u32], &[u32]), inputs: &[f32]) -> Result<(), SonaError> {
        let Some(background) = &mut self.background else { return Ok(()) };
        let key = self.memory.bank.key(inputs)?;
        let trajectory = Trajectory { id, prompt: prompt.to_vec(), answer: answer.to_vec(), key };
        // A pattern that a step is about stays what it is until the step has ended.
        let new = self.memory.keep(trajectory, !background.is_busy())?;
        if !new.is_empty() {
            background.forget(&new);
            background.publish(&self.registry, &self.spec)?;
        }
        Ok(())
    }

    /// Does one slice of background work and returns its time, with the account of the step it ended, if it
    /// ended one; nothing where there is nothing to learn from yet.
    ///
    /// # Errors
    ///
    /// If the loop is off, or the engine fails.
    pub fn slice(&mut self, engine: &mut dyn LanguageModel) -> Result<Option<(Duration, Option<Account>)>, SonaError> {
        let with_instant = self.instant.is_some();
        let Self { background, registry, memory, .. } = self;
        let background = background.as_mut().ok_or(SonaError::Off("background"))?;
        background.slice(engine, registry, memory, || Served::pin(registry, with_instant))
    }

    /// Runs slices until a step has ended and returns its account; nothing where there is nothing to learn from yet.
    ///
    /// # Errors
    ///
    /// As [`Self::slice`].
    pub fn step(&mut self, engine: &mut dyn LanguageModel) -> Result<Option<Account>, SonaError> {
        while let Some((_, account)) = self.slice(engine)? {
            if account.is_some() {
                return Ok(account);
            }
        }
        Ok(None)
    }
}
