//! The background loop: kept requests learned again between requests, a slice at a time.
mod account;

use std::time::Duration;

use account::{account, unjudged};

use super::{
    Account, Addition, Decision, Memory, Passage, Reserve, Served, SonaError, Trajectory,
    memory::{Drawn, Lesson},
    passage::Reading,
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
    /// The longest a slice may take; no limit when absent, as where results must not depend on time. A request is read
    /// in as many parts as that needs, of as many tokens as the slowest token lately lets into half of it: the rest is
    /// for what follows the reading, and for a machine that is slower for once. Before any pace is known a part is of
    /// few tokens.
    pub slice: Option<Duration>,
}

/// Tokens of the first part that is ever read, before it is known how long a token takes.
const FIRST_TOKENS: usize = 2;

/// A step under way.
#[derive(Debug)]
struct Job {
    /// What its requests are served with beside the pattern's own, from its beginning to its end.
    served: Served,
    lesson: Lesson,
    /// The request that is being read.
    reading: Option<(Trajectory, Reading)>,
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

    fn begin(&self, lesson: Lesson, served: Served) -> Job {
        let micro = &self.micros[lesson.pattern];
        Job {
            served,
            request: micro.request(0),
            before: micro.low_rank(),
            lesson,
            reading: None,
            step: None,
            sums: [0.0; 2],
            tokens: 0,
            time: Duration::ZERO,
        }
    }

    /// Reads on in a request, and learns it or judges by it when it is read; returns what came of a step that has
    /// ended.
    fn go_on(
        &mut self,
        job: &mut Job,
        reserve: Option<&Reserve>,
        engine: &mut dyn LanguageModel,
    ) -> Result<Option<Decision>, SonaError> {
        let Some((one, passage)) = self.read(job, engine)? else { return Ok(None) };
        if job.step.is_none() {
            self.learn(job, &one, &passage, reserve, engine)
        } else {
            self.judge(job, &one, &passage, engine)
        }
    }

    /// Reads a part of the next request, as much as there is time for; returns it when all of it is read.
    fn read(
        &mut self,
        job: &mut Job,
        engine: &mut dyn LanguageModel,
    ) -> Result<Option<(Trajectory, Passage)>, SonaError> {
        let (one, mut reading) = match job.reading.take() {
            Some(reading) => reading,
            None => {
                let next = if job.step.is_none() { &mut job.lesson.learned } else { &mut job.lesson.judges };
                let Some(one) = next.pop() else { return Ok(None) };
                let reading = Reading::begin(engine, job.served.adapter(), &one.prompt, &one.answer)?;
                (one, reading)
            }
        };
        let most = self.settings.slice.map_or(usize::MAX, |most| match self.pace {
            pace if pace > 0.0 => (0.5 * most.as_secs_f64() / pace) as usize,
            _ => FIRST_TOKENS,
        });
        let stopwatch = Stopwatch::start();
        let before = reading.left();
        let left = match reading.go_on(engine, most) {
            Ok(left) => left,
            Err(error) => {
                job.reading = Some((one, reading));
                return Err(error);
            }
        };
        let pace = stopwatch.elapsed().as_secs_f64() / (before - left).max(1) as f64;
        self.pace = pace.max(0.9 * self.pace);
        if left > 0 {
            job.reading = Some((one, reading));
            return Ok(None);
        }
        Ok(Some((one, reading.end(engine))))
    }

    /// Takes note of a request, and makes the step where it is the last; returns what came of a step that there is
    /// nothing to judge of.
    fn learn(
        &mut self,
        job: &mut Job,
        one: &Trajectory,
        passage: &Passage,
        reserve: Option<&Reserve>,
        engine: &mut dyn LanguageModel,
    ) -> Result<Option<Decision>, SonaError> {
        let micro = &mut self.micros[job.lesson.pattern];
        let addition = job.served.addition_with(engine.spec(), Some(&job.before))?;
        passage.record(micro, &addition, &one.answer, &mut job.request)?;
        if !job.lesson.learned.is_empty() {
            return Ok(None);
        }
        let step = micro.step(&job.request, 1.0);
        job.step = Some(step);
        Ok(match step.outcome {
            Outcome::Applied => {
                if let Some(reserve) = reserve {
                    reserve.hold(micro);
                }
                None
            }
            Outcome::Rejected => {
                micro.undo();
                Some(Decision::Rejected)
            }
            Outcome::Reset => Some(Decision::Reset),
        })
    }

    /// Scores a request that is never learned again, before and after the step; returns what all of them say of it
    /// where it is the last.
    fn judge(
        &mut self,
        job: &mut Job,
        one: &Trajectory,
        passage: &Passage,
        engine: &mut dyn LanguageModel,
    ) -> Result<Option<Decision>, SonaError> {
        let micro = &self.micros[job.lesson.pattern];
        let after = micro.low_rank();
        for (sum, own) in job.sums.iter_mut().zip([&job.before, &after]) {
            let addition: Addition = job.served.addition_with(engine.spec(), Some(own))?;
            *sum += passage.loss(micro, &addition, &one.answer) * one.answer.len() as f64;
        }
        job.tokens += one.answer.len();
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
