//! The instant loop: what a request's own results teach, in less than a millisecond.
use super::{Account, Decision, LoopKind, SonaError};
use crate::{
    adapt::{
        caches::{NeuralCache, mixed_loss},
        micro_lora::{Directions, MicroLora, MicroLoraError, Outcome, Request, Settings},
    },
    clock::Stopwatch,
};

/// The neural cache beside the micro adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheSettings {
    /// Tokens it holds.
    pub tokens: usize,
    /// How alike inputs must be.
    pub theta: f64,
    /// How much it counts for in a prediction, less than 1.
    pub share: f64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { tokens: 1536, theta: 20.0, share: 0.1 }
    }
}

/// What is left of a request when it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Its positions, with the probabilities it was served with.
    pub request: &'a Request,
    /// The inputs of the head at those positions, `[positions, E]`.
    pub hidden: &'a [f32],
    /// The tokens that came.
    pub tokens: &'a [u32],
}

impl Evidence<'_> {
    /// Checks that its parts are of one request to a model of this width.
    pub(super) fn check(&self, width: usize) -> Result<(), SonaError> {
        let (found, needed) = (self.hidden.len(), self.tokens.len() * width);
        if found != needed || self.request.len() != self.tokens.len() {
            return Err(SonaError::Width { what: "inputs of the head", found, needed });
        }
        if self.tokens.is_empty() { Err(SonaError::Empty) } else { Ok(()) }
    }
}

/// A micro adapter of the head and a neural cache, moved by every request.
#[derive(Debug)]
pub struct Instant {
    micro: MicroLora,
    cache: NeuralCache,
    settings: CacheSettings,
    width: usize,
}

impl Instant {
    /// Returns a loop that knows nothing yet.
    ///
    /// # Errors
    ///
    /// As [`MicroLora::new`].
    pub fn new(
        settings: Settings,
        cache: CacheSettings,
        directions: &Directions,
        vocab_size: usize,
    ) -> Result<Self, MicroLoraError> {
        Ok(Self {
            micro: MicroLora::new(settings, directions, vocab_size)?,
            cache: NeuralCache::new(cache.tokens, directions.width, cache.theta),
            settings: cache,
            width: directions.width,
        })
    }

    pub(super) fn micro_mut(&mut self) -> &mut MicroLora {
        &mut self.micro
    }

    pub(super) fn cache(&self) -> &NeuralCache {
        &self.cache
    }

    pub(super) fn cache_mut(&mut self) -> &mut NeuralCache {
        &mut self.cache
    }

    /// Returns the micro adapter.
    #[must_use]
    pub fn micro(&self) -> &MicroLora {
        &self.micro
    }

    /// Returns the loss of a token with the cache mixed in, `loss` being what it is without.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    #[must_use]
    pub fn mixed_loss(&self, loss: f64, hidden: &[f32], token: u32) -> f64 {
        mixed_loss(loss, self.cache.probability(hidden, token), self.settings.share)
    }

    /// Mixes the cache into the logits of a position, whose `ln Σ exp` is `normaliser`: where the model holds a
    /// token likely by p and the cache by q, `ln p` becomes `ln p + ln(1 + λ q / ((1 − λ) p))`, which is the
    /// mixture `(1 − λ) p + λ q` but for what all tokens have in common.
    ///
    /// # Panics
    ///
    /// If `hidden` has another width.
    pub fn mix(&self, hidden: &[f32], normaliser: f64, logits: &mut [f32], room: &mut Vec<(u32, f64)>) {
        self.cache.likely(hidden, room);
        let odds = self.settings.share / (1.0 - self.settings.share);
        for (token, q) in room.iter() {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            let p = (f64::from(*logit) - normaliser).exp();
            *logit += (odds * q / p.max(f64::MIN_POSITIVE)).ln_1p() as f32;
        }
    }

    /// Learns from a request with the weight that what came back for it has
    /// ([`Baseline::weight`](super::Baseline::weight)). The account's version is the micro adapter's own.
    ///
    /// # Errors
    ///
    /// If the parts of the evidence do not fit each other or the model; nothing has changed then.
    pub fn learn(&mut self, evidence: Evidence<'_>, weight: f64) -> Result<Account, SonaError> {
        let stopwatch = Stopwatch::start();
        evidence.check(self.width)?;
        let Evidence { request, hidden, tokens } = evidence;
        let step = self.micro.step(request, weight as f32);
        // A cache has no way to hold a token unlikely.
        if weight > 0.0 {
            for (hidden, token) in hidden.chunks_exact(self.width).zip(tokens) {
                self.cache.push(hidden, *token);
            }
        }
        Ok(Account {
            of: LoopKind::Instant,
            decision: match step.outcome {
                Outcome::Applied => Decision::Applied,
                Outcome::Rejected => Decision::Rejected,
                Outcome::Reset => Decision::Reset,
            },
            loss_before: step.loss_before,
            loss_after: step.loss_after,
            predicted_decrease: step.predicted_decrease,
            grad_norm: step.grad_norm,
            time: stopwatch.elapsed(),
            version: step.version,
        })
    }
}
