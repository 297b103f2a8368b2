//! Perplexity, by llama.cpp's convention (`tools/perplexity/perplexity.cpp`): the text is tokenised
//! once and cut into windows of `n_ctx` tokens side by side. Of each window, positions from
//! `n_ctx / 2` to the last but one score the token after them. Where the model wants a BOS token,
//! it takes the place of each window's first token.
use std::f64::consts::LN_2;

use ruvlab_kernels::log_sum_exp_f32;

use super::{
    launch::{LaunchError, Loaded, open_text},
    recorder::Recorder,
};
use crate::{
    engine::{Chunk, LogitRows},
    event::Phase,
    plan::Cell,
    recipe::schema::Perplexity,
};

/// Positions scored at once, which bounds the memory of their logits.
const SCORED_AT_ONCE: usize = 128;

pub(super) fn run(
    perplexity: &Perplexity,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let Perplexity { text, n_ctx, chunks } = perplexity;
    let n_ctx = *n_ctx as usize;
    loaded.check_context(recorder.workload(), n_ctx - 1)?;
    let content = open_text(cell, text)?.content;
    let wrong = |error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error };
    let bos = loaded.tokenizer.bos_to_add();
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(loaded.tokenizer.encode(&content, false).map_err(wrong)?);
    if tokens.len() < 2 * n_ctx {
        return Err(LaunchError::TextTooShort { name: text.clone(), found: tokens.len(), needed: 2 * n_ctx });
    }
    let windows = (tokens.len() / n_ctx).min(chunks.map_or(usize::MAX, |chunks| chunks as usize));
    let (mut sum, mut count, mut bytes) = (0.0, 0u64, 0u64);
    for (window, tokens) in (0u64..).zip(tokens.chunks_exact(n_ctx).take(windows)) {
        recorder.progress(window, windows as u64);
        let nll = score(loaded, tokens, bos, recorder.workload())?;
        let scored = &tokens[n_ctx / 2 + 1..];
        recorder.at_step("nll", Phase::Eval, nll / scored.len() as f64, scored.len() as u64, window);
        sum += nll;
        count += scored.len() as u64;
        bytes += scored.iter().map(|token| loaded.tokenizer.piece(*token).len() as u64).sum::<u64>();
    }
    recorder.progress(windows as u64, windows as u64);
    let mean = sum / count as f64;
    recorder.once("nll", Phase::Eval, mean, count);
    recorder.once("perplexity", Phase::Eval, mean.exp(), count);
    recorder.once("bits_per_byte", Phase::Eval, sum / LN_2 / bytes as f64, bytes);
    Ok(())
}

/// Returns the negative log-likelihood, in nats, of the second half of a window.
fn score(loaded: &mut Loaded, window: &[u32], bos: Option<u32>, label: &str) -> Result<f64, LaunchError> {
    let mut context = window.to_vec();
    if let Some(bos) = bos {
        context[0] = bos;
    }
    let first = window.len() / 2;
    let engine = &mut loaded.engine;
    let sequence = engine.open()?;
    engine.step(&[Chunk { sequence, tokens: &context[..first], logits: LogitRows::Last }])?;
    let mut sum = 0.0;
    let inputs = context[first..window.len() - 1].chunks(SCORED_AT_ONCE);
    for (tokens, targets) in inputs.zip(window[first + 1..].chunks(SCORED_AT_ONCE)) {
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
