//! How much what is recalled counts for.
use super::Recalled;

/// How near the nearest input is, in sixteenths, and how likely the model's likeliest token is: below these, or not.
const NEAR: usize = 16;
const SURE: [f32; 3] = [0.1, 0.25, 0.5];

/// Kinds of positions, by both.
pub(in crate::sona) const KINDS: usize = NEAR * (SURE.len() + 1);

/// The tokens a share begins with, as if it had been found by so many, and the most that stand behind one: what came
/// before those is forgotten.
const PRIOR: f64 = 16.0;
const MOST: f64 = 2048.0;

/// A share that can still grow, and one that leaves room for the model.
const LEAST: f64 = 1.0e-4;
const GREATEST: f64 = 0.9;

/// The weight of the cache in its mixture with the model, by the cosine of the nearest input and by how sure the model
/// is of itself: what makes the tokens that came likeliest, by expectation maximisation, a token at a time (Cappé and
/// Moulines 2009).
///
/// Where nothing held is near, or the model knows the text well, what is recalled says little, and the mixture would
/// only cost it: `−ln(1 − λ)` of every token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::sona) struct Gate {
    pub(in crate::sona) shares: [f64; KINDS],
    pub(in crate::sona) evidence: [f64; KINDS],
}

impl Gate {
    /// Returns one that grows from 0 at a cosine of 0 to `share` at 1.
    pub(super) fn new(share: f64) -> Self {
        let shares = std::array::from_fn(|kind| share * ((kind % NEAR) as f64 + 0.5) / NEAR as f64);
        Self { shares, evidence: [PRIOR; KINDS] }
    }

    fn kind(nearest: f32, sure: f32) -> Option<usize> {
        let near = ((nearest * NEAR as f32) as usize).min(NEAR - 1);
        let above = SURE.iter().filter(|least| sure >= **least).count();
        (nearest > 0.0).then_some(above * NEAR + near)
    }

    /// Returns the weight of what was recalled, 0 where nothing is near at all.
    pub(super) fn share(&self, nearest: f32, sure: f32) -> f64 {
        Self::kind(nearest, sure).map_or(0.0, |kind| self.shares[kind])
    }

    /// Learns from a token that the model alone held likely by `p`, with a weight in tokens.
    pub(in crate::sona) fn learn(&mut self, recalled: Recalled, p: f64, weight: f64) {
        let Some(kind) = Self::kind(recalled.nearest, recalled.sure) else { return };
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
