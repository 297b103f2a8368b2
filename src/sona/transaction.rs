//! A transaction of the deep loop: what it learned serves, or nothing of it is left.
mod losses;
mod teacher;

use std::sync::Arc;

use losses::Kept;
pub(super) use losses::Unchanged;
use rand::Rng;

use super::{
    Account, Decision, LoopKind, Memory, Reservoir, Sona, SonaError, Trajectory,
    deep::Course,
    serving::{BASE, INSTANT, published},
};
use crate::{
    clock::Stopwatch,
    engine::{Adapter, LanguageModel, Scored},
};

/// How much of the way from the state before to what was trained is tried: drift grows with its square, what is
/// gained more nearly with itself.
const SHARES: [f64; 4] = [1.0, 0.7, 0.45, 0.25];

/// General text that transactions go by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct General {
    /// What chooses how far a candidate goes: prompts with what follows.
    pub guard: Vec<(Vec<u32>, Vec<u32>)>,
    /// What they are judged by, and nothing is chosen by.
    pub judges: Vec<(Vec<u32>, Vec<u32>)>,
    /// Prompts after which the state before goes on, to be learned beside kept requests.
    pub prompts: Vec<Vec<u32>>,
}

/// What a transaction is judged by: losses in nats a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// On general text that serves for this alone, of the model as it came.
    pub general_static: f64,
    /// On the same, of the candidate's adapter.
    pub general: f64,
    /// On kept requests that serve for this alone, as they were served before, with a cache of requests that are
    /// learned again.
    pub recent_before: f64,
    /// On the same, as the candidate would serve them.
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
    /// How much of the way to what was trained the candidate went.
    pub share: f64,
    /// The share of what was folded that had no room in the adapter's rank.
    pub folded_lost: f64,
    /// Bytes that were compared after a rollback, all equal; 0 of a commit.
    pub compared_bytes: usize,
}

/// What a transaction came to before it was decided.
struct Attempt {
    course: Course,
    folded_lost: f64,
    candidate: Candidate,
    /// What the candidate makes of kept requests.
    kept: Kept,
    /// Its losses on what judges: general text and requests.
    general: f64,
    recent: f64,
    max_drift: f64,
}

/// An adapter on trial.
struct Candidate {
    share: f64,
    adapter: Arc<Adapter>,
}

impl Sona {
    /// Runs a transaction of the deep loop: folds what the other loops learned into the adapter and trains that, goes so
    /// far towards it as general text allows and held-out requests gain by, publishes that on trial, and commits it or
    /// rolls everything back as other general text and other requests say, which nothing was chosen by; nothing where
    /// there is nothing to learn from yet, or to judge by. A background step under way is ended first.
    ///
    /// # Errors
    ///
    /// If the loop is off, the engine fails, or a rollback left a byte changed.
    pub fn consolidate(&mut self, engine: &mut dyn LanguageModel) -> Result<Option<Transaction>, SonaError> {
        if self.deep.is_none() {
            return Err(SonaError::Off("deep"));
        }
        self.end_step(engine)?;
        let Memory { replayed, held_out, jury, .. } = &self.memory;
        if [replayed, held_out].into_iter().chain(jury).any(|of| of.kept().is_empty()) {
            return Ok(None);
        }
        let stopwatch = Stopwatch::start();
        self.since_deep = 0;
        let unchanged = match self.general_static {
            Some(known) => known,
            None => *self.general_static.insert(self.general_losses(engine)?),
        };
        let before = self.learned();
        let base = self.registry.pin_active();
        // What serves knows the requests that judge by heart: a cache of the others does not.
        let cache = self.read_kept(engine, base.adapter())?.cache;
        let recent_before = self.recent_loss(engine, self.jury(), base.adapter(), 1.0, cache.as_ref())?;
        let drawn = self.teach(engine, base.adapter())?;
        let version = self.registry.version();
        let attempt = match self.attempt(engine, &drawn, unchanged.guard) {
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
        let Attempt { course, folded_lost, ref candidate, general, recent, max_drift, .. } = attempt;
        let verdict = Verdict { general_static: unchanged.judges, general, recent_before, recent };
        let share = candidate.share;
        let (decision, compared_bytes) = if verdict.commits(max_drift) {
            self.commit(engine, attempt)?;
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
        Ok(Some(Transaction { account, verdict, share, folded_lost, compared_bytes }))
    }

    /// Folds and trains, publishes the best of the way there on trial and judges it as it would serve; nothing without
    /// a deep loop.
    fn attempt(
        &mut self,
        engine: &mut dyn LanguageModel,
        drawn: &[(usize, Vec<u32>)],
        guard_static: f64,
    ) -> Result<Option<Attempt>, SonaError> {
        let shares = self.shares();
        let Self { deep: Some(deep), instant, background, memory, .. } = self else { return Ok(None) };
        let from = deep.adapter().clone();
        let micros = background.iter().flat_map(|background| shares.iter().copied().zip(background.micros()));
        let instant = instant.iter().map(|instant| (1.0, instant.micro()));
        let folded_lost = deep.fold(instant.chain(micros), memory.random.random())?;
        let kept = memory.replayed.kept();
        let whole: Vec<Vec<u32>> = kept.iter().map(whole).collect();
        let distilled: Vec<Scored<'_>> =
            drawn.iter().map(|(prompt, tokens)| Scored { tokens, prompt: *prompt }).collect();
        let course = deep.train(&scored(kept, &whole), &distilled, &mut memory.random)?;
        let max_drift = deep.settings.max_drift;
        let candidate = self.choose(engine, &from, guard_static * (1.0 + max_drift))?;
        if let Some(deep) = &mut self.deep {
            deep.take(Adapter::clone(&candidate.adapter))?;
        }
        self.registry.insert(BASE, Arc::clone(&candidate.adapter))?;
        let kept = self.read_kept(engine, Some(&candidate.adapter))?;
        let (adapter, left) = (Some(&candidate.adapter), 1.0 - candidate.share);
        let recent = self.recent_loss(engine, self.jury(), adapter, left, kept.cache.as_ref())?;
        let general = self.general_loss(engine, &self.general.judges, adapter)?;
        Ok(Some(Attempt { course, folded_lost, candidate, kept, general, recent, max_drift }))
    }

    /// Returns the requests that judge, and that nothing is chosen by.
    fn jury(&self) -> &[Trajectory] {
        self.memory.jury.as_ref().map_or(&[], Reservoir::kept)
    }

    /// Returns that part of the way from an adapter to what was trained by which held-out requests gain most, the cache
    /// left aside, of those where the loss on the general text that chooses is no more than `most`; the shortest where
    /// none is.
    fn choose(&mut self, engine: &mut dyn LanguageModel, from: &Adapter, most: f64) -> Result<Candidate, SonaError> {
        let seed = self.memory.random.random();
        let mut best: Option<(f64, Candidate)> = None;
        let mut shortest = None;
        for share in SHARES {
            let Some(deep) = &self.deep else { break };
            let adapter = Arc::new(deep.on_the_way(from, share, seed)?);
            let general = self.general_loss(engine, &self.general.guard, Some(&adapter))?;
            let candidate = Candidate { share, adapter };
            if general <= most {
                let held_out = self.memory.held_out.kept();
                let recent = self.recent_loss(engine, held_out, Some(&candidate.adapter), 1.0 - share, None)?;
                if best.as_ref().is_none_or(|(least, _)| recent < *least) {
                    best = Some((recent, candidate));
                }
            } else {
                shortest = Some(candidate);
            }
        }
        best.map(|(_, candidate)| candidate).or(shortest).ok_or(SonaError::Off("deep"))
    }

    /// Takes a trial for good. What of the micro adapters the adapter has now they forget; the cache and the keys of
    /// what is kept, and general text, are as the adapter reads them.
    fn commit(&mut self, engine: &mut dyn LanguageModel, attempt: Attempt) -> Result<(), SonaError> {
        let Attempt { candidate, kept: Kept { cache, replayed, held_out, jury }, .. } = attempt;
        let Self { deep, instant, background, memory, registry, spec, .. } = self;
        if let Some(deep) = deep {
            let kept = memory.replayed.kept();
            let whole: Vec<Vec<u32>> = kept.iter().map(whole).collect();
            deep.consolidate(&scored(kept, &whole), &mut memory.random)?;
        }
        let left = (1.0 - candidate.share) as f32;
        if let Some(instant) = instant {
            instant.micro_mut().keep_share(left);
            if let Some(cache) = cache {
                instant.recall = cache;
            }
            registry.insert(INSTANT, published(spec, instant.micro()))?;
        }
        memory.replayed.rekey(replayed);
        memory.held_out.rekey(held_out);
        if let Some(own) = &mut memory.jury {
            own.rekey(jury);
        }
        let new = if memory.bank.patterns().is_empty() { Vec::new() } else { memory.extract()? };
        if let Some(background) = background {
            background.micros_mut().iter_mut().for_each(|micro| micro.keep_share(left));
            background.forget(&new);
            background.publish(registry, spec)?;
        }
        if let Some(reserve) = &self.reserve {
            self.reserve = Some(reserve.read_again(engine, Some(&candidate.adapter), &self.blank)?);
            self.protect();
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
