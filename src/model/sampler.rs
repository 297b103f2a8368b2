//! From logits to a token.
mod top_k;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
pub use top_k::TopK;
pub(crate) use top_k::greatest;
use top_k::likelier;

/// The most logits that are kept in order while others come by; more are sorted when all are there.
const MOST_KEPT: u32 = 256;

/// How tokens are chosen, in the order the steps are taken (transformers' order): logits are
/// divided by `temperature`, then `top_k`, `top_p` and `min_p` each drop tokens of what is left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the k likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// The smallest set of likeliest tokens with at least this probability together.
    pub top_p: f64,
    /// Tokens below this share of the likeliest token's probability are dropped.
    pub min_p: f64,
}

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// A logit is NaN or positive infinity.
    #[error("logit of token {token} is not a number: the engine computed something invalid")]
    NotFinite {
        /// The first such token.
        token: usize,
    },
    /// No token is possible.
    #[error("no token is possible: there are no logits, or all are negative infinity")]
    Empty,
}

/// Chooses tokens. Its whole state can be stored and taken up again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampling {
    /// Returns how many of the greatest logits decide which token is chosen; none where all may.
    #[must_use]
    pub fn deciding_logits(&self) -> Option<usize> {
        if self.temperature <= 0.0 {
            return Some(1);
        }
        (1..=MOST_KEPT).contains(&self.top_k).then_some(self.top_k as usize)
    }
}

impl Sampler {
    /// Returns a sampler; the same seed makes the same choices from the same logits.
    #[must_use]
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Returns how it chooses.
    #[must_use]
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Returns the next token. Of equally likely tokens, the one with the lower number comes first.
    ///
    /// # Errors
    ///
    /// If a logit is NaN or positive infinity, or none is above negative infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        if let Some(k) = self.sampling.deciding_logits() {
            return self.sample_top_k(&TopK::of(logits, k));
        }
        if let Some(token) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(SamplerError::NotFinite { token });
        }
        let mut all: Vec<(u32, f32)> =
            (0..).zip(logits.iter().copied()).filter(|(_, logit)| *logit > f32::NEG_INFINITY).collect();
        let keep = self.sampling.top_k as usize;
        if keep > 0 && keep < all.len() {
            all.select_nth_unstable_by(keep - 1, likelier);
            all.truncate(keep);
        }
        all.sort_unstable_by(likelier);
        self.draw(&all)
    }

    /// Returns the token that [`Sampler::sample`] returns for all logits of the position.
    ///
    /// # Errors
    ///
    /// As [`Sampler::sample`].
    ///
    /// # Panics
    ///
    /// If the list has room for fewer logits than decide ([`Sampling::deciding_logits`]).
    pub fn sample_top_k(&mut self, top_k: &TopK) -> Result<u32, SamplerError> {
        let needed = self.sampling.deciding_logits();
        assert!(needed.is_some_and(|k| k <= top_k.k()), "{} logits, where {needed:?} decide", top_k.k());
        let kept = top_k.entries()?;
        self.draw(&kept[..needed.map_or(kept.len(), |k| k.min(kept.len()))])
    }

    /// Returns a token of those that `top_k` left, likeliest first.
    fn draw(&mut self, likeliest: &[(u32, f32)]) -> Result<u32, SamplerError> {
        let (best, highest) = *likeliest.first().ok_or(SamplerError::Empty)?;
        if self.sampling.temperature <= 0.0 {
            return Ok(best);
        }
        let candidates = self.candidates(likeliest, highest);
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f64>() * total;
        for (token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // Rounding may leave a remainder after the last one.
        Ok(candidates.last().map_or(best, |(token, _)| *token))
    }

    /// Returns the tokens that may be chosen, likeliest first, with their weights relative to the
    /// likeliest, which is always among them.
    fn candidates(&self, likeliest: &[(u32, f32)], highest: f32) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_p, min_p, .. } = self.sampling;
        let weigh = |logit: f32| ((f64::from(logit) - f64::from(highest)) / temperature).exp();
        let mut candidates: Vec<(u32, f64)> =
            likeliest.iter().map(|(token, logit)| (*token, weigh(*logit))).take_while(|(_, w)| *w > 0.0).collect();
        if top_p < 1.0 {
            let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
            let mut sum = 0.0;
            let enough = candidates.iter().position(|(_, weight)| {
                sum += weight;
                sum >= top_p * total
            });
            candidates.truncate(enough.map_or(candidates.len(), |index| index + 1));
        }
        let others = candidates.iter().skip(1).position(|(_, weight)| *weight < min_p);
        candidates.truncate(others.map_or(candidates.len(), |index| index + 1));
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    const LOGITS: [f32; 5] = [0.5, 2.0, -1.0, 2.0, f32::NEG_INFINITY];

    fn drawn(sampling: Sampling, count: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling, 7);
        let mut counts = vec![0; LOGITS.len()];
        for _ in 0..count {
            counts[sampler.sample(&LOGITS).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn without_temperature_the_first_of_the_likeliest_is_taken() {
        let greedy = Sampling { temperature: 0.0, ..PLAIN };
        assert_eq!(drawn(greedy, 10), [0, 10, 0, 0, 0]);
    }

    /// Whatever else is set, as long as few logits decide.
    #[test]
    fn the_greatest_logits_give_the_tokens_that_all_give() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        // Of a grid, so that some are equal.
        let logits: Vec<f32> = (0..700).map(|_| (random.random::<f32>() * 64.0).floor() / 8.0).collect();
        let top = TopK::of(&logits, 300);
        for (temperature, top_k) in [(0.0, 0), (0.8, 1), (0.8, 40), (3.0, 256), (1.0e30, 40)] {
            for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.3), (0.5, 0.6)] {
                let sampling = Sampling { temperature, top_k, top_p, min_p };
                let (mut all, mut few) = (Sampler::new(sampling, 9), Sampler::new(sampling, 9));
                let exact = TopK::of(&logits, sampling.deciding_logits().unwrap());
                for draw in 0..200 {
                    let want = all.sample(&logits).unwrap();
                    let list = if draw % 2 == 0 { &exact } else { &top };
                    assert_eq!(few.sample_top_k(list), Ok(want), "{sampling:?}");
                }
            }
        }
        let all_decide = Sampling { top_k: 257, ..PLAIN };
        assert_eq!((PLAIN.deciding_logits(), all_decide.deciding_logits()), (None, None));
    }

    /// The same tokens whether a list is kept in order or all logits are sorted.
    #[test]
    fn keeping_in_order_and_sorting_choose_alike() {
        let logits: Vec<f32> = (0..700).map(|token| ((token * 37) % 101) as f32 / 16.0).collect();
        let (kept, sorted) = (Sampling { top_k: 256, ..PLAIN }, Sampling { top_k: 257, ..PLAIN });
        let small = |sampling| Sampling { min_p: 0.9, ..sampling };
        let (mut kept, mut sorted) = (Sampler::new(small(kept), 4), Sampler::new(small(sorted), 4));
        for _ in 0..500 {
            assert_eq!(kept.sample(&logits), sorted.sample(&logits));
        }
    }

    #[test]
    #[should_panic(expected = "1 logits, where Some(2) decide")]
    fn fewer_logits_than_decide_are_refused() {
        let mut sampler = Sampler::new(Sampling { top_k: 2, ..PLAIN }, 0);
        let _token = sampler.sample_top_k(&TopK::of(&LOGITS, 1));
    }

    #[test]
    fn frequencies_are_those_of_the_softmax() {
        let count = 200_000;
        let weights = LOGITS.map(|logit| f64::from(logit).exp());
        let total: f64 = weights.iter().sum();
        for (seen, weight) in drawn(PLAIN, count).into_iter().zip(weights) {
            let p = weight / total;
            // Five standard deviations of a binomial count.
            let bound = 5.0 * (p * (1.0 - p) / count as f64).sqrt();
            assert!((seen as f64 / count as f64 - p).abs() <= bound, "{seen} of {count}, expected {p}");
        }
    }

    #[test]
    fn each_cut_keeps_what_it_says() {
        assert_eq!(drawn(Sampling { top_k: 1, ..PLAIN }, 50), [0, 50, 0, 0, 0]);
        let two = drawn(Sampling { top_k: 2, ..PLAIN }, 200);
        assert!(two[1] > 0 && two[3] > 0 && two[1] + two[3] == 200, "{two:?}");
        // The two likeliest have 0.44 each: half of all needs both, 0.4 one.
        let half = drawn(Sampling { top_p: 0.5, ..PLAIN }, 200);
        assert!(half[1] + half[3] == 200 && half[3] > 0, "{half:?}");
        assert_eq!(drawn(Sampling { top_p: 0.4, ..PLAIN }, 50), [0, 50, 0, 0, 0]);
        assert_eq!(drawn(Sampling { top_p: 0.0, ..PLAIN }, 50), [0, 50, 0, 0, 0]);
        // exp(0.5 - 2) = 0.22 of the likeliest, exp(-3) = 0.05.
        let cut = drawn(Sampling { min_p: 0.1, ..PLAIN }, 2000);
        assert!(cut[0] > 0 && cut[2] == 0, "{cut:?}");
    }

    #[test]
    fn a_stored_sampler_goes_on_where_it_was() {
        let mut sampler = Sampler::new(PLAIN, 3);
        for _ in 0..10 {
            sampler.sample(&LOGITS).unwrap();
        }
        let text = serde_json::to_string(&sampler).unwrap();
        let mut again: Sampler = serde_json::from_str(&text).unwrap();
        for _ in 0..100 {
            assert_eq!(sampler.sample(&LOGITS), again.sample(&LOGITS));
        }
    }

    #[test]
    fn invalid_logits_are_errors_whatever_the_settings() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(Sampling { temperature, ..PLAIN }, 0);
            assert_eq!(sampler.sample(&[0.0, f32::NAN]), Err(SamplerError::NotFinite { token: 1 }));
            assert_eq!(sampler.sample(&[f32::INFINITY, 0.0]), Err(SamplerError::NotFinite { token: 0 }));
            assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 2]), Err(SamplerError::Empty));
            assert_eq!(sampler.sample(&[]), Err(SamplerError::Empty));
        }
    }
}
