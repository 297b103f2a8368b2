//! A neural cache that looks at the nearest inputs alone, in microseconds, and counts for as much as it turned out
//! to be worth.
mod gate;
mod sketch;
#[cfg(test)]
mod tests;

pub(super) use gate::{Gate, KINDS};
use sketch::{Sketcher, Sketches};

use super::SonaError;
use crate::{adapt::caches::mixed_loss, model::sampler::greatest};

/// The neural cache beside the micro adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheSettings {
    /// Tokens it holds.
    pub tokens: usize,
    /// About how many of them count, those whose inputs are nearest.
    pub neighbours: usize,
    /// How alike inputs must be.
    pub theta: f64,
    /// How much it counts for in a prediction at first, where an input is held itself.
    pub share: f64,
    /// How much general text counts beside requests where its worth is learned.
    pub general_weight: f64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { tokens: 4096, neighbours: 64, theta: 12.0, share: 0.2, general_weight: 16.0 }
    }
}

/// What was recalled at a position of the token that came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recalled {
    /// The cosine to the nearest input, −1 where none is held.
    pub nearest: f32,
    /// How likely the model held its likeliest token.
    pub sure: f32,
    /// How likely the cache held the token.
    pub likely: f64,
}

/// What is recalled at a position, and room to find it in that is used again.
#[derive(Clone, Debug, Default)]
pub struct Recollection {
    nearest: f32,
    sure: f32,
    /// Tokens, each once and in order, with how likely they are.
    tokens: Vec<(u32, f32)>,
    /// Logits as they were before the mixture, by token.
    before: Vec<(u32, f32)>,
    key: Vec<f32>,
    rotated: Vec<f32>,
    distances: Vec<u16>,
    neighbours: Vec<u32>,
}

impl Recollection {
    /// Returns what was recalled of a token.
    #[must_use]
    pub fn of(&self, token: u32) -> Recalled {
        let found = self.tokens.binary_search_by_key(&token, |(token, _)| *token);
        Recalled {
            nearest: self.nearest,
            sure: self.sure,
            likely: found.map_or(0.0, |at| f64::from(self.tokens[at].1)),
        }
    }

    /// Puts logits that were mixed back as they were, to the last bit.
    pub fn unmix(&mut self, logits: &mut [f32]) {
        for (token, before) in self.before.drain(..) {
            logits[token as usize] = before;
        }
    }
}

/// Which tokens came after inputs of the head that were like this one, as
/// [`NeuralCache`](crate::adapt::caches::NeuralCache) has it, but of inputs less their common mean, and of the nearest
/// alone (kNN-LM, arXiv 1911.00172): `p(y | h) ∝ Σ_{i near h} [y_i = y] exp(θ (cos(h, h_i) − 1))`.
///
/// The nearest are those whose sketches differ in the fewest bits; their cosines are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    settings: CacheSettings,
    center: Vec<f32>,
    sketcher: Sketcher,
    sketches: Sketches,
    next: usize,
    /// `[tokens, E]`, each of length 1.
    keys: Vec<f32>,
    tokens: Vec<u32>,
    pub(super) gate: Gate,
}

impl Recall {
    /// Returns an empty one; `center` is the mean of the head's inputs.
    #[must_use]
    pub fn new(settings: CacheSettings, center: Vec<f32>) -> Self {
        let settings = CacheSettings { tokens: settings.tokens.max(1), ..settings };
        Self {
            settings,
            sketcher: Sketcher::new(center.len()),
            center,
            sketches: Sketches::default(),
            next: 0,
            keys: Vec::new(),
            tokens: Vec::new(),
            gate: Gate::new(settings.share),
        }
    }

    /// Returns an empty one that counts for as much as this one.
    pub(super) fn anew(&self) -> Self {
        Self { gate: self.gate, ..Self::new(self.settings, self.center.clone()) }
    }

    pub(super) fn settings(&self) -> &CacheSettings {
        &self.settings
    }

    /// Returns how many tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Leaves in `key` an input less what all have in common, at length 1.
    fn key(&self, hidden: &[f32], key: &mut Vec<f32>) {
        assert!(hidden.len() == self.center.len(), "{} values, {} wanted", hidden.len(), self.center.len());
        key.clear();
        key.extend(hidden.iter().zip(&self.center).map(|(value, center)| value - center));
        let factor = dot(key, key).sqrt().max(f32::MIN_POSITIVE).recip();
        key.iter_mut().for_each(|value| *value *= factor);
    }

    /// Leaves in `found` what is recalled at an input where the model holds its likeliest token likely by `sure`.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn look(&self, hidden: &[f32], sure: f32, found: &mut Recollection) {
        found.sure = sure;
        let Recollection { nearest, sure: _, tokens, key, rotated, distances, neighbours, before: _ } = found;
        tokens.clear();
        *nearest = -1.0;
        if self.is_empty() {
            return;
        }
        self.key(hidden, key);
        let sketch = self.sketcher.sketch(key, rotated);
        self.sketches.nearest(sketch, self.settings.neighbours, distances, neighbours);
        let theta = self.settings.theta as f32;
        let mut total = 0.0;
        for at in neighbours.iter().map(|at| *at as usize) {
            let cosine = dot(&self.keys[at * key.len()..][..key.len()], key);
            let weight = (theta * (cosine - 1.0)).exp();
            *nearest = nearest.max(cosine);
            total += weight;
            tokens.push((self.tokens[at], weight));
        }
        tokens.sort_unstable_by_key(|(token, _)| *token);
        tokens.dedup_by(|(token, weight), (kept, sum)| {
            let same = token == kept;
            *sum += if same { *weight } else { 0.0 };
            same
        });
        let factor = 1.0 / total.max(f32::MIN_POSITIVE);
        tokens.iter_mut().for_each(|(_, weight)| *weight *= factor);
    }

    /// Returns the loss of a token with what was recalled of it mixed in, `loss` being what it is without.
    #[must_use]
    pub fn mixed_loss(&self, loss: f64, recalled: Recalled) -> f64 {
        let share = self.gate.share(recalled.nearest, recalled.sure);
        mixed_loss(loss, (share > 0.0).then_some(recalled.likely), share)
    }

    /// Mixes what is recalled at an input into the logits of its position, whose `ln Σ exp` is `normaliser`: where the
    /// model holds a token likely by p and the cache by q, `ln p` becomes `ln p + ln(1 + λ q / ((1 − λ) p))`, which is
    /// the mixture `(1 − λ) p + λ q` but for what all tokens have in common. `found` can undo it.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn mix(&self, hidden: &[f32], normaliser: f64, logits: &mut [f32], found: &mut Recollection) {
        let normaliser = normaliser as f32;
        self.look(hidden, (greatest(logits) - normaliser).exp(), found);
        found.before.clear();
        let share = self.gate.share(found.nearest, found.sure);
        if share <= 0.0 {
            return;
        }
        let odds = (share / (1.0 - share)) as f32;
        for (token, q) in &found.tokens {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            found.before.push((*token, *logit));
            let p = (*logit - normaliser).exp();
            *logit += (odds * q / p.max(f32::MIN_POSITIVE)).ln_1p();
        }
    }

    /// Takes in the token that came after an input, in place of the oldest where there is no room.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn push(&mut self, hidden: &[f32], token: u32, room: &mut Recollection) {
        self.key(hidden, &mut room.key);
        let sketch = self.sketcher.sketch(&room.key, &mut room.rotated);
        if self.tokens.len() < self.settings.tokens {
            self.sketches.put(self.tokens.len(), sketch);
            self.keys.extend(&room.key);
            self.tokens.push(token);
        } else {
            self.sketches.put(self.next, sketch);
            self.keys[self.next * room.key.len()..][..room.key.len()].copy_from_slice(&room.key);
            self.tokens[self.next] = token;
            self.next = (self.next + 1) % self.settings.tokens;
        }
    }

    /// Returns what is held: the place that is written next once it is full, the inputs, and their tokens.
    pub(super) fn held(&self) -> (usize, &[f32], &[u32]) {
        (self.next, &self.keys, &self.tokens)
    }

    /// Puts what another held in place of its own.
    ///
    /// # Errors
    ///
    /// If it does not fit.
    pub(super) fn hold(&mut self, next: usize, keys: Vec<f32>, tokens: Vec<u32>) -> Result<(), SonaError> {
        let (width, most) = (self.center.len(), self.settings.tokens);
        let fits = tokens.len() <= most
            && keys.len() == tokens.len() * width
            && (next == 0 || next < most && tokens.len() == most);
        if !fits {
            return Err(SonaError::Stored("the cache has another size".to_owned()));
        }
        self.sketches.clear();
        let mut rotated = Vec::new();
        for (at, key) in keys.chunks_exact(width.max(1)).enumerate() {
            self.sketches.put(at, self.sketcher.sketch(key, &mut rotated));
        }
        (self.next, self.keys, self.tokens) = (next, keys, tokens);
        Ok(())
    }
}

const LANES: usize = 16;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((vectors, tail), (others, rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (vector, other) in vectors.iter().zip(others) {
        sums.iter_mut().zip(vector.iter().zip(other)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + tail.iter().zip(rest).map(|(a, b)| a * b).sum::<f32>()
}
