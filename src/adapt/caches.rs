//! What predicts from the tokens that just came, without a gradient: the baselines that anything which
//! learns has to be held against.
use std::collections::BTreeMap;

/// How often each of the last tokens came.
#[derive(Clone, Debug)]
pub struct UnigramCache {
    capacity: usize,
    next: usize,
    recent: Vec<u32>,
    counts: BTreeMap<u32, u32>,
}

impl UnigramCache {
    /// Returns an empty one that holds so many tokens, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), next: 0, recent: Vec::new(), counts: BTreeMap::new() }
    }

    /// Returns the share of a token among those held; nothing of none.
    #[must_use]
    pub fn probability(&self, token: u32) -> Option<f64> {
        let count = self.counts.get(&token).copied().unwrap_or(0);
        (!self.recent.is_empty()).then(|| f64::from(count) / self.recent.len() as f64)
    }

    /// Takes in a token, in place of the oldest where there is no room.
    pub fn push(&mut self, token: u32) {
        if self.recent.len() < self.capacity {
            self.recent.push(token);
        } else {
            let gone = std::mem::replace(&mut self.recent[self.next], token);
            self.next = (self.next + 1) % self.capacity;
            if let Some(count) = self.counts.get_mut(&gone) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&gone);
                }
            }
        }
        *self.counts.entry(token).or_default() += 1;
    }
}

/// Which tokens came after inputs of the head that were like this one (Grave et al., "Improving Neural
/// Language Models with a Continuous Cache", arXiv 1612.04426): `p(y | h) ∝ Σ_i [y_i = y] exp(θ cos(h, h_i))`.
#[derive(Clone, Debug)]
pub struct NeuralCache {
    capacity: usize,
    width: usize,
    theta: f64,
    next: usize,
    /// `[tokens, width]`, each of length 1.
    keys: Vec<f32>,
    tokens: Vec<u32>,
}

impl NeuralCache {
    /// Returns an empty one that holds so many tokens, at least one; `theta` tells how alike inputs must be.
    #[must_use]
    pub fn new(capacity: usize, width: usize, theta: f64) -> Self {
        Self { capacity: capacity.max(1), width, theta, next: 0, keys: Vec::new(), tokens: Vec::new() }
    }

    /// Returns how likely a token is after this input; nothing where none is held.
    ///
    /// # Panics
    ///
    /// If `hidden` has not the width of the others.
    #[must_use]
    pub fn probability(&self, hidden: &[f32], token: u32) -> Option<f64> {
        assert!(hidden.len() == self.width, "{} values, {} wanted", hidden.len(), self.width);
        let length = norm(hidden);
        let (mut of_token, mut total) = (0.0, 0.0);
        for (key, came) in self.keys.chunks_exact(self.width).zip(&self.tokens) {
            let weight = (self.theta * (f64::from(dot(key, hidden) / length) - 1.0)).exp();
            total += weight;
            if *came == token {
                of_token += weight;
            }
        }
        (total > 0.0).then(|| of_token / total)
    }

    /// Returns what is held: the place that is written next once it is full, the inputs, and their tokens.
    #[must_use]
    pub fn held(&self) -> (usize, &[f32], &[u32]) {
        (self.next, &self.keys, &self.tokens)
    }

    /// Puts what another held in place of its own; returns whether it fits.
    pub fn hold(&mut self, next: usize, keys: Vec<f32>, tokens: Vec<u32>) -> bool {
        let fits = tokens.len() <= self.capacity
            && keys.len() == tokens.len() * self.width
            && (next == 0 || next < self.capacity && tokens.len() == self.capacity);
        if fits {
            (self.next, self.keys, self.tokens) = (next, keys, tokens);
        }
        fits
    }

    /// Leaves in `tokens` all that are held, each once, and how likely each is after this input; none where none
    /// is held.
    ///
    /// # Panics
    ///
    /// If `hidden` has not the width of the others.
    pub fn likely(&self, hidden: &[f32], tokens: &mut Vec<(u32, f64)>) {
        assert!(hidden.len() == self.width, "{} values, {} wanted", hidden.len(), self.width);
        let length = norm(hidden);
        let weight = |key: &[f32]| (self.theta * (f64::from(dot(key, hidden) / length) - 1.0)).exp();
        tokens.clear();
        tokens.extend(self.keys.chunks_exact(self.width).zip(&self.tokens).map(|(key, came)| (*came, weight(key))));
        let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        tokens.sort_unstable_by_key(|(token, _)| *token);
        tokens.dedup_by(|(token, weight), (kept, sum)| {
            let same = token == kept;
            if same {
                *sum += *weight;
            }
            same
        });
        tokens.iter_mut().for_each(|(_, weight)| *weight /= total);
    }

    /// Takes in the token that came after an input, in place of the oldest where there is no room.
    pub fn push(&mut self, hidden: &[f32], token: u32) {
        let length = norm(hidden);
        let key = hidden.iter().map(|value| value / length);
        if self.tokens.len() < self.capacity {
            self.keys.extend(key);
            self.tokens.push(token);
        } else {
            let at = self.next * self.width;
            self.keys[at..at + self.width].iter_mut().zip(key).for_each(|(old, new)| *old = new);
            self.tokens[self.next] = token;
            self.next = (self.next + 1) % self.capacity;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let ((vectors, tail), (others, rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (vector, other) in vectors.iter().zip(others) {
        sums.iter_mut().zip(vector.iter().zip(other)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + tail.iter().zip(rest).map(|(a, b)| a * b).sum::<f32>()
}

fn norm(values: &[f32]) -> f32 {
    dot(values, values).sqrt().max(f32::MIN_POSITIVE)
}

/// Returns the loss of a token that a model gives `loss` and a cache holds likely by `q`:
/// `−ln((1 − λ) exp(−loss) + λ q)`; the model's own where the cache knows nothing.
#[must_use]
pub fn mixed_loss(loss: f64, q: Option<f64>, lambda: f64) -> f64 {
    q.map_or(loss, |q| -((1.0 - lambda) * (-loss).exp() + lambda * q).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_token_makes_room() {
        let mut cache = UnigramCache::new(3);
        assert_eq!(cache.probability(1), None);
        [1, 1, 2].into_iter().for_each(|token| cache.push(token));
        assert!((cache.probability(1).unwrap() - 2.0 / 3.0).abs() <= 1e-12);
        [3, 3].into_iter().for_each(|token| cache.push(token));
        assert_eq!([1, 2, 3].map(|token| (cache.probability(token).unwrap() * 3.0).round() as u32), [0, 1, 2]);
    }

    #[test]
    fn tokens_are_found_by_inputs_like_theirs() {
        let mut cache = NeuralCache::new(2, 3, 20.0);
        assert_eq!(cache.probability(&[1.0, 0.0, 0.0], 5), None);
        cache.push(&[2.0, 0.0, 0.0], 5);
        cache.push(&[0.0, 3.0, 0.0], 6);
        let near = cache.probability(&[9.0, 0.1, 0.0], 5).unwrap();
        assert!(near > 0.99, "{near}");
        let both = cache.probability(&[1.0, 1.0, 0.0], 5).unwrap();
        assert!((both - 0.5).abs() <= 1e-6, "{both}");
        // Exact, from the definition.
        let (a, b) = (20.0f64.exp(), (20.0 * 0.6f64).exp());
        let mut other = NeuralCache::new(4, 2, 20.0);
        other.push(&[1.0, 0.0], 1);
        other.push(&[0.6, 0.8], 2);
        assert!((other.probability(&[1.0, 0.0], 2).unwrap() - b / (a + b)).abs() <= 1e-6);
        cache.push(&[0.0, 0.0, 1.0], 7);
        assert!(cache.probability(&[1.0, 0.0, 0.0], 5).unwrap() <= 0.0);
    }

    #[test]
    fn all_likely_tokens_are_those_one_by_one() {
        let mut cache = NeuralCache::new(5, 2, 3.0);
        let mut all = vec![(9, 1.0)];
        cache.likely(&[1.0, 0.0], &mut all);
        assert!(all.is_empty());
        for (at, token) in [(0.1, 3), (0.9, 1), (0.4, 3), (1.7, 2), (2.2, 1)] {
            cache.push(&[f32::cos(at), f32::sin(at)], token);
        }
        cache.likely(&[1.0, 0.5], &mut all);
        assert_eq!(all.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2, 3]);
        let alone = |token: u32| cache.probability(&[1.0, 0.5], token).unwrap();
        assert!(all.iter().all(|(token, likely)| (likely - alone(*token)).abs() <= 1e-12), "{all:?}");
        assert!((all.iter().map(|(_, likely)| likely).sum::<f64>() - 1.0).abs() <= 1e-12);
    }

    #[test]
    fn a_mixture_is_of_both_where_there_are_both() {
        assert!((mixed_loss(2.0f64.ln(), Some(1.0), 0.1) + 0.55f64.ln()).abs() <= 1e-12);
        assert_eq!(mixed_loss(0.7, None, 0.1).to_bits(), 0.7f64.to_bits());
    }
}
