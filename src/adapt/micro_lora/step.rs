//! The account of a step.
use std::time::Duration;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// B moved.
    Applied,
    /// There was nothing to learn, or no step helped: B is as it was, but for its decay.
    Rejected,
    /// The adapter had made recent requests worse: B is zero, and nothing was learned.
    Reset,
}

/// The account of a step. Losses are mean negative log-likelihoods of the request's tokens, in nats, times
/// the feedback's weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The version of the adapter after it: one more than before.
    pub version: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// Under the adapter that answered the request.
    pub loss_before: f64,
    /// After the step, where each position sees what becomes of its own top-k tokens.
    pub loss_after: f64,
    /// Without an adapter, seen in the same way.
    pub loss_static: f64,
    /// What the gradient promises: η ⟨∂L/∂B, d⟩ of a step −η d, so η ‖∂L/∂B‖² of plain descent.
    pub predicted_decrease: f64,
    /// ‖∂L/∂B‖ before any cap.
    pub grad_norm: f64,
    /// η as used, after the cap and the halvings.
    pub learning_rate: f32,
    /// How often it was halved.
    pub backtracks: u32,
    /// ‖B‖ after it.
    pub norm: f64,
    /// Wall time of the step.
    pub time: Duration,
}
