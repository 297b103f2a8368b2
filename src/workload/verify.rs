//! Verification: a kernel set's logits against those of the set that counts as right.
//!
//! Sets that multiply blocks by activations of 8 bits differ from those that do better by what this
//! rounding costs, which on some models is more than the bound. Then the right set runs again on the
//! same weights as f32, and that run is what the set under test must be close to.
//!
//! The set under test runs as many sequences side by side as the largest batch of the recipe, and the
//! worst of them counts: products for one token and for several are other code.
use super::{
    error::LaunchError,
    opened::{engine_kind, load_engine, open_text, open_tokenizer, open_weights},
    prompt::SOURCE,
    recorder::Recorder,
};
use crate::{
    engine::{Chunk, Device, EngineError, EngineKind, LanguageModel, LogitRows, SequenceId, Settings},
    event::Phase,
    host::Load,
    model::weights::{TensorType, Weights},
    plan::{self, Cell},
    recipe::schema::{ActivationPrecision, Verify},
};

/// Tokens that come one by one after the prompt, as in decoding.
const SINGLE: usize = 8;
/// The shortest prompt compared.
const SHORTEST: usize = 24;
const LABEL: &str = "verify";
/// What to know of an error with activations of 8 bits.
const EIGHT_BITS: &str = ": `kernels.activations: int8` has an error of its own, so where it is wanted all the same, raise `kernels.verify.max_nmse`";

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
    // What a policy does to a full cache is not the kernels' error.
    let settings = plan::engine_settings(cell).unlimited();
    recorder.begin(LABEL.to_owned());
    recorder.progress(0, 2);
    let right = one(cell, reference_kind, &weights, &settings, tokens)?;
    recorder.progress(1, 2);
    let found = side_by_side(load(cell, candidate_kind, &weights, &settings)?.as_mut(), tokens, largest_batch(cell))?;
    recorder.progress(2, 2);
    let mut error = worst(&found, &right);
    let mut against = reference_kind.name().to_owned();
    if error > max_nmse && weights.common_format().block_values() > 1 {
        match in_f32(&weights)? {
            Some(dense) => {
                error = worst(&found, &one(cell, reference_kind, &dense, &settings, tokens)?);
                against.push_str(" on f32 weights");
            }
            None => {
                against.push_str(" (no memory is left for its run on f32 weights, which would tell 8-bit rounding)")
            }
        }
    }
    if error.is_finite() {
        recorder.once("verify_nmse", Phase::Eval, error, tokens.len() as u64);
    }
    let eight_bits = cell.recipe.kernels.activations == Some(ActivationPrecision::Int8);
    judge(error, max_nmse, candidate_kind.name(), &against, if eight_bits { EIGHT_BITS } else { "" })
}

/// Returns the most sequences that a workload of the recipe has side by side.
fn largest_batch(cell: &Cell) -> usize {
    let batches = cell.recipe.workloads.iter().map(|workload| plan::demand(workload).sequences);
    batches.max().unwrap_or(1) as usize
}

/// Returns the same weights as f32; none where there is no memory for them and the engine's own copy.
fn in_f32(weights: &Weights) -> Result<Option<Weights>, LaunchError> {
    let needed = 2 * 4 * weights.parameters();
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    Ok(if needed <= free { Some(weights.requantized(TensorType::F32)?) } else { None })
}

/// Returns the largest error of several runs; NaN if one is.
fn worst(runs: &[Vec<f32>], right: &[f32]) -> f64 {
    runs.iter()
        .map(|run| nmse(run, right))
        .fold(0.0, |worst, error| if worst.is_nan() || error <= worst { worst } else { error })
}

/// Refuses an error above the bound, and one that is no number; `note` is what else to know of it.
fn judge(error: f64, max_nmse: f64, set: &str, reference: &str, note: &str) -> Result<(), LaunchError> {
    if error <= max_nmse {
        return Ok(());
    }
    let problem =
        format!("logits of {set} differ from {reference}'s by an NMSE of {error:e}, more than {max_nmse:e}{note}");
    Err(LaunchError::Numerics { workload: LABEL.to_owned(), problem })
}

/// Returns the longest prompt of the recipe's own workloads, as far as the context has room.
fn prompt_tokens(cell: &Cell) -> usize {
    let longest = cell.recipe.workloads.iter().map(|workload| plan::demand(workload).prompt_tokens);
    let room = (cell.model.context_length as usize).saturating_sub(SINGLE).max(1);
    (longest.max().unwrap_or(0) as usize).max(SHORTEST).min(room)
}

/// Returns the engine, with as much room as the cell has (it chooses the divisors of longrope) or else
/// as the engine can make.
fn load(
    cell: &Cell,
    kind: EngineKind,
    weights: &Weights,
    settings: &Settings,
) -> Result<Box<dyn LanguageModel>, LaunchError> {
    let longest = kind.longest_context(weights.spec());
    let context_length = settings.context_length.map(|room| room.min(longest));
    // Other engines have the processor alone.
    let device = if kind == EngineKind::Candle { settings.device } else { Device::Cpu };
    load_engine(cell, kind, weights, &Settings { context_length, device, ..settings.clone() })
}

/// Returns the logits of the prompt's last position and of each token after it.
fn one(
    cell: &Cell,
    kind: EngineKind,
    weights: &Weights,
    settings: &Settings,
    tokens: &[u32],
) -> Result<Vec<f32>, LaunchError> {
    Ok(side_by_side(load(cell, kind, weights, settings)?.as_mut(), tokens, 1)?.concat())
}

/// Returns the logits of each of several sequences of the same tokens, after the prompt token by token.
fn side_by_side(engine: &mut dyn LanguageModel, tokens: &[u32], batch: usize) -> Result<Vec<Vec<f32>>, EngineError> {
    let sequences = (0..batch).map(|_| engine.open()).collect::<Result<Vec<_>, _>>()?;
    let (prompt, rest) = tokens.split_at(tokens.len() - SINGLE);
    let mut runs = vec![Vec::new(); batch];
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        let chunk = |sequence: &SequenceId| Chunk { sequence: *sequence, tokens, logits: LogitRows::Last };
        let chunks: Vec<Chunk<'_>> = sequences.iter().map(chunk).collect();
        for (run, logits) in runs.iter_mut().zip(engine.step(&chunks)?) {
            run.extend(logits.values);
        }
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    Ok(runs)
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
    fn the_worst_run_counts_and_what_is_no_number_stays() {
        let right = [1.0, 2.0];
        assert!(worst(&[vec![1.0, 2.0], vec![1.0, 2.0]], &right) <= 0.0);
        let found = worst(&[vec![1.0, 3.0], vec![1.0, 2.0]], &right);
        assert!((found - nmse(&[1.0, 3.0], &right)).abs() <= 0.0 && found > 0.0);
        for runs in [[vec![1.0, f32::NAN], vec![1.0, 3.0]], [vec![1.0, 3.0], vec![1.0, f32::NAN]]] {
            assert!(worst(&runs, &right).is_nan());
        }
        assert!(worst(&[vec![1.0]], &right).is_nan());
    }

    #[test]
    fn what_is_above_the_bound_or_no_number_is_refused_with_its_exit_code() {
        assert!(judge(5.0e-4, 5.0e-4, "candle", "reference", "").is_ok());
        for error in [5.1e-4, f64::INFINITY, f64::NAN] {
            let refusal = judge(error, 5.0e-4, "candle", "reference", "").unwrap_err();
            assert_eq!(refusal.exit_code(), crate::exit::NUMERICS, "{refusal}");
            assert!(refusal.to_string().contains("NMSE"), "{refusal}");
        }
    }
}
