//! Learning loops at work: streams requests past a model that learns from them, each scored before that
//! (prequentially), and tells what is left at the end.
mod controls;
mod deep;
mod feedback;
mod loops;
mod results;
mod speed;
mod texts;

use std::{path::Path, time::Duration};

pub(super) use controls::Streams;
use feedback::{Answer, Outcome, outcomes};
use loops::begin;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use results::Results;
pub(super) use speed::run as run_speed;
use texts::{DRIFT, DRIFT_FROM, OTHERS, Pair, Texts, pair};

use super::{error::LaunchError, opened::Loaded, prompt::derive_seed, recorder::Recorder, train::file_name};
use crate::{
    adapt::micro_lora::Request,
    event::LearningRequest,
    plan::Cell,
    recipe::schema::{Adapt, RequestOrder, SonaControl, SonaStream},
    sona::{Account, Addition, Evidence, Feedback, Passage, Recalled, Served, Sona, Verdict},
};

/// The loops of a recipe at work on a stream.
struct Course<'a> {
    stream: &'a SonaStream,
    loaded: &'a mut Loaded,
    texts: Texts,
    sona: Sona,
    /// Room that is used again.
    request: Request,
    recalled: Vec<Recalled>,
    /// Background steps after every request.
    steps: u32,
    /// From one slice of background work to the next at least, where time is measured.
    interval: Duration,
    /// Draws the patterns that retrieval is held against.
    random: ChaCha8Rng,
}

impl<'a> Course<'a> {
    fn new(stream: &'a SonaStream, cell: &Cell, loaded: &'a mut Loaded, is_timed: bool) -> Result<Self, LaunchError> {
        let texts = Texts::new(stream, cell, loaded)?;
        let sona = begin(stream, cell, loaded, &texts, is_timed)?;
        let request = sona.request(stream.output_tokens as usize);
        let random = ChaCha8Rng::seed_from_u64(derive_seed("patterns", cell.seed, 0, 0));
        let section = cell.recipe.sona.clone().unwrap_or_default();
        let background = section.background.unwrap_or_default();
        let (steps, interval) = (background.steps_per_request, Duration::from_millis(background.interval_ms));
        let recalled = Vec::with_capacity(stream.output_tokens as usize);
        Ok(Self { stream, loaded, texts, sona, request, recalled, steps, interval, random })
    }

    /// Returns how long nobody asks after a request.
    fn idle(&self, at: u64) -> Duration {
        let pauses = self.stream.pause_every.is_some_and(|every| (at + 1).is_multiple_of(every.into()));
        Duration::from_millis(if pauses { self.stream.pause_ms } else { 0 })
    }

    /// Ends the loops, and begins again from what they saved.
    fn restart(&mut self, cell: &Cell) -> Result<(), LaunchError> {
        let state = self.sona.save(self.loaded.engine.as_mut())?;
        self.sona = begin(self.stream, cell, self.loaded, &self.texts, false)?;
        Ok(self.sona.resume(self.loaded.engine.as_mut(), &state)?)
    }

    /// Returns a passage as the model with its adapter reads it, its mean loss as it is served now, and what that
    /// is, and leaves what can be learned of it in `request`.
    fn serve(&mut self, (prompt, answer): &Pair) -> Result<(Passage, f64, Served), LaunchError> {
        let mut served = self.sona.serve()?;
        let passage = Passage::read(self.loaded.engine.as_mut(), served.adapter(), prompt, answer)?;
        self.sona.recognise(&mut served, &passage.prompt)?;
        let loss = self.loss(&passage, &served, answer)?;
        Ok((passage, loss, served))
    }

    fn loss(&mut self, passage: &Passage, served: &Served, answer: &[u32]) -> Result<f64, LaunchError> {
        let Self { loaded, sona, request, recalled, .. } = self;
        let addition = served.addition(loaded.engine.spec())?;
        request.clear();
        passage.record(sona.blank(), &addition, answer, request)?;
        sona.recall(request, &passage.hidden, answer, recalled);
        Ok(sona.loss(Evidence { request, hidden: &passage.hidden, tokens: answer, recalled })?)
    }

    /// Returns the loss of a request that was served with a pattern, if it had been served with another one, as drawn;
    /// nothing where there is none.
    fn mistaken(&mut self, passage: &Passage, served: &Served, answer: &[u32]) -> Result<Option<f64>, LaunchError> {
        let patterns = self.sona.memory().bank().patterns().len();
        let Some(own) = served.pattern().filter(|_| patterns > 1) else { return Ok(None) };
        let mut other = self.sona.serve()?;
        self.sona.serve_as(&mut other, (own + self.random.random_range(1..patterns)) % patterns)?;
        self.loss(passage, &other, answer).map(Some)
    }

    /// Returns the losses of a request by the model as it came and as it is served now.
    fn score(&mut self, pair: &Pair) -> Result<[f64; 2], LaunchError> {
        let (passage, served, _) = self.serve(pair)?;
        Ok([self.plain(pair, &passage)?, served])
    }

    /// Returns the loss of a passage by the model as it came.
    fn plain(&mut self, (prompt, answer): &Pair, passage: &Passage) -> Result<f64, LaunchError> {
        if self.sona.registry().pin_active().adapter().is_none() {
            return Ok(passage.loss(self.sona.blank(), &Addition::none(), answer));
        }
        let passage = Passage::read(self.loaded.engine.as_mut(), None, prompt, answer)?;
        Ok(passage.loss(self.sona.blank(), &Addition::none(), answer))
    }

    /// Returns what is learned in a request's place: itself, as a rule.
    fn lesson(&self, at: u64, (domain, index): (usize, usize), answer: Answer) -> Pair {
        let own = || pair(&self.texts.domains, self.stream, (domain, index));
        let general = || pair(&self.texts.general, self.stream, (0, OTHERS + at as usize));
        match (self.stream.control, answer) {
            (SonaControl::Placebo, _) => general(),
            (_, Answer::Right) => own(),
            (_, Answer::OffTopic) => (own().0, general().1),
        }
    }

    /// Scores a request, then learns from what came back for it.
    fn request(
        &mut self,
        at: u64,
        place: (usize, usize),
        outcome: Outcome,
        results: &mut Results,
        recorder: &mut Recorder<'_>,
    ) -> Result<[f64; 2], LaunchError> {
        let own = pair(&self.texts.domains, self.stream, place);
        let (mut passage, nll, served) = self.serve(&own)?;
        let losses = [self.plain(&own, &passage)?, nll];
        if let Some(mistaken) = self.mistaken(&passage, &served, &own.1)? {
            results.retrieval.push((at, mistaken - nll));
            // Leaves in `request` what was served.
            self.loss(&passage, &served, &own.1)?;
        }
        let lesson = self.lesson(at, place, outcome.answer);
        if lesson != own {
            passage = self.serve(&lesson)?.0;
        }
        let feedback = if self.stream.control == SonaControl::Placebo { Feedback::Accepted } else { outcome.feedback };
        let (request, recalled) = (&self.request, &self.recalled);
        let evidence = Evidence { request, hidden: &passage.hidden, tokens: &lesson.1, recalled };
        let (weight, account) = self.sona.finish(evidence, feedback)?;
        recorder.learning_request(LearningRequest {
            workload: String::new(),
            request: at,
            domain: Adapt::short(&self.stream.domains[place.0]).to_owned(),
            version: served.version(),
            pattern: served.pattern().map(|pattern| pattern as u64),
            feedback: feedback.name().to_owned(),
            reward: if let Feedback::Reward(reward) = feedback { Some(reward) } else { None },
            weight,
            nll,
            t_ns: 0,
        });
        let mut take = |account: &Account| {
            recorder.learning_step(at, account, None);
            results.steps.push((account.of, account.decision));
        };
        account.iter().for_each(&mut take);
        if weight > 0.0 {
            self.sona.keep(at, (&lesson.0, &lesson.1), &passage.prompt)?;
        }
        if self.sona.background().is_some() {
            for _ in 0..self.steps {
                self.sona.step(self.loaded.engine.as_mut())?.iter().for_each(&mut take);
            }
        }
        if self.sona.is_deep_due(self.idle(at))
            && let Some(transaction) = self.sona.consolidate(self.loaded.engine.as_mut())?
        {
            let Verdict { general, general_static, .. } = transaction.verdict;
            recorder.learning_step(at, &transaction.account, Some(general / general_static - 1.0));
            results.steps.push((transaction.account.of, transaction.account.decision));
        }
        results.requests.push((place.0, losses));
        Ok(losses)
    }

    /// Returns the losses of requests that are never learned from, domain by domain.
    fn test(&mut self) -> Result<Vec<Vec<[f64; 2]>>, LaunchError> {
        let tests = self.texts.streamed..self.texts.streamed + self.stream.test_requests as usize;
        let mut all = vec![Vec::with_capacity(tests.len()); self.stream.domains.len()];
        for (domain, losses) in all.iter_mut().enumerate() {
            for index in tests.clone() {
                losses.push(self.score(&pair(&self.texts.domains, self.stream, (domain, index)))?);
            }
        }
        Ok(all)
    }

    /// Returns the losses of general text.
    fn general(&mut self) -> Result<Vec<[f64; 2]>, LaunchError> {
        let requests = DRIFT_FROM..DRIFT_FROM + DRIFT;
        requests.map(|index| self.score(&pair(&self.texts.general, self.stream, (0, index)))).collect()
    }
}

pub(super) fn run(
    stream: &SonaStream,
    cell: &Cell,
    loaded: &mut Loaded,
    artifacts: Option<&Path>,
    streams: &mut Streams,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, stream.tokens())?;
    let mut course = Course::new(stream, cell, loaded, false)?;
    let order = course.texts.domains.order.clone();
    let outcomes = outcomes(order.len(), cell.seed, stream.control);
    let total = order.len() as u64;
    let mut results = Results::default();
    let blocked = stream.order == RequestOrder::Blocked;
    for ((done, place), outcome) in (0..).zip(&order).zip(outcomes) {
        recorder.progress(done, total);
        if stream.restart && done == total / 2 {
            course.restart(cell)?;
        }
        // Where domains come one after the other, what each leaves of all.
        if blocked && place.1 == 0 {
            results.tests.push(course.test()?);
        }
        let losses = course.request(done, *place, outcome, &mut results, recorder)?;
        if !losses.iter().all(|loss| loss.is_finite()) {
            let problem = format!("the losses of request {done} are {losses:?}");
            return Err(LaunchError::Numerics { workload: label, problem });
        }
    }
    results.tests.push(course.test()?);
    results.general = course.general()?;
    if let Some(folder) = artifacts.filter(|_| stream.save_state) {
        let state = folder.join(file_name(&label)).join("sona.state");
        course.sona.write(course.loaded.engine.as_mut(), &state)?;
    }
    recorder.progress(total, total);
    course.loaded.engine.keep_hidden(false)?;
    results.record(stream, &label, recorder);
    recorder.begin(label);
    streams.take(stream, results, recorder);
    Ok(())
}
