//! A step of the background loop: requests read a part at a time, learned, and held against others.
use std::time::Duration;

use super::Background;
use crate::{
    adapt::micro_lora::{Outcome, Request, Step},
    clock::Stopwatch,
    engine::{LanguageModel, LowRank},
    sona::{Addition, Decision, Passage, Reserve, Served, SonaError, Trajectory, memory::Lesson, passage::Reading},
};

/// Tokens of the first part that is ever read, before it is known how long a token takes.
const FIRST_TOKENS: usize = 2;

/// A step under way.
#[derive(Debug)]
pub(super) struct Job {
    /// What its requests are served with beside the pattern's own, from its beginning to its end.
    pub(super) served: Served,
    pub(super) lesson: Lesson,
    /// The request that is being read.
    pub(super) reading: Option<(Trajectory, Reading)>,
    request: Request,
    before: LowRank,
    /// The step, once it is made: it is published when nothing speaks against it.
    pub(super) step: Option<Step>,
    /// Losses of the judges before and after it, and the tokens behind them.
    pub(super) sums: [f64; 2],
    pub(super) tokens: usize,
    pub(super) time: Duration,
}

impl Background {
    pub(super) fn begin(&self, lesson: Lesson, served: Served) -> Job {
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
    pub(super) fn go_on(
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
