//! Predictions with what is recalled mixed in.
use super::{Recall, Recalled, Recollection};
use crate::{
    adapt::caches::mixed_loss,
    model::sampler::{TopK, greatest},
};

impl Recall {
    /// Returns the loss of a token with what was recalled of it mixed in, `loss` being what it is without.
    #[must_use]
    pub fn mixed_loss(&self, loss: f64, recalled: Recalled) -> f64 {
        let share = self.gate.share(recalled.nearest, recalled.sure);
        mixed_loss(loss, (share > 0.0).then_some(recalled.likely), share)
    }

    /// Mixes what is recalled at an input into the logits of its position, whose `ln Σ exp` is `normaliser`: where the
    /// model holds a token likely by p and the cache by q, `ln p` becomes `ln p + ln(1 + λ q / ((1 − λ) p))`, which is
    /// the mixture `(1 − λ) p + λ q` but for what all tokens have in common.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn mix(&self, hidden: &[f32], normaliser: f64, logits: &mut [f32], found: &mut Recollection) {
        let normaliser = normaliser as f32;
        self.look(hidden, (greatest(logits) - normaliser).exp(), found);
        let Some(odds) = self.odds(found) else { return };
        for (token, q) in &found.tokens {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = mixed(*logit, odds * q, normaliser);
            }
        }
    }

    /// Leaves in `all` the greatest logits that [`Self::mix`] would leave, as many as it has room for: `greatest` are as
    /// many of those without the cache at least, greatest first, and `logits` are all of them.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width, or a token that is held has no logit.
    pub fn mix_greatest(
        &self,
        hidden: &[f32],
        normaliser: f64,
        (greatest, logits): (&[(u32, f32)], &[f32]),
        found: &mut Recollection,
        all: &mut TopK,
    ) {
        let normaliser = normaliser as f32;
        let largest = greatest.first().map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
        self.look(hidden, (largest - normaliser).exp(), found);
        let odds = self.odds(found);
        // A logit only grows, so that of those the cache does not hold none comes in that was not there.
        let is_held =
            |token: u32| odds.is_some() && found.tokens.binary_search_by_key(&token, |(held, _)| *held).is_ok();
        for (token, logit) in greatest.iter().filter(|(token, _)| !is_held(*token)).take(all.k()) {
            all.offer(*token, &[*logit]);
        }
        let Some(odds) = odds else { return };
        for (token, q) in &found.tokens {
            all.offer(*token, &[mixed(logits[*token as usize], odds * q, normaliser)]);
        }
    }

    /// Returns the odds `λ / (1 − λ)` of what was recalled; none where it does not count.
    fn odds(&self, found: &Recollection) -> Option<f32> {
        let share = self.gate.share(found.nearest, found.sure);
        (share > 0.0).then(|| (share / (1.0 - share)) as f32)
    }
}

/// Returns a logit with the mixture's part in it, `odds` being that of the token.
fn mixed(logit: f32, odds: f32, normaliser: f32) -> f32 {
    let p = (logit - normaliser).exp();
    logit + (odds / p.max(f32::MIN_POSITIVE)).ln_1p()
}
