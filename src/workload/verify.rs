//! Verification: a kernel set's logits against those of the set that counts as right.
use super::{
    launch::{LaunchError, engine_kind, open_text, open_tokenizer, open_weights},
    prompt::SOURCE,
    recorder::Recorder,
};
use crate::{
    engine::{self, Chunk, EngineError, EngineKind, LogitRows, Settings},
    event::Phase,
    model::weights::Weights,
    plan::{self, Cell},
    recipe::schema::{Verify, Workload},
};

/// Tokens that come one by one after the prompt, as in decoding.
const SINGLE: usize = 8;
/// The shortest prompt compared.
const SHORTEST: usize = 24;
const LABEL: &str = "verify";

/// Does nothing when no set counts as right, or the cell's set is the one that does.
pub(super) fn run(cell: &Cell, recorder: &mut Recorder<'_>) -> Result<(), LaunchError> {
    let Verify { reference, max_nmse } = cell.recipe.kernels.verify;
    let Some(reference) = reference.filter(|set| *set != cell.kernel_set) else { return Ok(()) };
    let (reference_kind, candidate_kind) = (engine_kind(reference)?, engine_kind(cell.kernel_set)?);
    let weights = open_weights(cell)?;
    let tokenizer = open_tokenizer(cell, &weights)?;
    let text = open_text(cell, SOURCE)?;
    let wanted = prompt_tokens(cell) + SINGLE;
    // The text's beginning: 64 bytes a token are more than any vocabulary needs on average.
    let beginning: String = text.content.chars().take(wanted * 64).collect();
    let tokens = tokenizer
        .encode(&beginning, false)
        .map_err(|error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error })?;
    let enough = || LaunchError::TextTooShort { name: SOURCE.to_owned(), found: tokens.len(), needed: wanted };
    let tokens = tokens.get(..wanted.min(tokens.len())).filter(|tokens| tokens.len() > SINGLE).ok_or_else(enough)?;
    let settings = Settings { context_length: None, ..plan::engine_settings(cell) };
    recorder.begin(LABEL.to_owned());
    recorder.progress(0, 2);
    let right = logits(reference_kind, &weights, &settings, tokens)?;
    recorder.progress(1, 2);
    let found = logits(candidate_kind, &weights, &settings, tokens)?;
    recorder.progress(2, 2);
    let error = nmse(&found, &right);
    if error.is_finite() {
        recorder.once("verify_nmse", Phase::Eval, error, tokens.len() as u64);
    }
    judge(error, max_nmse, candidate_kind.name(), reference_kind.name())
}

/// Refuses an error above the bound, and one that is no number.
fn judge(error: f64, max_nmse: f64, set: &str, reference: &str) -> Result<(), LaunchError> {
    if error <= max_nmse {
        return Ok(());
    }
    let problem = format!("logits of {set} differ from {reference}'s by an NMSE of {error:e}, more than {max_nmse:e}");
    Err(LaunchError::Numerics { workload: LABEL.to_owned(), problem })
}

/// Returns the longest prompt of the recipe's own workloads, as far as the context has room.
fn prompt_tokens(cell: &Cell) -> usize {
    let longest = cell.recipe.workloads.iter().map(|workload| match workload {
        Workload::Prefill(prefill) => prefill.prompt_tokens,
        Workload::Decode(decode) => decode.prompt_tokens,
        Workload::Perplexity(perplexity) => perplexity.n_ctx / 2,
    });
    let room = (cell.model.context_length as usize).saturating_sub(SINGLE).max(1);
    (longest.max().unwrap_or(0) as usize).max(SHORTEST).min(room)
}

/// Returns the logits of the prompt's last position and of each token after it.
fn logits(kind: EngineKind, weights: &Weights, settings: &Settings, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
    let mut engine = engine::load_with(kind, weights, settings)?;
    let sequence = engine.open()?;
    let (prompt, rest) = tokens.split_at(tokens.len() - SINGLE);
    let mut all = Vec::new();
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        for logits in engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }])? {
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

    #[test]
    fn what_is_above_the_bound_or_no_number_is_refused_with_its_exit_code() {
        assert!(judge(5.0e-4, 5.0e-4, "candle", "reference").is_ok());
        for error in [5.1e-4, f64::INFINITY, f64::NAN] {
            let refusal = judge(error, 5.0e-4, "candle", "reference").unwrap_err();
            assert_eq!(refusal.exit_code(), crate::exit::NUMERICS, "{refusal}");
            assert!(refusal.to_string().contains("NMSE"), "{refusal}");
        }
    }
}
