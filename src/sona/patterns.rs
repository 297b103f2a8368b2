//! Kinds of requests, found by what the model makes of their prompts.
use rand::Rng;

use super::SonaError;

/// Beginnings that are tried where there are no patterns yet; the best is taken.
const BEGINNINGS: usize = 4;

/// Rounds after which patterns are taken as they are.
const ROUNDS: usize = 100;

/// One kind of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// The direction of the mean of its keys, of length 1.
    pub centroid: Vec<f32>,
    /// The sum of its keys.
    pub(super) sum: Vec<f64>,
    /// Keys behind it.
    pub count: u64,
}

impl Pattern {
    fn at(key: &[f32]) -> Self {
        Self { centroid: key.to_vec(), sum: vec![0.0; key.len()], count: 0 }
    }

    fn clear(&mut self) {
        self.sum.fill(0.0);
        self.count = 0;
    }

    fn add(&mut self, key: &[f32]) {
        self.sum.iter_mut().zip(key).for_each(|(sum, x)| *sum += f64::from(*x));
        self.count += 1;
    }

    fn settle(&mut self) {
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            self.centroid.iter_mut().zip(&self.sum).for_each(|(c, sum)| *c = (sum / length) as f32);
        }
    }
}

/// Patterns by spherical k-means over keys of length 1 (Dhillon and Modha 2001).
///
/// Between extractions every key moves the pattern it is nearest to; an extraction begins where the patterns
/// are, puts what it finds in their place, and changes nothing where there is nothing new.
#[derive(Clone, Debug, PartialEq)]
pub struct Bank {
    most: usize,
    /// What all inputs of the head have in common, and no key should.
    center: Vec<f32>,
    patterns: Vec<Pattern>,
}

impl Bank {
    /// Returns a bank of at most so many patterns, without any; `center` is the mean of the head's inputs.
    #[must_use]
    pub fn new(most: usize, center: Vec<f32>) -> Self {
        Self { most: most.max(1), center, patterns: Vec::new() }
    }

    pub(super) fn center(&self) -> &[f32] {
        &self.center
    }

    /// Returns the patterns.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    pub(super) fn replace(&mut self, patterns: Vec<Pattern>) -> Result<(), SonaError> {
        let needed = self.center.len();
        for Pattern { centroid, sum, .. } in &patterns {
            if let Some(found) = [centroid.len(), sum.len()].into_iter().find(|found| *found != needed) {
                return Err(SonaError::Width { what: "a pattern", found, needed });
            }
        }
        self.patterns = patterns;
        Ok(())
    }

    /// Returns the key of a prompt: the mean of its last inputs of the head, `[rows, E]`, less what all
    /// have in common, at length 1.
    ///
    /// # Errors
    ///
    /// If they are not rows of that width, or have no direction.
    pub fn key(&self, hidden: &[f32]) -> Result<Vec<f32>, SonaError> {
        let width = self.center.len();
        if hidden.is_empty() || !hidden.len().is_multiple_of(width) {
            return Err(SonaError::Width { what: "inputs of the head", found: hidden.len(), needed: width });
        }
        let rows = (hidden.len() / width) as f64;
        let mut mean = vec![0.0f64; width];
        for row in hidden.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / rows);
        }
        mean.iter_mut().zip(&self.center).for_each(|(mean, center)| *mean -= f64::from(*center));
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return Err(SonaError::Directionless);
        }
        Ok(mean.iter().map(|x| (x / length) as f32).collect())
    }

    /// Returns the nearest pattern and the cosine to it; nothing where there are none.
    ///
    /// # Errors
    ///
    /// If the key has another width.
    pub fn nearest(&self, key: &[f32]) -> Result<Option<(usize, f64)>, SonaError> {
        if key.len() != self.center.len() {
            return Err(SonaError::Width { what: "a key", found: key.len(), needed: self.center.len() });
        }
        Ok(nearest(&self.patterns, key))
    }

    /// Moves the nearest pattern towards a key and returns which it was.
    ///
    /// # Errors
    ///
    /// If the key has another width.
    pub fn observe(&mut self, key: &[f32]) -> Result<Option<usize>, SonaError> {
        let found = self.nearest(key)?.map(|(at, _)| at);
        if let Some(pattern) = found.and_then(|at| self.patterns.get_mut(at)) {
            pattern.add(key);
            pattern.settle();
        }
        Ok(found)
    }

    /// Finds the patterns of these keys, in place of those there were: from where they are, or from
    /// k-means++ (Arthur and Vassilvitskii 2007) where there are none. One that has no key left begins anew
    /// at the key that is farthest from its own. Returns which patterns are new.
    ///
    /// # Errors
    ///
    /// If a key has another width.
    pub fn extract(&mut self, keys: &[&[f32]], random: &mut impl Rng) -> Result<Vec<usize>, SonaError> {
        for key in keys {
            self.nearest(key)?;
        }
        let most = self.most.min(keys.len());
        if most == 0 {
            return Ok(Vec::new());
        }
        if self.patterns.is_empty() {
            let mut best: Option<(f64, Vec<Pattern>)> = None;
            for _ in 0..BEGINNINGS {
                let mut patterns = plant(keys, most, random);
                cluster(&mut patterns, keys);
                let fit: f64 = keys.iter().filter_map(|key| nearest(&patterns, key)).map(|(_, cosine)| cosine).sum();
                if best.as_ref().is_none_or(|(other, _)| fit > *other) {
                    best = Some((fit, patterns));
                }
            }
            self.patterns = best.map(|(_, patterns)| patterns).unwrap_or_default();
            return Ok((0..self.patterns.len()).collect());
        }
        let mut new: Vec<usize> = (self.patterns.len()..most).collect();
        while self.patterns.len() < most {
            let Some(key) = farthest(&self.patterns, keys) else { break };
            self.patterns.push(Pattern::at(key));
        }
        new.extend(cluster(&mut self.patterns, keys));
        new.sort_unstable();
        new.dedup();
        Ok(new)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Returns the first of the nearest.
fn nearest(patterns: &[Pattern], key: &[f32]) -> Option<(usize, f64)> {
    let cosines = patterns.iter().map(|pattern| dot(&pattern.centroid, key)).enumerate();
    cosines.fold(
        None,
        |best, (at, cosine)| if best.is_none_or(|(_, most)| cosine > most) { Some((at, cosine)) } else { best },
    )
}

/// Returns the key that is least like any pattern, where one is not the same as a pattern.
fn farthest<'a>(patterns: &[Pattern], keys: &[&'a [f32]]) -> Option<&'a [f32]> {
    let distance = |key: &&'a [f32]| Some((1.0 - nearest(patterns, key)?.1, *key));
    let found = keys.iter().filter_map(distance).max_by(|(a, _), (b, _)| a.total_cmp(b));
    found.filter(|(distance, _)| *distance > 1.0e-9).map(|(_, key)| key)
}

/// Returns patterns at keys, each drawn by its distance from those drawn before; for keys of length 1 the
/// squared distance is `2 (1 − cos)`.
fn plant(keys: &[&[f32]], most: usize, random: &mut impl Rng) -> Vec<Pattern> {
    let first = keys[random.random_range(0..keys.len())];
    let mut patterns = vec![Pattern::at(first)];
    while patterns.len() < most {
        let distance = |key: &&[f32]| nearest(&patterns, key).map_or(0.0, |(_, cosine)| (1.0 - cosine).max(0.0));
        let distances: Vec<f64> = keys.iter().map(distance).collect();
        let mut left = random.random::<f64>() * distances.iter().sum::<f64>();
        let drawn = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        let Some(at) = drawn else { break };
        patterns.push(Pattern::at(keys[at]));
    }
    patterns
}

/// Moves patterns until every key is at its nearest; returns those that had to begin anew.
fn cluster(patterns: &mut [Pattern], keys: &[&[f32]]) -> Vec<usize> {
    let mut new = Vec::new();
    let mut before: Vec<usize> = Vec::new();
    for _ in 0..ROUNDS {
        let places: Vec<usize> = keys.iter().filter_map(|key| nearest(patterns, key)).map(|(at, _)| at).collect();
        patterns.iter_mut().for_each(Pattern::clear);
        keys.iter().zip(&places).for_each(|(key, at)| patterns[*at].add(key));
        patterns.iter_mut().for_each(Pattern::settle);
        let empty: Vec<usize> = (0..patterns.len()).filter(|at| patterns[*at].count == 0).collect();
        for at in &empty {
            if let Some(key) = farthest(patterns, keys) {
                patterns[*at] = Pattern::at(key);
                new.push(*at);
            }
        }
        if places == before {
            break;
        }
        before = places;
    }
    new
}

#[cfg(test)]
mod tests;
