//! A neural cache that looks at the nearest inputs alone, in microseconds, and counts for as much as it turned out
//! to be worth.
mod gate;
mod mixture;
mod rows;
mod sketch;
#[cfg(test)]
mod tests;

pub(super) use gate::{Gate, KINDS};
use rows::{cosine, narrowed, square, widened};
use sketch::{Places, Sketcher, Sketches};

use super::SonaError;

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
    key: Vec<f32>,
    /// The same as inputs are held.
    narrow: Vec<i16>,
    rotated: Vec<f32>,
    places: Places,
    products: Vec<i32>,
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
}

/// Which tokens came after inputs of the head that were like this one, as
/// [`NeuralCache`](crate::adapt::caches::NeuralCache) has it, but of inputs less their common mean, and of the nearest
/// alone (kNN-LM, arXiv 1911.00172): `p(y | h) ∝ Σ_{i near h} [y_i = y] exp(θ (cos(h, h_i) − 1))`.
///
/// The nearest are those whose sketches differ in the fewest bits; their cosines are exact but for rounding to 16 bits,
/// which a core reads twice as fast as 32, and multiplies faster: inputs lie apart, and few of them in its own cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    settings: CacheSettings,
    center: Vec<f32>,
    sketcher: Sketcher,
    sketches: Sketches,
    next: usize,
    /// `[tokens, E]`, each of length 1, in 16 bits.
    keys: Vec<i16>,
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
        let factor = square(key).sqrt().max(f32::MIN_POSITIVE).recip();
        key.iter_mut().for_each(|value| *value *= factor);
    }

    /// Leaves in `found` what is recalled at an input where the model holds its likeliest token likely by `sure`.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn look(&self, hidden: &[f32], sure: f32, found: &mut Recollection) {
        found.sure = sure;
        let Recollection { nearest, sure: _, tokens, key, narrow, rotated, places, products } = found;
        tokens.clear();
        *nearest = -1.0;
        if self.is_empty() {
            return;
        }
        self.key(hidden, key);
        let sketch = self.sketcher.sketch(key, rotated);
        self.sketches.nearest(sketch, self.settings.neighbours, places);
        narrow.clear();
        narrow.extend(key.iter().copied().map(narrowed));
        let theta = self.settings.theta as f32;
        let mut total = 0.0;
        products.resize(places.nearest.len(), 0);
        ruvlab_kernels::active().dots_i16(&self.keys, &places.nearest, narrow, products);
        for (at, product) in places.nearest.iter().zip(&*products) {
            let cosine = cosine(*product);
            let weight = (theta * (cosine - 1.0)).exp();
            *nearest = nearest.max(cosine);
            total += weight;
            tokens.push((self.tokens[*at as usize], weight));
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

    /// Takes in the token that came after an input, in place of the oldest where there is no room.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn push(&mut self, hidden: &[f32], token: u32, room: &mut Recollection) {
        self.key(hidden, &mut room.key);
        // As it is held, so that a state that is taken up again has the same sketches.
        room.key.iter_mut().for_each(|value| *value = widened(narrowed(*value)));
        let sketch = self.sketcher.sketch(&room.key, &mut room.rotated);
        if self.tokens.len() < self.settings.tokens {
            self.sketches.put(self.tokens.len(), sketch);
            self.keys.extend(room.key.iter().copied().map(narrowed));
            self.tokens.push(token);
        } else {
            self.sketches.put(self.next, sketch);
            let own = self.keys[self.next * room.key.len()..].iter_mut();
            own.zip(&room.key).for_each(|(own, value)| *own = narrowed(*value));
            self.tokens[self.next] = token;
            self.next = (self.next + 1) % self.settings.tokens;
        }
    }

    /// Returns what is held: the place that is written next once it is full, the inputs, and their tokens.
    pub(super) fn held(&self) -> (usize, Vec<f32>, &[u32]) {
        (self.next, self.keys.iter().copied().map(widened).collect(), &self.tokens)
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
        let keys = keys.into_iter().map(narrowed).collect();
        (self.next, self.keys, self.tokens) = (next, keys, tokens);
        Ok(())
    }
}
