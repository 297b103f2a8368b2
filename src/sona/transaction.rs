//! A transaction of the deep loop: what it learned serves, or nothing of it is left.
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    Account, Addition, Decision, LoopKind, Passage, Served, Sona, SonaError, Trajectory,
    deep::Course,
    serving::{BASE, INSTANT, published},
};
use crate::{
    clock::Stopwatch,
    engine::{Adapter, Chunk, LanguageModel, LogitRows, Scored},
    model::sampler::{Sampler, Sampling},
};

/// General text that transactions go by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct General {
    /// What they are judged by: prompts with what follows.
    pub guard: Vec<(Vec<u32>, Vec<u32>)>,
    /// Prompts after which the state before goes on, to be learned beside kept requests.
    pub prompts: Vec<Vec<u32>>,
}

/// What a transaction is judged by: losses in nats a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// On general text, of the model as it came.
    pub general_static: f64,
    /// On general text, of the candidate.
    pub general: f64,
    /// On kept requests that are never learned again, as they were served before, without the cache.
    pub recent_before: f64,
    /// On the same, of the candidate.
    pub recent: f64,
}

impl Verdict {
    /// Returns whether the candidate may serve: general text is within its limit, and kept requests gained.
    #[must_use]
    pub fn commits(&self, max_drift: f64) -> bool {
        self.general <= self.general_static * (1.0 + max_drift) && self.recent < self.recent_before
    }
}

/// A transaction of the deep loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transaction {
    /// Its account.
    pub account: Account,
    /// What decided.
    pub verdict: Verdict,
    /// The share of what was folded that had no room in the adapter's rank.
    pub folded_lost: f64,
    /// Bytes that were compared after a rollback, all equal; 0 of a commit.
    pub compared_bytes: usize,
}

impl Sona {
    /// Runs a transaction of the deep loop: folds what the other loops learned into the adapter, trains that,
    /// publishes it on trial, and commits it or rolls everything back; nothing where there is nothing to learn
    /// from yet, or to judge by. A background step under way is ended first.
    ///
    /// # Errors
    ///
    /// If the loop is off, the engine fails, or a rollback left a byte changed.
    pub fn consolidate(&mut self, engine: &mut dyn LanguageModel) -> Result<Option<Transaction>, SonaError> {
        if self.deep.is_none() {
            return Err(SonaError::Off("deep"));
        }
        self.end_step(engine)?;
        if self.memory.replayed.kept().is_empty() || self.memory.held_out.kept().is_empty() {
            return Ok(None);
        }
        let stopwatch = Stopwatch::start();
        let general_static = match self.general_static {
            Some(known) => known,
            None => *self.general_static.insert(self.general_loss(engine, None)?),
        };
        let before = self.learned();
        let recent_before = self.recent_loss(engine)?;
        let drawn = self.teach(engine)?;
        let version = self.registry.version();
        let attempt = match self.attempt(engine, &drawn) {
            Ok(Some(attempt)) => attempt,
            Ok(None) => return Ok(None),
            Err(error) => {
                // What nobody judged does not serve.
                if self.registry.version() != version {
                    self.registry.rollback()?;
                }
                self.relearn(&before)?;
                return Err(error);
            }
        };
        let Attempt { course, folded_lost, recent, general, max_drift } = attempt;
        let verdict = Verdict { general_static, general, recent_before, recent };
        let (decision, compared_bytes) = if verdict.commits(max_drift) {
            self.commit()?;
            (Decision::Applied, 0)
        } else {
            (Decision::Rejected, self.roll_back(&before)?)
        };
        let account = Account {
            of: LoopKind::Deep,
            decision,
            loss_before: recent_before,
            loss_after: recent,
            predicted_decrease: course.predicted_decrease,
            grad_norm: course.grad_norm,
            time: stopwatch.elapsed(),
            version: self.registry.version(),
        };
        Ok(Some(Transaction { account, verdict, folded_lost, compared_bytes }))
    }

    /// Folds and trains, publishes the result on trial and judges it as it would serve; nothing without a deep loop.
    fn attempt(
        &mut self,
        engine: &mut dyn LanguageModel,
        drawn: &[(usize, Vec<u32>)],
    ) -> Result<Option<Attempt>, SonaError> {
        let shares = self.shares();
        let Self { deep: Some(deep), instant, background, memory, .. } = self else { return Ok(None) };
        let micros = background.iter().flat_map(|background| shares.iter().copied().zip(background.micros()));
        let instant = instant.iter().map(|instant| (1.0, instant.micro()));
        let folded_lost = deep.fold(instant.chain(micros), memory.random.random())?;
        let kept = memory.replayed.kept();
        let whole: Vec<Vec<u32>> = kept.iter().map(whole).collect();
        let distilled: Vec<Scored<'_>> =
            drawn.iter().map(|(prompt, tokens)| Scored { tokens, prompt: *prompt }).collect();
        let course = deep.train(&scored(kept, &whole), &distilled, &mut memory.random)?;
        let max_drift = deep.settings.max_drift;
        self.registry.insert(BASE, deep.adapter().clone())?;
        let trial = Served::pin(&self.registry, false)?;
        let recent = self.held_out_loss(engine, &trial, |_, _| Ok(Addition::none()))?;
        let general = self.general_loss(engine, Some(&trial))?;
        Ok(Some(Attempt { course, folded_lost, recent, general, max_drift }))
    }

    /// Takes a trial for good: the micro adapters begin anew, since the adapter has what they knew.
    fn commit(&mut self) -> Result<(), SonaError> {
        if let Some(deep) = &mut self.deep {
            let kept = self.memory.replayed.kept();
            let whole: Vec<Vec<u32>> = kept.iter().map(whole).collect();
            deep.consolidate(&scored(kept, &whole), &mut self.memory.random)?;
        }
        if let Some(instant) = &mut self.instant {
            instant.micro_mut().reset();
            self.registry.insert(INSTANT, published(&self.spec, instant.micro()))?;
        }
        if let Some(background) = &mut self.background {
            let all: Vec<usize> = (0..background.micros().len()).collect();
            background.forget(&all);
            background.publish(&self.registry, &self.spec)?;
        }
        self.counters.commits += 1;
        Ok(())
    }

    /// Takes a trial back, and returns how many bytes were compared with what they were.
    fn roll_back(&mut self, before: &[u8]) -> Result<usize, SonaError> {
        self.registry.rollback()?;
        self.relearn(before)?;
        let after = self.learned();
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        let changed = changed + before.len().abs_diff(after.len());
        // What serves must be what is held, too.
        let serves = self.registry.pin_active();
        if changed > 0 || serves.adapter().map(Arc::as_ref) != self.deep.as_ref().map(|deep| deep.adapter()) {
            return Err(SonaError::Rollback(changed));
        }
        self.counters.rollbacks += 1;
        Ok(before.len())
    }

    /// Returns how much of all requests each pattern has.
    fn shares(&self) -> Vec<f64> {
        let counts = self.memory.bank.patterns().iter().map(|pattern| pattern.count as f64);
        let total = counts.clone().sum::<f64>().max(1.0);
        counts.map(|count| count / total).collect()
    }

    /// Returns the mean loss of requests that are never learned again, each as it would be served now.
    fn recent_loss(&self, engine: &mut dyn LanguageModel) -> Result<f64, SonaError> {
        let served = self.serve()?;
        self.held_out_loss(engine, &served, |sona, passage| {
            let mut served = sona.serve()?;
            sona.recognise(&mut served, &passage.prompt)?;
            served.addition(&sona.spec)
        })
    }

    fn held_out_loss(
        &self,
        engine: &mut dyn LanguageModel,
        served: &Served,
        addition: impl Fn(&Self, &Passage) -> Result<Addition, SonaError>,
    ) -> Result<f64, SonaError> {
        let kept = self.memory.held_out.kept();
        let mut sum = 0.0;
        for Trajectory { prompt, answer, .. } in kept {
            let passage = Passage::read(engine, served.adapter(), prompt, answer)?;
            sum += passage.loss(&self.blank, &addition(self, &passage)?, answer);
        }
        Ok(sum / kept.len() as f64)
    }

    /// Returns the mean loss on general text with the adapter of a trial, or of the model as it came.
    fn general_loss(&self, engine: &mut dyn LanguageModel, trial: Option<&Served>) -> Result<f64, SonaError> {
        let mut sum = 0.0;
        for (prompt, answer) in &self.general.guard {
            let passage = Passage::read(engine, trial.and_then(Served::adapter), prompt, answer)?;
            sum += passage.loss(&self.blank, &Addition::none(), answer);
        }
        Ok(sum / self.general.guard.len() as f64)
    }

    /// Returns sequences drawn from the state as it serves, each with the tokens of its prompt: after prompts of
    /// kept requests and after general text, half of each. Learning them descends `KL(before ‖ after)` of whole
    /// sequences, without bias (sequence-level distillation, arXiv 1606.07947, by samples).
    fn teach(&mut self, engine: &mut dyn LanguageModel) -> Result<Vec<(usize, Vec<u32>)>, SonaError> {
        let Some(wanted) = self.deep.as_ref().map(|deep| deep.settings.distilled) else { return Ok(Vec::new()) };
        let served = self.serve()?;
        let addition = served.addition(&self.spec)?;
        let random = &mut self.memory.random;
        let kept = self.memory.replayed.kept();
        let length = kept.first().map_or(1, |one| one.answer.len());
        let mut drawn = Vec::with_capacity(wanted);
        for at in 0..wanted {
            let general = &self.general.prompts;
            let prompt = match at % 2 {
                0 if !general.is_empty() => &general[random.random_range(0..general.len())],
                _ => &kept[random.random_range(0..kept.len())].prompt,
            };
            let project = |hidden: &[f32]| self.blank.project(hidden);
            let add = |hidden: &[f32], logits: &mut [f32]| addition.apply(project(hidden), logits);
            drawn.push((prompt.len(), go_on(engine, served.adapter(), add, prompt, length, random)?));
        }
        Ok(drawn)
    }
}

/// What a transaction came to before it was decided.
struct Attempt {
    course: Course,
    folded_lost: f64,
    recent: f64,
    general: f64,
    max_drift: f64,
}

/// Returns requests as sequences of which only the answers count.
fn scored<'a>(requests: &[Trajectory], whole: &'a [Vec<u32>]) -> Vec<Scored<'a>> {
    let pairs = whole.iter().zip(requests);
    pairs.map(|(tokens, one)| Scored { tokens, prompt: one.prompt.len() }).collect()
}

/// Returns a request as one sequence.
fn whole(one: &Trajectory) -> Vec<u32> {
    [one.prompt.as_slice(), &one.answer].concat()
}

/// Returns a prompt with so many tokens after it, drawn as a model with an adapter and an addition holds them likely.
fn go_on(
    engine: &mut dyn LanguageModel,
    adapter: Option<&Arc<Adapter>>,
    add: impl Fn(&[f32], &mut [f32]),
    prompt: &[u32],
    tokens: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<u32>, SonaError> {
    engine.keep_hidden(true)?;
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }, random.random());
    let sequence = engine.open()?;
    let mut write = || {
        engine.attach(sequence, adapter.cloned())?;
        let mut text = prompt.to_vec();
        let mut next = 0..prompt.len();
        for _ in 0..tokens {
            let chunk = Chunk { sequence, tokens: &text[next], logits: LogitRows::Last };
            let mut logits = engine.step(&[chunk])?.remove(0).values;
            add(engine.hidden(), &mut logits);
            text.push(sampler.sample(&logits)?);
            next = text.len() - 1..text.len();
        }
        Ok(text)
    };
    let text = write();
    engine.close(sequence);
    text
}
