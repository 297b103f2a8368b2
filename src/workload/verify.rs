//! Verification: a kernel set's logits against those of the set that counts as right.
use super::{
    launch::{LaunchError, engine_kind, open_text, open_tokenizer, open_weights},
    prompt::SOURCE,
    recorder::Recorder,
};
use crate::{
    engine::{self, Chunk, EngineError, EngineKind, LogitRows},
    event::Phase,
    model::weights::Weights,
    plan::Cell,
    recipe::schema::Verify,
};

/// Tokens compared.
const TOKENS: usize = 32;
/// Of these, how many are processed as one prompt; the others come one by one, as in decoding.
const PROMPT: usize = 24;
const LABEL: &str = "verify";

/// Does nothing when no set counts as right, or the cell's set is the one that does.
pub(super) fn run(cell: &Cell, recorder: &mut Recorder<'_>) -> Result<(), LaunchError> {
    let Verify { reference, max_nmse } = cell.recipe.kernels.verify;
    let Some(reference) = reference.filter(|set| *set != cell.kernel_set) else { return Ok(()) };
    let (reference_kind, candidate_kind) = (engine_kind(reference)?, engine_kind(cell.kernel_set)?);
    let weights = open_weights(cell)?;
    let tokenizer = open_tokenizer(cell, &weights)?;
    let text = open_text(cell, SOURCE)?;
    // The text's beginning: 64 bytes a token are more than any vocabulary needs on average.
    let beginning: String = text.content.chars().take(TOKENS * 64).collect();
    let tokens = tokenizer
        .encode(&beginning, false)
        .map_err(|error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error })?;
    let enough = || LaunchError::TextTooShort { name: SOURCE.to_owned(), found: tokens.len(), needed: TOKENS };
    let tokens = tokens.get(..TOKENS).ok_or_else(enough)?;
    recorder.begin(LABEL.to_owned());
    recorder.progress(0, 2);
    let right = logits(reference_kind, &weights, tokens)?;
    recorder.progress(1, 2);
    let found = logits(candidate_kind, &weights, tokens)?;
    recorder.progress(2, 2);
    let error = nmse(&found, &right);
    if error.is_finite() {
        recorder.once("verify_nmse", Phase::Eval, error, TOKENS as u64);
    }
    if error <= max_nmse {
        return Ok(());
    }
    let (set, reference) = (candidate_kind.name(), reference_kind.name());
    let problem = format!("logits of {set} differ from {reference}'s by an NMSE of {error:e}, more than {max_nmse:e}");
    Err(LaunchError::Numerics { workload: LABEL.to_owned(), problem })
}

fn logits(kind: EngineKind, weights: &Weights, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
    let mut engine = engine::load(kind, weights, None)?;
    let sequence = engine.open()?;
    let (prompt, rest) = tokens.split_at(PROMPT);
    let mut all = Vec::new();
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        for logits in engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }])? {
            all.extend(logits.values);
        }
    }
    Ok(all)
}

/// Returns Σ(a−b)² / Σb²; NaN if a value is NaN or the lengths differ.
fn nmse(found: &[f32], right: &[f32]) -> f64 {
    if found.len() != right.len() {
        return f64::NAN;
    }
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(right).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    difference / right.iter().map(|b| square(f64::from(*b))).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_never_hide_what_is_no_number() {
        assert!((nmse(&[1.0, 2.0], &[1.0, 1.0]) - 0.5).abs() <= 1e-12);
        assert!(nmse(&[1.0], &[1.0]).abs() <= 0.0);
        assert!(nmse(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(nmse(&[1.0], &[1.0, 1.0]).is_nan());
    }
}
