//! Learning loops at work: streams requests past a model that learns from them, each scored before that
//! (prequentially), and tells what is left at the end.
mod feedback;
mod results;
mod speed;

use std::sync::Arc;

use feedback::{Answer, Outcome, outcomes};
use results::Results;
pub(super) use speed::run as run_speed;

use super::{
    adapt::{Stream, settings},
    launch::{LaunchError, Loaded},
    recorder::Recorder,
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLoraError, Request},
        registry::{Limits, Registry},
    },
    event::LearningRequest,
    plan::Cell,
    recipe::schema::{Adapt, RequestOrder, Sona as Section, SonaControl, SonaStream},
    sona::{CacheSettings, Evidence, Feedback, Passage, Sona, SonaSettings},
};

/// What requests of the general text are for, in order: the directions of micro adapters, and how far the model
/// drifts; those after them are the placebo's.
const CALIBRATION: usize = 8;
const DRIFT: usize = 16;
const PLACEBO: usize = 64;

/// What the loops may publish.
const LIMITS: Limits = Limits { adapters: 256, bytes: 4 << 30 };

/// The texts of a stream, in requests.
struct Texts {
    domains: Stream,
    general: Stream,
    /// Requests of each domain that are streamed; those after them are tested.
    streamed: usize,
}

impl Texts {
    fn new(stream: &SonaStream, cell: &Cell, loaded: &Loaded) -> Result<Self, LaunchError> {
        let placebo = if stream.control == SonaControl::Placebo { PLACEBO } else { 0 };
        let general = stream.over(std::slice::from_ref(&stream.general), (CALIBRATION + DRIFT + placebo) as u32);
        let domains = stream.over(&stream.domains, stream.requests + stream.test_requests);
        let mut texts = Self {
            domains: Stream::new(&domains, cell, &loaded.tokenizer)?,
            general: Stream::new(&general, cell, &loaded.tokenizer)?,
            streamed: stream.requests as usize,
        };
        let streamed = texts.streamed;
        texts.domains.order.retain(|(_, index)| *index < streamed);
        Ok(texts)
    }
}

/// The loops of a recipe at work on a stream.
struct Course<'a> {
    stream: &'a SonaStream,
    loaded: &'a mut Loaded,
    texts: Texts,
    sona: Sona,
    /// Room that is used again.
    request: Request,
}

/// A prompt and its answer.
type Pair = (Vec<u32>, Vec<u32>);

/// Returns a request: the last token of its prompt predicts the first of its answer.
fn pair(texts: &Stream, stream: &SonaStream, (domain, index): (usize, usize)) -> Pair {
    let prompt = &texts.request(domain, index)[..=stream.prompt_tokens as usize];
    (prompt.to_vec(), texts.targets(domain, index).to_vec())
}

impl<'a> Course<'a> {
    fn new(stream: &'a SonaStream, cell: &Cell, loaded: &'a mut Loaded) -> Result<Self, LaunchError> {
        let texts = Texts::new(stream, cell, loaded)?;
        let mut inputs = Vec::new();
        for index in 0..CALIBRATION {
            let (prompt, answer) = pair(&texts.general, stream, (0, index));
            inputs.extend(Passage::read(loaded.engine.as_mut(), None, &prompt, &answer)?.hidden);
        }
        let spec = loaded.engine.spec().clone();
        let nothing = || MicroLoraError::Setting("the head's inputs of the general text are all zero".to_owned());
        let directions = Directions::principal(&inputs, spec.hidden_size).ok_or_else(nothing)?;
        let Section { instant, .. } = cell.recipe.sona.clone().unwrap_or_default();
        let usual = CacheSettings::default();
        let instant = instant.filter(|own| own.enabled).map(|own| CacheSettings {
            tokens: own.cache_tokens as usize,
            share: own.cache_share,
            ..usual
        });
        let own = SonaSettings { micro: settings(cell), instant };
        let sona = Sona::new(&own, &spec, &directions, Arc::new(Registry::new(LIMITS)))?;
        let request = sona.request(stream.output_tokens as usize);
        Ok(Self { stream, loaded, texts, sona, request })
    }

    /// Returns a passage as the model with its adapter reads it, its mean loss as it is served now, and the version
    /// of that, and leaves what can be learned of it in `request`.
    fn serve(&mut self, (prompt, answer): &Pair) -> Result<(Passage, f64, u64), LaunchError> {
        let Self { loaded, sona, request, .. } = self;
        let served = sona.serve()?;
        let passage = Passage::read(loaded.engine.as_mut(), served.adapter(), prompt, answer)?;
        let addition = served.addition(loaded.engine.spec())?;
        request.clear();
        passage.record(sona.blank(), &addition, answer, request)?;
        let loss = sona.loss(Evidence { request, hidden: &passage.hidden, tokens: answer })?;
        Ok((passage, loss, served.version()))
    }

    /// Returns the losses of a request by the model as it came and as it is served now.
    fn score(&mut self, pair: &Pair) -> Result<[f64; 2], LaunchError> {
        let (passage, served, _) = self.serve(pair)?;
        Ok([self.plain(pair, &passage)?, served])
    }

    /// Returns the loss of a passage by the model as it came.
    fn plain(&mut self, (prompt, answer): &Pair, passage: &Passage) -> Result<f64, LaunchError> {
        if self.sona.registry().pin_active().adapter().is_none() {
            return Ok(passage.loss(answer));
        }
        Ok(Passage::read(self.loaded.engine.as_mut(), None, prompt, answer)?.loss(answer))
    }

    /// Returns what is learned in a request's place: itself, as a rule.
    fn lesson(&self, at: u64, (domain, index): (usize, usize), answer: Answer) -> Pair {
        match (self.stream.control, answer) {
            (SonaControl::Placebo, _) => {
                pair(&self.texts.general, self.stream, (0, CALIBRATION + DRIFT + at as usize % PLACEBO))
            }
            (_, Answer::Right) => pair(&self.texts.domains, self.stream, (domain, index)),
            (_, Answer::OfAnotherDomain) => {
                let (prompt, _) = pair(&self.texts.domains, self.stream, (domain, index));
                let other = (domain + 1) % self.stream.domains.len();
                (prompt, pair(&self.texts.domains, self.stream, (other, index)).1)
            }
        }
    }

    /// Scores a request, then learns from what came back for it.
    fn request(
        &mut self,
        at: u64,
        place: (usize, usize),
        outcome: Outcome,
        recorder: &mut Recorder<'_>,
    ) -> Result<[f64; 2], LaunchError> {
        let own = pair(&self.texts.domains, self.stream, place);
        let (mut passage, nll, version) = self.serve(&own)?;
        let losses = [self.plain(&own, &passage)?, nll];
        let lesson = self.lesson(at, place, outcome.answer);
        if lesson != own {
            passage = self.serve(&lesson)?.0;
        }
        let feedback = if self.stream.control == SonaControl::Placebo { Feedback::Accepted } else { outcome.feedback };
        let evidence = Evidence { request: &self.request, hidden: &passage.hidden, tokens: &lesson.1 };
        let (weight, account) = self.sona.finish(evidence, feedback)?;
        recorder.learning_request(LearningRequest {
            workload: String::new(),
            request: at,
            domain: Adapt::short(&self.stream.domains[place.0]).to_owned(),
            version,
            feedback: feedback.name().to_owned(),
            reward: if let Feedback::Reward(reward) = feedback { Some(reward) } else { None },
            weight,
            nll,
            t_ns: 0,
        });
        if let Some(account) = account {
            recorder.learning_step(at, &account);
        }
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
        let requests = CALIBRATION..CALIBRATION + DRIFT;
        requests.map(|index| self.score(&pair(&self.texts.general, self.stream, (0, index)))).collect()
    }
}

pub(super) fn run(
    stream: &SonaStream,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, stream.tokens())?;
    let mut course = Course::new(stream, cell, loaded)?;
    let order = course.texts.domains.order.clone();
    let outcomes = outcomes(order.len(), cell.seed, stream.control);
    let total = order.len() as u64;
    let mut results = Results::default();
    let blocked = stream.order == RequestOrder::Blocked;
    for ((done, place), outcome) in (0..).zip(&order).zip(outcomes) {
        recorder.progress(done, total);
        // Where domains come one after the other, what each leaves of all.
        if blocked && place.1 == 0 {
            results.tests.push(course.test()?);
        }
        let losses = course.request(done, *place, outcome, recorder)?;
        if !losses.iter().all(|loss| loss.is_finite()) {
            let problem = format!("the losses of request {done} are {losses:?}");
            return Err(LaunchError::Numerics { workload: label, problem });
        }
        results.requests.push((place.0, losses));
    }
    results.tests.push(course.test()?);
    results.general = course.general()?;
    recorder.progress(total, total);
    course.loaded.engine.keep_hidden(false)?;
    results.record(stream, &label, recorder);
    Ok(())
}
