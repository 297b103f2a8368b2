//! The accounts of background steps.
use std::time::Duration;

use super::{
    super::{Account, Decision, LoopKind},
    Job,
};

/// The account of a step that was not made.
pub(super) fn unjudged(time: Duration, version: u64) -> Account {
    Account {
        of: LoopKind::Background,
        decision: Decision::Unjudged,
        loss_before: 0.0,
        loss_after: 0.0,
        predicted_decrease: 0.0,
        grad_norm: 0.0,
        time,
        version,
    }
}

pub(super) fn account(job: &Job, decision: Decision, time: Duration, version: u64) -> Account {
    let judged = job.tokens > 0;
    let mean = |sum: f64| sum / job.tokens as f64;
    // Where no judge was asked, the step's own losses are all there is.
    let own = job.step.map_or([0.0; 2], |step| [step.loss_before, step.loss_after]);
    let [loss_before, loss_after] = if judged { job.sums.map(mean) } else { own };
    Account {
        of: LoopKind::Background,
        decision,
        loss_before,
        loss_after,
        predicted_decrease: job.step.map_or(0.0, |step| step.predicted_decrease),
        grad_norm: job.step.map_or(0.0, |step| step.grad_norm),
        time,
        version,
    }
}
