//! The background loop: kept requests learned again between requests, a slice at a time.
mod account;
mod job;

use std::time::Duration;

use account::{account, unjudged};
use job::Job;

use super::{
    Account, Decision, Memory, Reserve, Served, SonaError,
    memory::Drawn,
    serving::{pattern, published},
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLora, MicroLoraError, Settings},
        registry::Registry,
    },
    clock::Stopwatch,
    engine::LanguageModel,
    model::spec::ModelSpec,
};

/// How the background loop learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackgroundSettings {
    /// The most patterns.
    pub patterns: usize,
    /// Requests behind one step.
    pub batch: usize,
    /// Requests of the same pattern, never learned again, that a step must not make worse.
    pub judges: usize,
    /// The least cosine to a pattern at which a request is served with what that has learned.
    pub similarity: f64,
    /// The longest a slice may take; no limit when absent, as where results must not depend on time. A request is read
    /// in as many parts as that needs, of as many tokens as the slowest token lately lets into half of it: the rest is
    /// for what follows the reading, and for a machine that is slower for once. Before any pace is known a part is of
    /// few tokens.
    pub slice: Option<Duration>,
}

/// Micro adapters, one a pattern, each moved by replayed requests of its pattern.
#[derive(Debug)]
pub struct Background {
    settings: BackgroundSettings,
    micros: Vec<MicroLora>,
    job: Option<Job>,
    /// Seconds a token took at most, lately.
    pace: f64,
}

impl Background {
    /// Returns a loop that knows nothing yet.
    ///
    /// # Errors
    ///
    /// As [`MicroLora::new`].
    pub fn new(
        settings: BackgroundSettings,
        micro: Settings,
        directions: &Directions,
        vocab_size: usize,
    ) -> Result<Self, MicroLoraError> {
        let micros = (0..settings.patterns).map(|_| MicroLora::new(micro, directions, vocab_size));
        Ok(Self { settings, micros: micros.collect::<Result<_, _>>()?, job: None, pace: 0.0 })
    }

    /// Returns how it learns.
    #[must_use]
    pub fn settings(&self) -> &BackgroundSettings {
        &self.settings
    }

    /// Returns whether a step is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// Returns the micro adapters, one a pattern.
    #[must_use]
    pub fn micros(&self) -> &[MicroLora] {
        &self.micros
    }

    pub(super) fn micros_mut(&mut self) -> &mut [MicroLora] {
        &mut self.micros
    }

    /// Publishes what the patterns have learned.
    pub(super) fn publish(&self, registry: &Registry, spec: &ModelSpec) -> Result<(), SonaError> {
        for (at, micro) in self.micros.iter().enumerate() {
            registry.insert(&pattern(at), published(spec, micro))?;
        }
        Ok(())
    }

    /// Forgets what some patterns have learned.
    pub(super) fn forget(&mut self, patterns: &[usize]) {
        for at in patterns {
            if let Some(micro) = self.micros.get_mut(*at) {
                micro.reset();
            }
        }
    }

    /// Does one slice of work, the reading of a part of a kept request and what follows when it is read, and returns
    /// its time, with the account of the step it ended, if it ended one. Nothing where there is nothing to learn from
    /// yet.
    pub(super) fn slice(
        &mut self,
        engine: &mut dyn LanguageModel,
        registry: &Registry,
        (memory, reserve): (&mut Memory, Option<&Reserve>),
        serve: impl FnOnce() -> Result<Served, SonaError>,
    ) -> Result<Option<(Duration, Option<Account>)>, SonaError> {
        let stopwatch = Stopwatch::start();
        let job = match self.job.take() {
            Some(job) => job,
            None => match memory.draw(self.settings.batch, self.settings.judges)? {
                Drawn::Nothing => return Ok(None),
                Drawn::Unjudged => {
                    let time = stopwatch.elapsed();
                    return Ok(Some((time, Some(unjudged(time, registry.version())))));
                }
                Drawn::Lesson(lesson) => self.begin(lesson, serve()?),
            },
        };
        let mut job = job;
        let decision = match self.go_on(&mut job, reserve, engine) {
            Ok(decision) => decision,
            Err(error) => {
                if let Some((_, reading)) = job.reading {
                    reading.end(engine);
                }
                // Unjudged, it must not be published with the next.
                if job.step.is_some() {
                    self.micros[job.lesson.pattern].undo();
                }
                return Err(error);
            }
        };
        let Some(decision) = decision else {
            let time = stopwatch.elapsed();
            job.time += time;
            self.job = Some(job);
            return Ok(Some((time, None)));
        };
        let (at, spec) = (job.lesson.pattern, engine.spec());
        let version = match decision {
            Decision::Rejected | Decision::Unjudged => registry.version(),
            Decision::Applied | Decision::Reset => {
                registry.insert(&pattern(at), published(spec, &self.micros[at]))?.version
            }
        };
        let time = stopwatch.elapsed();
        Ok(Some((time, Some(account(&job, decision, job.time + time, version)))))
    }
}
