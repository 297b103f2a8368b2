//! Verification: a kernel set's logits against those of the set that counts as right.
//!
//! Sets that multiply blocks by activations of 8 bits differ from those that do better by what this
//! rounding costs, which on some models is more than the bound. Then the right set runs again on the
//! same weights as f32, and that run decides which of the two is off.
use super::{
    launch::{LaunchError, engine_kind, open_text, open_tokenizer, open_weights},
    prompt::SOURCE,
    recorder::Recorder,
};
use crate::{
    engine::{self, Chunk, EngineError, EngineKind, LogitRows, Settings},
    event::Phase,
    host::Load,
    model::weights::{TensorType, Weights},
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
    let settings = plan::engine_settings(cell);
    recorder.begin(LABEL.to_owned());
    recorder.progress(0, 2);
    let right = logits(reference_kind, &weights, &settings, tokens)?;
    recorder.progress(1, 2);
    let found = logits(candidate_kind, &weights, &settings, tokens)?;
    recorder.progress(2, 2);
    let mut error = nmse(&found, &right);
    if error > max_nmse
        && let Some(dense) = in_f32(&weights)?
    {
        let exact = logits(reference_kind, &dense, &settings, tokens)?;
        error = decide(&found, &right, &exact);
    }
    if error.is_finite() {
        recorder.once("verify_nmse", Phase::Eval, error, tokens.len() as u64);
    }
    judge(error, max_nmse, candidate_kind.name(), reference_kind.name())
}

/// Returns the same weights as f32; none where they are, or where there is no memory for them and
/// the engine's own copy.
fn in_f32(weights: &Weights) -> Result<Option<Weights>, LaunchError> {
    let needed = 2 * 4 * weights.parameters();
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    let quantised = weights.common_format().block_values() > 1;
    Ok(if quantised && needed <= free { Some(weights.requantized(TensorType::F32)?) } else { None })
}

/// Returns the error of `found` against `exact` if it is the smaller one, else that against `right`.
fn decide(found: &[f32], right: &[f32], exact: &[f32]) -> f64 {
    let (candidate, reference) = (nmse(found, exact), nmse(right, exact));
    if candidate < reference { candidate } else { nmse(found, right) }
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

/// Returns the logits of the prompt's last position and of each token after it, with as much room as
/// the cell has (it chooses the divisors of longrope) or else as the engine can make.
fn logits(kind: EngineKind, weights: &Weights, settings: &Settings, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
    let longest = kind.longest_context(weights.spec());
    let context_length = settings.context_length.map(|room| room.min(longest));
    let mut engine = engine::load_with(kind, weights, &Settings { context_length, ..*settings })?;
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
    fn the_exact_run_decides_for_the_nearer_one_only() {
        let exact = [1.0, 2.0];
        assert!(decide(&[1.0, 2.001], &[1.0, 2.1], &exact) <= 1e-6);
        let worse = decide(&[1.0, 2.1], &[1.0, 2.0], &exact);
        assert!((worse - nmse(&[1.0, 2.1], &[1.0, 2.0])).abs() <= 0.0 && worse > 1e-4);
        assert!(decide(&[1.0, f32::NAN], &[1.0, 2.0], &exact).is_nan());
        assert!(decide(&[1.0, 2.0], &[1.0, f32::NAN], &exact).is_nan());
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
