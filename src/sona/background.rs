//! The background loop: kept requests learned again between requests, a slice at a time.
use std::time::Duration;

use super::{
    Account, Addition, Decision, LoopKind, Memory, Passage, Served, SonaError, Trajectory,
    memory::Lesson,
    serving::{pattern, published},
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLora, MicroLoraError, Outcome, Request, Settings, Step},
        registry::Registry,
    },
    clock::Stopwatch,
    engine::{LanguageModel, LowRank},
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
    /// The longest a slice may take; no limit when absent, as where results must not depend on time.
    pub slice: Option<Duration>,
}

/// A step under way.
#[derive(Debug)]
struct Job {
    /// What its requests are served with beside the pattern's own, from its beginning to its end.
    served: Served,
    lesson: Lesson,
    request: Request,
    before: LowRank,
    /// The step, once it is made: it is published when nothing speaks against it.
    step: Option<Step>,
    /// Losses of the judges before and after it, and the tokens behind them.
    sums: [f64; 2],
    tokens: usize,
    time: Duration,
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

    /// Does one slice of work, the reading of one kept request, and returns its time, with the account of the
    /// step it ended, if it ended one. Nothing where there is nothing to learn from yet.
    pub(super) fn slice(
        &mut self,
        engine: &mut dyn LanguageModel,
        registry: &Registry,
        memory: &mut Memory,
        serve: impl FnOnce() -> Result<Served, SonaError>,
    ) -> Result<Option<(Duration, Option<Account>)>, SonaError> {
        let stopwatch = Stopwatch::start();
        if self.job.is_none() {
            let Some(lesson) = memory.draw(self.settings.batch, self.settings.judges)? else { return Ok(None) };
            let Some(micro) = self.micros.get(lesson.pattern) else { return Ok(None) };
            self.job = Some(Job {
                served: serve()?,
                request: micro.request(0),
                before: micro.low_rank(),
                lesson,
                step: None,
                sums: [0.0; 2],
                tokens: 0,
                time: Duration::ZERO,
            });
        }
        let Some(mut job) = self.job.take() else { return Ok(None) };
        let decision = match (job.lesson.learned.pop(), &job.step) {
            (Some(one), _) => self.learn(&mut job, one, engine)?,
            (None, None) => Some(Decision::Rejected),
            (None, Some(_)) => match self.judge(&mut job, engine) {
                Ok(decision) => decision,
                Err(error) => {
                    // Unjudged, it must not be published with the next.
                    self.micros[job.lesson.pattern].undo();
                    return Err(error);
                }
            },
        };
        let Some(decision) = decision else {
            let time = stopwatch.elapsed();
            job.time += time;
            self.job = Some(job);
            return Ok(Some((time, None)));
        };
        let (at, spec) = (job.lesson.pattern, engine.spec());
        let version = match decision {
            Decision::Rejected => registry.version(),
            Decision::Applied | Decision::Reset => {
                registry.insert(&pattern(at), published(spec, &self.micros[at]))?.version
            }
        };
        let time = stopwatch.elapsed();
        Ok(Some((time, Some(account(&job, decision, job.time + time, version)))))
    }

    /// Reads a request, as much of it as there is time for.
    fn read(&mut self, job: &Job, one: &mut Trajectory, engine: &mut dyn LanguageModel) -> Result<Passage, SonaError> {
        if let Some(most) = self.settings.slice.filter(|_| self.pace > 0.0) {
            // Half, since a slice may be slower than any before it.
            let fitting = (0.5 * most.as_secs_f64() / self.pace) as usize;
            one.answer.truncate(fitting.saturating_sub(one.prompt.len()).max(1));
        }
        let stopwatch = Stopwatch::start();
        let passage = Passage::read(engine, job.served.adapter(), &one.prompt, &one.answer)?;
        let pace = stopwatch.elapsed().as_secs_f64() / (one.prompt.len() + one.answer.len()) as f64;
        self.pace = pace.max(0.9 * self.pace);
        Ok(passage)
    }

    /// Takes note of a request, and makes the step where it is the last; returns what came of a step that there is
    /// nothing to judge of.
    fn learn(
        &mut self,
        job: &mut Job,
        mut one: Trajectory,
        engine: &mut dyn LanguageModel,
    ) -> Result<Option<Decision>, SonaError> {
        let passage = self.read(job, &mut one, engine)?;
        let micro = &mut self.micros[job.lesson.pattern];
        let addition = job.served.addition_with(engine.spec(), Some(&job.before))?;
        passage.record(micro, &addition, &one.answer, &mut job.request)?;
        if !job.lesson.learned.is_empty() {
            return Ok(None);
        }
        let step = micro.step(&job.request, 1.0);
        job.step = Some(step);
        Ok(match step.outcome {
            Outcome::Applied => None,
            Outcome::Rejected => {
                micro.undo();
                Some(Decision::Rejected)
            }
            Outcome::Reset => Some(Decision::Reset),
        })
    }

    /// Scores a request that is never learned again, before and after the step; returns what all of them say of it
    /// where it is the last.
    fn judge(&mut self, job: &mut Job, engine: &mut dyn LanguageModel) -> Result<Option<Decision>, SonaError> {
        if let Some(mut one) = job.lesson.judges.pop() {
            let passage = self.read(job, &mut one, engine)?;
            let micro = &self.micros[job.lesson.pattern];
            let after = micro.low_rank();
            for (sum, own) in job.sums.iter_mut().zip([&job.before, &after]) {
                let addition: Addition = job.served.addition_with(engine.spec(), Some(own))?;
                *sum += passage.loss(micro, &addition, &one.answer) * one.answer.len() as f64;
            }
            job.tokens += one.answer.len();
        }
        if !job.lesson.judges.is_empty() {
            return Ok(None);
        }
        let [before, after] = job.sums;
        if after <= before {
            return Ok(Some(Decision::Applied));
        }
        self.micros[job.lesson.pattern].undo();
        Ok(Some(Decision::Rejected))
    }
}

fn account(job: &Job, decision: Decision, time: Duration, version: u64) -> Account {
    let judged = job.tokens > 0;
    let mean = |sum: f64| sum / job.tokens as f64;
    // Where no judge was asked, the step's own losses are all there is.
    let own = job.step.map_or([0.0; 2], |step| [step.loss_before, step.loss_after]);
    let [loss_before, loss_after] = if judged { job.sums.map(mean) } else { own };
    Account {
        of: LoopKind::Background,
        decision,
        loss_before,
        loss_after,
        predicted_decrease: job.step.map_or(0.0, |step| step.predicted_decrease),
        grad_norm: job.step.map_or(0.0, |step| step.grad_norm),
        time,
        version,
    }
}
