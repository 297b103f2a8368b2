//! The greatest logits of a position, kept while logits come by.
use std::cmp::Ordering;

use super::SamplerError;

/// Logits that are compared at once: a multiple of every vector's length.
const LANES: usize = 16;

/// Stretches of many logits whose greatest are looked at first, at most.
const STRETCHES: usize = 256;

/// The k greatest logits of one position, greatest first; of equal ones, the lower token first.
///
/// Logits may be offered in parts and in any order, and lists of parts be merged: the result is the same.
///
/// # Examples
///
/// ```
/// use ruvlab::model::sampler::TopK;
///
/// let (mut first, mut second) = (TopK::new(2), TopK::new(2));
/// first.offer(0, &[1.0, 3.0]);
/// second.offer(2, &[2.0, 3.0]);
/// second.merge(&first);
/// assert_eq!(second, TopK::of(&[1.0, 3.0, 2.0, 3.0], 2));
/// assert_eq!(second.entries().unwrap(), [(1, 3.0), (3, 3.0)]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    k: usize,
    entries: Vec<(u32, f32)>,
    /// The first token whose logit is NaN or positive infinity.
    invalid: Option<u32>,
}

impl TopK {
    /// Returns an empty list of at most `k` logits, and at least one.
    #[must_use]
    pub fn new(k: usize) -> Self {
        let k = k.max(1);
        Self { k, entries: Vec::with_capacity(k), invalid: None }
    }

    /// Returns the greatest of all logits of a position.
    #[must_use]
    pub fn of(logits: &[f32], k: usize) -> Self {
        let mut all = Self::new(k);
        all.offer(0, logits);
        all
    }

    /// Empties the list, to hold at most `k` logits, and at least one.
    pub fn reset(&mut self, k: usize) {
        self.k = k.max(1);
        self.entries.clear();
        self.invalid = None;
    }

    /// Returns how many logits it holds at most.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Keeps what is among the greatest of the logits of the tokens from `first` on.
    pub fn offer(&mut self, first: u32, logits: &[f32]) {
        let (blocks, rest) = logits.as_chunks::<LANES>();
        let tokens = (first..).step_by(LANES);
        let bound = self.bound(logits);
        for (token, block) in tokens.zip(blocks) {
            let least = self.least().max(bound);
            // Nothing is above NaN, so that is looked at, too.
            let below = block.iter().fold(true, |below, logit| below & (*logit < least));
            if !below {
                self.offer_each(token, block);
            }
        }
        self.offer_each(first + (logits.len() - rest.len()) as u32, rest);
    }

    /// Keeps what is among the greatest of both.
    pub fn merge(&mut self, other: &Self) {
        other.entries.iter().for_each(|(token, logit)| self.offer_one(*token, *logit));
        if let Some(token) = other.invalid {
            self.refuse(token);
        }
    }

    /// Returns the tokens with their logits; none is negative infinity.
    ///
    /// # Errors
    ///
    /// If a logit was NaN or positive infinity, or none was above negative infinity.
    pub fn entries(&self) -> Result<&[(u32, f32)], SamplerError> {
        match self.invalid {
            Some(token) => Err(SamplerError::NotFinite { token: token as usize }),
            None if self.entries.is_empty() => Err(SamplerError::Empty),
            None => Ok(&self.entries),
        }
    }

    /// Returns what a logit must not be below to be among the k greatest, where nothing else says so yet and it is
    /// worth to know before most of them are put in their places for nothing: of k stretches, the greatest are not
    /// below.
    fn bound(&self, logits: &[f32]) -> f32 {
        let stretch = logits.len().div_ceil(STRETCHES).next_multiple_of(LANES).max(2 * LANES);
        let stretches = logits.len().div_ceil(stretch);
        if self.entries.len() == self.k || !(2..=stretches / 4).contains(&self.k) {
            return f32::NEG_INFINITY;
        }
        let mut of_stretches = [f32::NEG_INFINITY; STRETCHES];
        let of_stretches = &mut of_stretches[..stretches];
        of_stretches.iter_mut().zip(logits.chunks(stretch)).for_each(|(of, stretch)| *of = greatest(stretch));
        *of_stretches.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a)).1
    }

    /// Returns what a logit must not be below to be kept.
    fn least(&self) -> f32 {
        match self.entries.last() {
            Some((_, logit)) if self.entries.len() == self.k => *logit,
            _ => f32::NEG_INFINITY,
        }
    }

    fn refuse(&mut self, token: u32) {
        self.invalid = Some(self.invalid.map_or(token, |first| first.min(token)));
    }

    fn offer_each(&mut self, first: u32, logits: &[f32]) {
        (first..).zip(logits).for_each(|(token, logit)| self.offer_one(token, *logit));
    }

    fn offer_one(&mut self, token: u32, logit: f32) {
        // Of a block most are below, and need no place to be looked for.
        if logit < self.least() {
            return;
        }
        if logit.is_nan() || logit == f32::INFINITY {
            return self.refuse(token);
        }
        if logit == f32::NEG_INFINITY {
            return;
        }
        let place = self.entries.partition_point(|kept| likelier(kept, &(token, logit)).is_lt());
        if place < self.k {
            self.entries.truncate(self.k - 1);
            self.entries.insert(place, (token, logit));
        }
    }
}

/// Returns the greatest of some numbers, those that are NaN aside; negative infinity of none.
pub(crate) fn greatest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (vectors, tail) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for vector in vectors {
        lanes.iter_mut().zip(vector).for_each(|(lane, value)| *lane = larger(*lane, *value));
    }
    // By halves, which are vectors still.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(&*high).for_each(|(low, high)| *low = larger(*low, *high));
    }
    tail.iter().copied().fold(lanes[0], larger)
}

/// Orders logits that are numbers, the greatest first; zeros of either sign are equal.
pub(super) fn likelier((token, logit): &(u32, f32), (other, than): &(u32, f32)) -> Ordering {
    than.partial_cmp(logit).unwrap_or(Ordering::Equal).then(token.cmp(other))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Logits with many equal ones, both zeros and negative infinities among them.
    fn logits(count: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let levels = [f32::NEG_INFINITY, -0.0, 0.0, 1.5, -1.5, 2.5, -7.0, 1.0e-30];
        (0..count).map(|_| levels[random.random_range(0..levels.len())]).collect()
    }

    fn sorted(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).filter(|x| x.1 > f32::NEG_INFINITY).collect();
        // Stable, so equal ones stay in the order of tokens.
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        all.truncate(k);
        all
    }

    #[test]
    fn whatever_the_order_of_the_parts_the_list_is_the_head_of_all_sorted() {
        for (count, seed) in [(1, 1), (15, 2), (16, 3), (100, 4), (333, 5)] {
            let logits = logits(count, seed);
            for k in [1, 2, 5, 40, 500] {
                let want = sorted(&logits, k);
                let whole = TopK::of(&logits, k);
                assert_eq!(whole.entries().unwrap_or_default(), want, "{count} {k}");
                let mut parts: Vec<TopK> = (0..3).map(|_| TopK::new(k)).collect();
                for (index, start) in (0..count).step_by(24).enumerate().collect::<Vec<_>>().into_iter().rev() {
                    parts[index % 3].offer(start as u32, &logits[start..(start + 24).min(count)]);
                }
                let mut merged = parts.remove(1);
                parts.iter().for_each(|part| merged.merge(part));
                assert_eq!(merged, whole, "{count} {k}");
            }
        }
    }

    /// Where so many come at once that most are passed over: with equal ones, too, and in any order.
    #[test]
    fn of_very_many_the_greatest_are_the_head_of_all_sorted() {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        for (count, levels) in [(9_000, 1.0e6f32), (16_384, 50.0), (20_001, 1.0e6), (16_384, 3.0)] {
            let mut all: Vec<f32> = (0..count).map(|_| (random.random::<f32>() * levels).floor()).collect();
            (all[3], all[count - 1]) = (f32::NEG_INFINITY, levels);
            for order in 0..2 {
                for k in [1, 2, 32, 64, 65] {
                    assert_eq!(TopK::of(&all, k).entries().unwrap(), sorted(&all, k), "{count} {levels} {order} {k}");
                }
                all.sort_by(f32::total_cmp);
            }
            all[count / 2] = f32::NAN;
            assert_eq!(TopK::of(&all, 32).entries(), Err(SamplerError::NotFinite { token: count / 2 }));
        }
    }

    /// Of whatever length, there are no more stretches than places for them: of real vocabularies, too.
    #[test]
    fn of_a_few_more_than_fill_the_stretches_the_greatest_are_the_head_of_all_sorted() {
        for count in [8_191, 8_192, 8_193, 8_447, 8_448, 12_289, 65_537, 262_145, 262_208, 262_399, 262_400] {
            for logits in [vec![0.0; count], logits(count, count as u64)] {
                assert_eq!(TopK::of(&logits, 40).entries().unwrap(), sorted(&logits, 40), "{count}");
            }
        }
    }

    #[test]
    fn the_first_invalid_logit_is_found_wherever_it_is() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 3, 16, 38] {
                let mut logits = vec![5.0; 50];
                (logits[place], logits[40]) = (bad, bad);
                let refused = Err(SamplerError::NotFinite { token: place });
                assert_eq!(TopK::of(&logits, 1).entries(), refused);
                let mut parts = TopK::new(2);
                parts.offer(30, &logits[30..]);
                parts.merge(&TopK::of(&logits[..30], 2));
                assert_eq!(parts.entries(), refused);
            }
        }
        assert_eq!(TopK::of(&[f32::NEG_INFINITY; 20], 3).entries(), Err(SamplerError::Empty));
        let mut used = TopK::of(&[f32::NAN], 1);
        used.reset(2);
        used.offer(7, &[1.0]);
        assert_eq!(used.entries(), Ok(&[(7, 1.0)][..]));
    }
}
