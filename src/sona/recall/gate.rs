//! How much what is recalled counts for.
use super::Recalled;

/// Kinds of positions, by how near the nearest input is.
pub(in crate::sona) const KINDS: usize = 16;

/// The tokens a share begins with, as if it had been found by so many, and the most that stand behind one: what came
/// before those is forgotten.
const PRIOR: f64 = 16.0;
const MOST: f64 = 2048.0;

/// A share that can still grow, and one that leaves room for the model.
const LEAST: f64 = 1.0e-4;
const GREATEST: f64 = 0.9;

/// The weight of the cache in its mixture with the model, by the cosine of the nearest input: what makes the tokens
/// that came likeliest, by expectation maximisation, a token at a time (Cappé and Moulines 2009).
///
/// Where nothing held is near, what is recalled says little of a text that was never seen, and the mixture
/// would only cost it: `−ln(1 − λ)` of every token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::sona) struct Gate {
    pub(in crate::sona) shares: [f64; KINDS],
    pub(in crate::sona) evidence: [f64; KINDS],
}

impl Gate {
    /// Returns one that grows from 0 at a cosine of 0 to `share` at 1.
    pub(super) fn new(share: f64) -> Self {
        let shares = std::array::from_fn(|kind| share * (kind as f64 + 0.5) / KINDS as f64);
        Self { shares, evidence: [PRIOR; KINDS] }
    }

    fn kind(nearest: f32) -> Option<usize> {
        (nearest > 0.0).then(|| ((nearest * KINDS as f32) as usize).min(KINDS - 1))
    }

    /// Returns the weight of what was recalled, 0 where nothing is near at all.
    pub(super) fn share(&self, nearest: f32) -> f64 {
        Self::kind(nearest).map_or(0.0, |kind| self.shares[kind])
    }

    /// Learns from a token that the model alone held likely by `p`, with a weight in tokens.
    pub(in crate::sona) fn learn(&mut self, recalled: Recalled, p: f64, weight: f64) {
        let Some(kind) = Self::kind(recalled.nearest) else { return };
        let share = self.shares[kind];
        let own = share * recalled.likely;
        let mixed = own + (1.0 - share) * p;
        // A share of 0 is no setting to learn: it switches the cache off.
        if !(mixed > 0.0 && share > 0.0) {
            return;
        }
        let evidence = (self.evidence[kind] + weight).min(MOST);
        self.evidence[kind] = evidence;
        self.shares[kind] = (share + weight / evidence * (own / mixed - share)).clamp(LEAST, GREATEST);
    }
}
