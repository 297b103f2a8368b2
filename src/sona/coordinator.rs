//! The loops around one model, and what they share.
use std::{sync::Arc, time::Duration};

use super::{
    Account, Background, BackgroundSettings, Baseline, CacheSettings, Deep, Evidence, Feedback, General, Instant,
    Memory, MemorySettings, Reserve, Served, SonaError, Trajectory,
    serving::{BASE, INSTANT, published},
    transaction::Unchanged,
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

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were finished.
    pub requests: u64,
    /// Transactions that were committed.
    pub commits: u64,
    /// Transactions that were rolled back.
    pub rollbacks: u64,
}

/// The loops, what they share, and what they publish.
#[derive(Debug)]
pub struct Sona {
    /// What a stored state must have been made with.
    pub(super) settings: SonaSettings,
    pub(super) spec: ModelSpec,
    pub(super) registry: Arc<Registry>,
    /// For its directions: it never learns.
    pub(super) blank: MicroLora,
    pub(super) instant: Option<Instant>,
    pub(super) background: Option<Background>,
    pub(super) deep: Option<Deep>,
    pub(super) memory: Memory,
    pub(super) baseline: Baseline,
    pub(super) counters: Counters,
    /// What transactions go by, and its losses by the model as it came, once they are known.
    pub(super) general: General,
    pub(super) general_static: Option<Unchanged>,
    /// Requests that were finished since the last transaction.
    pub(super) since_deep: u64,
    /// What the fast loops are held against.
    pub(super) reserve: Option<Reserve>,
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
        let instant = settings
            .instant
            .map(|cache| Instant::new(settings.micro, cache, directions, center.clone(), spec.vocab_size));
        let background =
            settings.background.map(|own| Background::new(own, settings.micro, directions, spec.vocab_size));
        let sona = Self {
            settings: settings.clone(),
            spec: spec.clone(),
            registry,
            blank: MicroLora::new(settings.micro, directions, spec.vocab_size)?,
            instant: instant.transpose()?,
            background: background.transpose()?,
            deep: None,
            memory: Memory::new(settings.memory, center),
            baseline: Baseline::default(),
            counters: Counters::default(),
            general: General::default(),
            general_static: None,
            since_deep: 0,
            reserve: None,
        };
        sona.publish()?;
        Ok(sona)
    }

    /// Holds the fast loops back where they would raise the loss on this general text, prompts with what follows, by
    /// more than the share `max_drift`, each of its own.
    ///
    /// # Errors
    ///
    /// As [`Passage::read`](super::Passage::read).
    pub fn with_reserve(
        mut self,
        engine: &mut dyn LanguageModel,
        text: Vec<(Vec<u32>, Vec<u32>)>,
        max_drift: f64,
    ) -> Result<Self, SonaError> {
        let base = self.registry.pin_active();
        self.reserve = Some(Reserve::read(engine, base.adapter(), &self.blank, text, max_drift)?);
        self.protect();
        Ok(self)
    }

    /// Gives micro adapters the precision that the reserve wants.
    pub(super) fn protect(&mut self) {
        let Self { reserve: Some(reserve), instant, background, .. } = self else { return };
        instant.iter_mut().for_each(|instant| reserve.protect(instant.micro_mut()));
        background.iter_mut().flat_map(Background::micros_mut).for_each(|micro| reserve.protect(micro));
    }

    /// Adds the deep loop, and the general text it is judged by, and publishes its adapter as the model's own; of the
    /// requests that come from now on some are kept for its verdicts alone.
    ///
    /// # Errors
    ///
    /// If the registry has no room.
    pub fn with_deep(mut self, deep: Deep, general: General) -> Result<Self, SonaError> {
        self.memory.seat(deep.settings.jury);
        (self.deep, self.general) = (Some(deep), general);
        self.publish()?;
        Ok(self)
    }

    /// Publishes all there is.
    pub(super) fn publish(&self) -> Result<(), SonaError> {
        if let Some(deep) = &self.deep {
            self.registry.insert(BASE, deep.adapter().clone())?;
            self.registry.activate(Some(BASE))?;
        }
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

    /// Returns the deep loop, where it is on.
    #[must_use]
    pub fn deep(&self) -> Option<&Deep> {
        self.deep.as_ref()
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

    /// Returns what happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
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

    /// Ends a request: learns from it at once, and publishes that. Returns the weight it had, and the account of the
    /// instant loop where that is on.
    ///
    /// # Errors
    ///
    /// If the evidence is not of the model, or a reward is no number; nothing has changed then.
    pub fn finish(&mut self, evidence: Evidence<'_>, feedback: Feedback) -> Result<(f64, Option<Account>), SonaError> {
        let stopwatch = Stopwatch::start();
        evidence.check(self.spec.hidden_size, self.instant.is_some())?;
        let mut baseline = self.baseline;
        let weight = baseline.weight(feedback)?;
        let mut account = None;
        if let Some(instant) = &mut self.instant {
            let mut learned = instant.learn(evidence, weight, self.reserve.as_mut());
            learned.version = self.registry.insert(INSTANT, published(&self.spec, instant.micro()))?.version;
            learned.time = stopwatch.elapsed();
            account = Some(learned);
        }
        self.baseline = baseline;
        self.counters.requests += 1;
        self.since_deep += 1;
        Ok((weight, account))
    }

    /// Returns whether a transaction of the deep loop is due, no request having come for so long.
    #[must_use]
    pub fn is_deep_due(&self, idle: Duration) -> bool {
        self.deep.as_ref().is_some_and(|deep| deep.settings.when.is_due(self.since_deep, idle))
    }

    /// Keeps a finished request to be learned again, or to judge by, where a loop does so; `prompt` are the inputs of
    /// the head at the end of its prompt.
    ///
    /// # Errors
    ///
    /// As [`Bank::key`](super::Bank::key).
    pub fn keep(&mut self, id: u64, (prompt, answer): (&[u32], &[u32]), inputs: &[f32]) -> Result<(), SonaError> {
        if self.background.is_none() && self.deep.is_none() {
            return Ok(());
        }
        let key = self.memory.bank.key(inputs)?;
        let trajectory = Trajectory { id, prompt: prompt.to_vec(), answer: answer.to_vec(), key };
        // A pattern that a step is about stays what it is until the step has ended.
        let is_busy = self.background.as_ref().is_some_and(Background::is_busy);
        let new = self.memory.keep(trajectory, !is_busy)?;
        if let Some(background) = self.background.as_mut().filter(|_| !new.is_empty()) {
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
        let Self { background, registry, memory, reserve, .. } = self;
        let background = background.as_mut().ok_or(SonaError::Off("background"))?;
        background.slice(engine, registry, (memory, reserve.as_ref()), || Served::pin(registry, with_instant))
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

    /// Ends a background step that is under way.
    pub(super) fn end_step(&mut self, engine: &mut dyn LanguageModel) -> Result<(), SonaError> {
        if self.background.as_ref().is_some_and(Background::is_busy) {
            self.step(engine)?;
        }
        Ok(())
    }
}
