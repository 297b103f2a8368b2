//! What is kept of requests, to be learned again and to judge by.
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{Bank, Reservoir, SonaError, Trajectory};

/// The share of requests that are kept to judge by, and never learned again.
const HELD_OUT: f64 = 0.25;

/// The share of those that are kept for verdicts alone, where there are any.
const JURY: f64 = 0.15;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemorySettings {
    /// Requests to be learned again.
    pub replayed: usize,
    /// Requests to judge by.
    pub held_out: usize,
    /// The most kinds of requests.
    pub patterns: usize,
    /// Requests between two searches for kinds, and before the first.
    pub extract_every: u64,
    /// Seeds all that is drawn.
    pub seed: u64,
}

/// Requests that are worth learning again, requests that learning is judged by, and what kinds of them there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    extract_every: u64,
    /// Whether patterns are to be found anew as soon as nobody uses them.
    pub(super) is_due: bool,
    pub(super) bank: Bank,
    pub(super) replayed: Reservoir,
    pub(super) held_out: Reservoir,
    pub(super) jury: Option<Reservoir>,
    pub(super) random: ChaCha8Rng,
}

impl Memory {
    /// Returns an empty one; `center` is the mean of the head's inputs.
    #[must_use]
    pub fn new(settings: MemorySettings, center: Vec<f32>) -> Self {
        let MemorySettings { replayed, held_out, patterns, extract_every, seed } = settings;
        Self {
            extract_every: extract_every.max(1),
            is_due: false,
            bank: Bank::new(patterns, center),
            replayed: Reservoir::new(replayed),
            held_out: Reservoir::new(held_out),
            jury: None,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Returns the kinds of requests that were found.
    #[must_use]
    pub fn bank(&self) -> &Bank {
        &self.bank
    }

    /// Returns requests to be learned again.
    #[must_use]
    pub fn replayed(&self) -> &Reservoir {
        &self.replayed
    }

    /// Returns requests to judge by while something is learned: which step is kept, how far to go.
    #[must_use]
    pub fn held_out(&self) -> &Reservoir {
        &self.held_out
    }

    /// Returns the requests that transactions are judged by, where some are kept for that: nothing is ever chosen by
    /// them.
    #[must_use]
    pub fn jury(&self) -> Option<&Reservoir> {
        self.jury.as_ref()
    }

    /// Keeps so many requests for verdicts alone, from now on.
    pub(super) fn seat(&mut self, jury: usize) {
        self.jury = Some(Reservoir::new(jury));
    }

    /// Keeps a request: one in four to judge by, and three in twenty for verdicts where those are kept, of the first
    /// few one of each at least; the others to be learned again. Moves the pattern it is nearest to, and finds all
    /// patterns anew where that is due and `may_extract`, or else the next time that it may; returns which of them
    /// are new.
    pub(super) fn keep(&mut self, trajectory: Trajectory, may_extract: bool) -> Result<Vec<usize>, SonaError> {
        self.bank.observe(&trajectory.key)?;
        let place = self.random.random::<f64>();
        // Nothing can be judged before there is one.
        let may_wait = self.replayed.offered() < 3;
        let is_wanted = |of: &Reservoir| of.offered() == 0 && !may_wait;
        let of = match &mut self.jury {
            _ if place < HELD_OUT || is_wanted(&self.held_out) => &mut self.held_out,
            Some(jury) if place < HELD_OUT + JURY || is_wanted(jury) => jury,
            _ => &mut self.replayed,
        };
        of.offer(trajectory, &mut self.random);
        let all = [&self.replayed, &self.held_out].into_iter().chain(&self.jury);
        let offered = all.map(Reservoir::offered).sum::<u64>();
        self.is_due |= offered.is_multiple_of(self.extract_every);
        if may_extract && self.is_due { self.extract() } else { Ok(Vec::new()) }
    }

    /// Finds all patterns anew; returns which of them are new.
    pub(super) fn extract(&mut self) -> Result<Vec<usize>, SonaError> {
        self.is_due = false;
        let kept = self.replayed.kept().iter().chain(self.held_out.kept());
        let keys: Vec<&[f32]> = kept.map(|one| one.key.as_slice()).collect();
        self.bank.extract(&keys, &mut self.random)
    }

    /// Draws what one step is to be learned from and judged by: a kept request, others of its pattern, and held-out
    /// requests of that.
    pub(super) fn draw(&mut self, learned: usize, judges: usize) -> Result<Drawn, SonaError> {
        let kept = self.replayed.kept();
        if kept.is_empty() {
            return Ok(Drawn::Nothing);
        }
        let first = &kept[self.random.random_range(0..kept.len())];
        let Some((pattern, _)) = self.bank.nearest(&first.key)? else { return Ok(Drawn::Nothing) };
        let is_of = |one: &&Trajectory| matches!(self.bank.nearest(&one.key), Ok(Some((own, _))) if own == pattern);
        let others = kept.iter().filter(|one| one.id != first.id).filter(is_of);
        let mut learned = some(others, learned.saturating_sub(1), &mut self.random);
        learned.push(first.clone());
        let judges = some(self.held_out.kept().iter().filter(is_of), judges, &mut self.random);
        Ok(if judges.is_empty() { Drawn::Unjudged } else { Drawn::Lesson(Lesson { pattern, learned, judges }) })
    }
}

/// What was drawn for a step.
#[derive(Debug)]
pub(super) enum Drawn {
    /// There is nothing to learn from yet.
    Nothing,
    /// A request of a pattern that no held-out request is of: what it would teach cannot be judged.
    Unjudged,
    /// A step.
    Lesson(Lesson),
}

/// What one step is about.
#[derive(Debug)]
pub(super) struct Lesson {
    pub(super) pattern: usize,
    pub(super) learned: Vec<Trajectory>,
    pub(super) judges: Vec<Trajectory>,
}

/// Returns at most `count` of these, each at most once, in random order.
fn some<'a>(of: impl Iterator<Item = &'a Trajectory>, count: usize, random: &mut impl Rng) -> Vec<Trajectory> {
    let mut all: Vec<&Trajectory> = of.collect();
    all.partial_shuffle(random, count).0.iter().map(|one| (*one).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kind(id: u64) -> Trajectory {
        let key = if id.is_multiple_of(2) { vec![1.0, 0.0] } else { vec![0.0, 1.0] };
        Trajectory { id, prompt: vec![1], answer: vec![2], key }
    }

    fn settings() -> MemorySettings {
        MemorySettings { replayed: 40, held_out: 20, patterns: 2, extract_every: 8, seed: 5 }
    }

    #[test]
    fn what_judges_is_never_learned_again_and_is_of_the_same_kind() {
        let mut memory = Memory::new(settings(), vec![0.0; 2]);
        assert!(matches!(memory.draw(3, 2).unwrap(), Drawn::Nothing));
        for id in 0..60 {
            let new = memory.keep(of_kind(id), true).unwrap();
            assert_eq!(new.len(), if id == 7 { 2 } else { 0 }, "{id}");
        }
        let kept = |of: &Reservoir| of.kept().iter().map(|one| one.id).collect::<Vec<_>>();
        let (replayed, held_out) = (kept(memory.replayed()), kept(memory.held_out()));
        assert!((5..=25).contains(&held_out.len()) && held_out.iter().all(|id| !replayed.contains(id)));
        for _ in 0..50 {
            let Drawn::Lesson(Lesson { pattern, learned, judges }) = memory.draw(3, 2).unwrap() else {
                panic!("both kinds have judges");
            };
            let kind = learned[0].id % 2;
            assert!(learned.iter().chain(&judges).all(|one| one.id % 2 == kind));
            assert!(learned.iter().all(|one| replayed.contains(&one.id)));
            assert!(judges.iter().all(|one| held_out.contains(&one.id)));
            let mut ids: Vec<u64> = learned.iter().map(|one| one.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((ids.len(), judges.len()), (3, 2));
            assert_eq!(memory.bank().nearest(&learned[0].key).unwrap().unwrap().0, pattern);
        }
    }

    #[test]
    fn what_gives_verdicts_is_used_for_nothing_else() {
        let mut memory = Memory::new(settings(), vec![0.0; 2]);
        memory.seat(20);
        (0..60).for_each(|id| _ = memory.keep(of_kind(id), true).unwrap());
        let ids = |of: &Reservoir| of.kept().iter().map(|one| one.id).collect::<Vec<_>>();
        let (jury, held_out) = (ids(memory.jury().unwrap()), ids(memory.held_out()));
        assert!((3..=18).contains(&jury.len()) && (5..=25).contains(&held_out.len()), "{jury:?}, {held_out:?}");
        assert_eq!(jury.len() + held_out.len() + memory.replayed().kept().len(), 60);
        assert!(jury.iter().all(|id| !held_out.contains(id)));
        for _ in 0..50 {
            let Drawn::Lesson(Lesson { learned, judges, .. }) = memory.draw(3, 2).unwrap() else {
                panic!("both kinds have judges");
            };
            assert!(learned.iter().chain(&judges).all(|one| !jury.contains(&one.id)));
        }
        // The first few requests leave one of each.
        let mut few = Memory::new(settings(), vec![0.0; 2]);
        few.seat(20);
        (0..5).for_each(|id| _ = few.keep(of_kind(id), true).unwrap());
        assert!(few.jury().unwrap().offered() > 0 && few.held_out().offered() > 0);
    }

    #[test]
    fn patterns_wait_for_those_who_use_them() {
        let mut memory = Memory::new(settings(), vec![0.0; 2]);
        (0..8).for_each(|id| assert!(memory.keep(of_kind(id), false).unwrap().is_empty()));
        assert!(memory.bank().patterns().is_empty());
        let narrow = Trajectory { key: vec![1.0], ..of_kind(9) };
        assert!(matches!(memory.keep(narrow, true), Err(SonaError::Width { .. })));
        assert_eq!(memory.replayed().offered() + memory.held_out().offered(), 8);
        // What was due is made up for, once.
        assert_eq!(memory.keep(of_kind(8), true).unwrap().len(), 2);
        assert!(memory.keep(of_kind(9), true).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_judged_is_said_to_be_so() {
        let mut memory = Memory::new(settings(), vec![0.0; 2]);
        (0..16).for_each(|id| _ = memory.keep(of_kind(id), true).unwrap());
        memory.held_out = Reservoir::new(4);
        assert!(matches!(memory.draw(2, 2).unwrap(), Drawn::Unjudged));
    }
}
