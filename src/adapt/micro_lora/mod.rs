//! Instant adaptation: a rank-2 addition to the head that learns from each request's own results.
//!
//! The head's logits become `z = W h + s B (A h)`, h being the head's input. A is fixed: a direction in which
//! all inputs are alike, so that along it B is a bias of each token, and the one in which they vary most. B
//! begins at zero and learns. What a request left behind when it was
//! decoded (A h, the likeliest tokens with their probabilities, and the token that came) is all an
//! update needs, so it runs no layer again and takes microseconds. Dynamic evaluation (Krause et al.,
//! arXiv 1709.07432) at the output side only, as fast weights (Clark et al., arXiv 2212.02475); fixed A
//! as in LoRA-FA (arXiv 2308.03303), taken from activations as in EVA (arXiv 2410.07170).
mod answer;
mod descent;
mod directions;
mod exponential;
mod guards;
mod learned;
mod request;
mod settings;
mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use answer::{AnswerError, next_token};
pub use directions::Directions;
pub use learned::Learned;
pub use request::Request;
pub use settings::{Rule, Settings};
pub use step::{Outcome, Step};

use crate::{
    clock::Stopwatch,
    engine::{self, EngineError, HEAD_RANK, HeadRows, LowRank, Target},
};

/// The most directions there are; a rank below leaves the others zero.
pub(super) const RANK: usize = HEAD_RANK;

/// No slot.
const NONE: u32 = u32::MAX;

/// Keeps rows from far jumps after the smallest of gradients.
const EPSILON: f32 = 1.0e-3;

/// How surely a row of B is zero before anything came, in tokens: with as much evidence as that of a token that
/// came so often as it was expected to.
const PRIOR: f32 = 0.7;

/// The share of the curvature that is of what came; the rest is of what was expected.
const CAME: f32 = 0.4;

/// While no more than one token in so many has learned, their rows alone are added to logits: they lie apart,
/// which costs more for each.
const FEW: usize = 8;

/// Below this, what B was shrunk by is multiplied into it.
const FOLD_BELOW: f32 = 1.0e-3;

/// Why there is no such adapter.
#[derive(Debug, thiserror::Error)]
pub enum MicroLoraError {
    /// A setting outside what there is.
    #[error("micro_lora: {0}")]
    Setting(String),
    /// Numbers of another shape than the model's.
    #[error("micro_lora: {what} of {found} values, {needed} are needed")]
    Shape {
        /// Which numbers.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// A position whose logits are no numbers, or whose token is not in the vocabulary.
    #[error("micro_lora: position {position} cannot be learned from: {problem}")]
    Position {
        /// Which, from 0.
        position: usize,
        /// What is wrong.
        problem: String,
    },
    /// The engine gives no inputs of the head.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A micro adapter of a model's head.
///
/// # Numerics
///
/// The gradient is that of the request's mean loss, restricted to each position's `top_k` likeliest tokens
/// and the one that came; those entries are exact, since probabilities are of the whole vocabulary:
/// `∂L/∂B_k = (s / T) Σ_t (p_tk − [k = y_t]) A h_t`. It is the exact gradient of a loss in which each
/// position sees changes to its own tokens alone, by which a step is judged. Decay is a factor kept
/// beside B, so no step touches all of it but one in hundreds, where the factor is multiplied in.
///
/// A model whose logits are capped gets its addition after the cap.
pub struct MicroLora {
    settings: Settings,
    hidden_size: usize,
    /// `[2, E]`.
    a: Vec<f32>,
    /// `[V, 2]`, before `shrink`.
    b: Vec<[f32; RANK]>,
    shrink: f32,
    /// The tokens whose rows may be other than zero, each once, and whether a token is one of them.
    moved: Vec<u32>,
    has_moved: Vec<bool>,
    /// Of `b`.
    squared_norm: f64,
    /// Running mean of what recent requests lost by the adapter, nats a token.
    regret: f64,
    version: u64,
    /// The state before the last step, with `tokens` and `rows`.
    undo: Option<(f32, f64, f64)>,
    /// Which slot a token has, in a step.
    slot_of: Vec<u32>,
    /// The tokens of a step, by slot.
    tokens: Vec<u32>,
    /// Their rows of B before it.
    rows: Vec<[f32; RANK]>,
    gradient: Vec<[f32; RANK]>,
    /// Where to go, times −η.
    direction: Vec<[f32; RANK]>,
    /// Of every token what its rates have come from: the sum of the squares of its gradients, in the first place
    /// ([`Rule::AdaGrad`]), or the sums of the curvatures of its loss ([`Rule::Newton`]).
    history: Vec<[f32; RANK]>,
    /// That of a step's tokens before it.
    history_before: Vec<[f32; RANK]>,
    /// Of every token the curvature of text the adapter is not for, once there is any.
    protected: Vec<[f32; RANK]>,
    /// Of a step, by slot.
    curvature: Vec<[f32; RANK]>,
    /// By position and its tokens: the slot, the logit's change for a step of 1, and its exponential.
    slots: Vec<u32>,
    slopes: Vec<f32>,
    changes: Vec<f32>,
}

impl std::fmt::Debug for MicroLora {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { settings, version, .. } = self;
        f.debug_struct("MicroLora").field("settings", settings).field("version", version).finish_non_exhaustive()
    }
}

impl MicroLora {
    /// Returns an adapter that changes nothing yet.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, or there are fewer directions than its rank.
    pub fn new(settings: Settings, directions: &Directions, vocab_size: usize) -> Result<Self, MicroLoraError> {
        let Settings { rank, scale, learning_rate, decay, top_k, max_step_norm, max_norm, .. } = settings;
        let wrong = |problem: String| Err(MicroLoraError::Setting(problem));
        if !(1..=RANK).contains(&rank) {
            return wrong(format!("rank {rank}, of 1 and 2"));
        }
        let positive = |value: f32| value >= 0.0 && value.is_finite();
        if ![scale, learning_rate, max_step_norm, max_norm].into_iter().all(positive) || !(0.0..=1.0).contains(&decay) {
            return wrong("sizes are numbers from 0 up, and decay one from 0 to 1".to_owned());
        }
        if top_k == 0 || vocab_size == 0 || vocab_size >= NONE as usize {
            return wrong(format!("the {top_k} likeliest tokens of {vocab_size}"));
        }
        let (needed, found) = (rank * directions.width, directions.values.len());
        if found < needed || directions.width == 0 {
            return Err(MicroLoraError::Shape { what: "directions", found, needed });
        }
        let mut a = directions.values[..needed].to_vec();
        a.resize(RANK * directions.width, 0.0);
        Ok(Self {
            settings,
            hidden_size: directions.width,
            a,
            b: vec![[0.0; RANK]; vocab_size],
            shrink: 1.0,
            moved: Vec::with_capacity(vocab_size),
            has_moved: vec![false; vocab_size],
            squared_norm: 0.0,
            regret: 0.0,
            version: 0,
            undo: None,
            slot_of: vec![NONE; vocab_size],
            tokens: Vec::new(),
            rows: Vec::new(),
            gradient: Vec::new(),
            direction: Vec::new(),
            history: vec![[0.0; RANK]; vocab_size],
            history_before: Vec::new(),
            protected: Vec::new(),
            curvature: Vec::new(),
            slots: Vec::new(),
            slopes: Vec::new(),
            changes: Vec::new(),
        })
    }

    /// Checks that a matrix can have one.
    ///
    /// # Errors
    ///
    /// If it is not the head: all others would need the model's own backward.
    pub fn check_target(target: Target) -> Result<(), MicroLoraError> {
        if target == Target::Head {
            return Ok(());
        }
        let problem =
            format!("{target:?} is no target of instant adaptation, which has lm_head only; train an adapter");
        Err(MicroLoraError::Setting(problem))
    }

    /// Returns how it learns.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the version: how many steps and resets it has behind it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns ‖B‖.
    #[must_use]
    pub fn norm(&self) -> f64 {
        f64::from(self.shrink) * self.squared_norm.max(0.0).sqrt()
    }

    /// Returns whether it changes nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.squared_norm <= 0.0 || self.shrink <= 0.0
    }

    /// Returns room for a request of so many tokens, to be used again for each.
    #[must_use]
    pub fn request(&self, tokens: usize) -> Request {
        Request::with_capacity(self.b.len(), self.settings.top_k, tokens)
    }

    /// Returns room for a request as [`Self::request`] does, where so many likeliest tokens of each position are
    /// taken note of: for [`Self::cost`], not for steps of another `top_k`.
    #[must_use]
    pub fn request_of(&self, top_k: usize, tokens: usize) -> Request {
        Request::with_capacity(self.b.len(), top_k.max(1), tokens)
    }

    /// Returns A h.
    ///
    /// # Panics
    ///
    /// If `hidden` has not the width of the head's input.
    #[must_use]
    pub fn project(&self, hidden: &[f32]) -> [f32; RANK] {
        engine::project(&self.a, hidden)
    }

    /// Adds s B (A h) to the logits of a position; an adapter that is zero leaves every bit as it is.
    ///
    /// # Panics
    ///
    /// If `logits` are not of the vocabulary.
    pub fn apply(&self, projected: [f32; RANK], logits: &mut [f32]) {
        assert!(logits.len() == self.b.len(), "{} logits, {} wanted", logits.len(), self.b.len());
        if self.is_zero() {
            return;
        }
        let factor = self.settings.scale * self.shrink;
        let [first, second] = projected.map(|value| value * factor);
        let add = |logit: &mut f32, row: &[f32; RANK]| *logit += row[0] * first + row[1] * second;
        if self.moved.len() * FEW <= self.b.len() {
            self.moved.iter().for_each(|token| add(&mut logits[*token as usize], &self.b[*token as usize]));
        } else {
            logits.iter_mut().zip(&self.b).for_each(|(logit, row)| add(logit, row));
        }
    }

    /// Returns the addition as any engine takes it.
    #[must_use]
    pub fn low_rank(&self) -> LowRank {
        let rank = self.settings.rank;
        let times = |value: &f32| value * self.shrink;
        // All of it at once where it lies side by side.
        let b = match rank {
            RANK => self.b.as_flattened().iter().map(times).collect(),
            _ => self.b.iter().flat_map(|row| row[..rank].iter().map(times)).collect(),
        };
        LowRank { rank, scale: self.settings.scale, a: self.a[..rank * self.hidden_size].to_vec(), b, magnitude: None }
    }

    /// Returns the addition as an engine adds it to the logits of single sequences, as cheaply as can be; none
    /// where it is zero.
    #[must_use]
    pub fn head_rows(&self) -> Option<HeadRows> {
        let factor = self.settings.scale * self.shrink;
        (!self.is_zero()).then(|| HeadRows::new(self.a.clone(), &self.b, &self.moved, factor))
    }

    /// Forgets all it has learned.
    pub fn reset(&mut self) {
        self.b.fill([0.0; RANK]);
        self.moved.clear();
        self.has_moved.fill(false);
        self.history.fill([0.0; RANK]);
        (self.shrink, self.squared_norm, self.regret, self.undo) = (1.0, 0.0, 0.0, None);
        self.version += 1;
    }

    /// Keeps a share of what it has learned, from 0 to 1, and forgets the rest; there is no step to take back then.
    pub fn keep_share(&mut self, share: f32) {
        if share > 0.0 {
            self.shrink *= share.min(1.0);
            self.undo = None;
            self.version += 1;
        } else {
            self.reset();
        }
    }

    /// Holds back the tokens that matter for a request of text the adapter is not for: as if it had been seen for
    /// `tokens` tokens, and asked for no change ([`Rule::Newton`]; the diagonal of its Fisher information as the
    /// precision of a prior around zero).
    pub fn protect(&mut self, request: &Request, tokens: f32) {
        self.protected.clear();
        self.protected.resize(self.b.len(), [0.0; RANK]);
        let factor = tokens * self.settings.scale * self.settings.scale / request.len().max(1) as f32;
        let width = request.width();
        let positions = request.tokens().chunks_exact(width).zip(request.probabilities().chunks_exact(width));
        for ((tokens, probabilities), projected) in positions.zip(request.projected()) {
            let [first, second] = projected.map(|value| value * value * factor);
            for (token, probability) in tokens.iter().zip(probabilities) {
                let row = &mut self.protected[*token as usize];
                row[0] += probability * first;
                row[1] += probability * second;
            }
        }
    }

    /// Takes the last step back, to the last bit; returns whether there was one.
    pub fn undo(&mut self) -> bool {
        let Some((shrink, squared_norm, regret)) = self.undo.take() else { return false };
        for ((token, row), history) in self.tokens.iter().zip(&self.rows).zip(&self.history_before) {
            (self.b[*token as usize], self.history[*token as usize]) = (*row, *history);
        }
        (self.shrink, self.squared_norm, self.regret) = (shrink, squared_norm, regret);
        self.version += 1;
        true
    }

    /// Learns from a request by one step against the gradient of `weight` times its mean loss: 1 for text
    /// to become likelier, below zero for text to become less likely, such as a reward less its
    /// baseline. The request's probabilities must be those of this adapter.
    ///
    /// Allocates nothing once it has seen as large a request.
    pub fn step(&mut self, request: &Request, weight: f32) -> Step {
        let stopwatch = Stopwatch::start();
        self.version += 1;
        let weight = if weight.is_finite() { weight } else { 0.0 };
        let loss_before = f64::from(weight) * request.mean_loss();
        let mut step = Step {
            version: self.version,
            outcome: Outcome::Rejected,
            loss_before,
            loss_after: loss_before,
            loss_static: loss_before,
            predicted_decrease: 0.0,
            grad_norm: 0.0,
            learning_rate: 0.0,
            backtracks: 0,
            norm: 0.0,
            time: Duration::ZERO,
        };
        if self.shrink < FOLD_BELOW {
            self.fold();
        }
        self.undo = Some((self.shrink, self.squared_norm, self.regret));
        self.gather(request);
        if request.is_empty() || self.regresses(request, weight, &mut step) {
            step.norm = self.norm();
            step.time = stopwatch.elapsed();
            return step;
        }
        self.differentiate(request, weight);
        self.aim(request.len() as f32);
        self.shrink *= 1.0 - self.settings.decay;
        self.search(request, weight, &mut step);
        if step.outcome == Outcome::Applied {
            self.descend(step.learning_rate);
        }
        step.norm = self.norm();
        step.time = stopwatch.elapsed();
        step
    }
}
