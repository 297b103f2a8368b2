//! Perplexity, on [`windows`](super::windows) as llama.cpp cuts them.
use std::f64::consts::LN_2;

use ruvlab_kernels::log_sum_exp_f32;

use super::{
    error::LaunchError,
    opened::Loaded,
    recorder::Recorder,
    windows::{Window, Windows},
};
use crate::{
    engine::{Chunk, LogitRows},
    event::Phase,
    plan::{Cell, SCORED_AT_ONCE},
    recipe::schema::Perplexity,
};

pub(super) fn run(
    perplexity: &Perplexity,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let Perplexity { text, n_ctx, chunks } = perplexity;
    loaded.check_context(recorder.workload(), *n_ctx as usize - 1)?;
    let windows = Windows::new(cell, &loaded.tokenizer, text, *n_ctx, *chunks)?;
    let (mut sum, mut count, mut bytes) = (0.0, 0u64, 0u64);
    for window in windows.iter() {
        recorder.progress(window.index.into(), windows.count());
        let nll = score(loaded, window, recorder.workload())?;
        let scored = window.targets();
        let n = scored.len() as u64;
        recorder.at_step("nll", Phase::Eval, nll / n as f64, n, window.index.into());
        sum += nll;
        count += n;
        bytes += scored.iter().map(|token| loaded.tokenizer.piece(*token).len() as u64).sum::<u64>();
    }
    recorder.progress(windows.count(), windows.count());
    let mean = sum / count as f64;
    recorder.once("nll", Phase::Eval, mean, count);
    recorder.once("perplexity", Phase::Eval, mean.exp(), count);
    recorder.once("bits_per_byte", Phase::Eval, sum / LN_2 / bytes as f64, bytes);
    Ok(())
}

/// Returns the negative log-likelihood, in nats, of the second half of a window.
fn score(loaded: &mut Loaded, window: Window<'_>, label: &str) -> Result<f64, LaunchError> {
    let (context, scoring) = window.context();
    let engine = &mut loaded.engine;
    let sequence = engine.open()?;
    engine.step(&[Chunk { sequence, tokens: &context, logits: LogitRows::Last }])?;
    let mut sum = 0.0;
    let at_once = SCORED_AT_ONCE as usize;
    for (tokens, targets) in scoring.chunks(at_once).zip(window.targets().chunks(at_once)) {
        let logits = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }])?;
        for (row, target) in targets.iter().enumerate() {
            sum += negative_log_likelihood(logits[0].row(row), *target as usize);
        }
    }
    engine.close(sequence);
    if sum.is_finite() {
        return Ok(sum);
    }
    let problem = format!("the negative log-likelihood of a window is {sum}");
    Err(LaunchError::Numerics { workload: label.to_owned(), problem })
}

/// Returns `ln Σ exp(x) - x[target]`; NaN if a logit is NaN.
fn negative_log_likelihood(logits: &[f32], target: usize) -> f64 {
    log_sum_exp_f32(logits) - f64::from(logits[target])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_those_of_the_softmax_at_any_height() {
        for shift in [0.0, 1e4, -1e4] {
            let logits = [0.0, 1.0, 3.0].map(|x: f32| x + shift);
            let total: f64 = logits.iter().map(|x| f64::from(x - shift).exp()).sum();
            for (target, logit) in logits.iter().enumerate() {
                let expected = total.ln() - f64::from(logit - shift);
                assert!((negative_log_likelihood(&logits, target) - expected).abs() <= 1.0e-6);
            }
        }
        assert!(negative_log_likelihood(&[0.0, f32::NAN], 0).is_nan());
    }
}
