//! The instant loop: what a request's own results teach, in less than a millisecond.
use std::time::Duration;

use super::{Account, CacheSettings, Decision, LoopKind, Recall, Recalled, Recollection, Reserve, SonaError};
use crate::adapt::micro_lora::{Directions, MicroLora, MicroLoraError, Outcome, Request, Settings};

/// What is left of a request when it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Its positions, with the probabilities it was served with but for the cache.
    pub request: &'a Request,
    /// The inputs of the head at those positions, `[positions, E]`.
    pub hidden: &'a [f32],
    /// The tokens that came.
    pub tokens: &'a [u32],
    /// What the cache held of them; empty without the instant loop.
    pub recalled: &'a [Recalled],
}

impl Evidence<'_> {
    /// Checks that its parts are of one request to a model of this width, with a cache or without.
    pub(super) fn check(&self, width: usize, recalls: bool) -> Result<(), SonaError> {
        let (found, needed) = (self.hidden.len(), self.tokens.len() * width);
        if found != needed || self.request.len() != self.tokens.len() {
            return Err(SonaError::Width { what: "inputs of the head", found, needed });
        }
        let (found, needed) = (self.recalled.len(), if recalls { self.tokens.len() } else { 0 });
        if found != needed {
            return Err(SonaError::Width { what: "what the cache held", found, needed });
        }
        if self.tokens.is_empty() { Err(SonaError::Empty) } else { Ok(()) }
    }
}

/// A micro adapter of the head and a neural cache, moved by every request.
#[derive(Debug)]
pub struct Instant {
    micro: MicroLora,
    pub(super) recall: Recall,
    room: Recollection,
    width: usize,
}

impl Instant {
    /// Returns a loop that knows nothing yet; `center` is the mean of the head's inputs.
    ///
    /// # Errors
    ///
    /// As [`MicroLora::new`].
    pub fn new(
        settings: Settings,
        cache: CacheSettings,
        directions: &Directions,
        center: Vec<f32>,
        vocab_size: usize,
    ) -> Result<Self, MicroLoraError> {
        Ok(Self {
            micro: MicroLora::new(settings, directions, vocab_size)?,
            recall: Recall::new(cache, center),
            room: Recollection::default(),
            width: directions.width,
        })
    }

    pub(super) fn micro_mut(&mut self) -> &mut MicroLora {
        &mut self.micro
    }

    /// Returns the micro adapter.
    #[must_use]
    pub fn micro(&self) -> &MicroLora {
        &self.micro
    }

    /// Returns the neural cache.
    #[must_use]
    pub fn recall(&self) -> &Recall {
        &self.recall
    }

    /// Learns from a request with the weight that what came back for it has
    /// ([`Baseline::weight`](super::Baseline::weight)), and then is taken back to where general text loses no more than
    /// it may. The account's version is the micro adapter's own, and its time is for the caller to tell.
    ///
    /// # Panics
    ///
    /// If the parts of the evidence do not fit each other or the model.
    pub fn learn(&mut self, evidence: Evidence<'_>, weight: f64, mut reserve: Option<&mut Reserve>) -> Account {
        let Evidence { request, hidden, tokens, recalled } = evidence;
        let step = self.micro.step(request, weight as f32);
        if let Some(reserve) = &reserve {
            reserve.hold(&mut self.micro);
        }
        // A cache has no way to hold a token unlikely.
        if weight > 0.0 {
            for (recalled, loss) in recalled.iter().zip(request.losses()) {
                self.recall.gate.learn(*recalled, (-loss).exp(), weight);
            }
            if let Some(reserve) = &mut reserve {
                reserve.temper(&mut self.recall, tokens.len(), &mut self.room);
            }
            for (hidden, token) in hidden.chunks_exact(self.width).zip(tokens) {
                self.recall.push(hidden, *token, &mut self.room);
            }
        }
        Account {
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
            time: Duration::ZERO,
            version: step.version,
        }
    }
}
