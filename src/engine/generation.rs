//! The next tokens of sequences: a step, and a choice.
use super::{Chunk, EngineError, LanguageModel, LogitRows, SequenceId};
use crate::model::sampler::{Sampler, SamplerError};

/// Why no tokens came.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Of the logits, no token could be chosen.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// Appends tokens to sequences and returns the token that follows in each, as its sampler chooses. Where few
/// logits decide, only those are asked for; the choice is the same.
///
/// # Errors
///
/// If the engine fails, or its logits allow no choice; the tokens are appended then.
///
/// # Panics
///
/// If there is not one sampler a sequence.
///
/// # Examples
///
/// ```
/// use ruvlab::{
///     engine::{EngineKind, load, next_tokens},
///     model::{
///         sampler::{Sampler, Sampling},
///         weights::Weights,
///     },
/// };
///
/// let mut model = load(EngineKind::Candle, &Weights::open("builtin:pico")?, None)?;
/// let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
/// let sequence = model.open()?;
/// let next = next_tokens(model.as_mut(), &[(sequence, &[1, 2, 3])], &mut [Sampler::new(greedy, 0)])?;
/// assert_eq!(next.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn next_tokens(
    model: &mut dyn LanguageModel,
    tokens: &[(SequenceId, &[u32])],
    samplers: &mut [Sampler],
) -> Result<Vec<u32>, GenerationError> {
    assert_eq!(tokens.len(), samplers.len(), "sequences and samplers");
    let chunk = |&(sequence, tokens)| Chunk { sequence, tokens, logits: LogitRows::Last };
    let batch: Vec<Chunk<'_>> = tokens.iter().map(chunk).collect();
    let deciding = samplers.iter().map(|sampler| sampler.sampling().deciding_logits());
    let next = match deciding.reduce(|a, b| Some(a?.max(b?))).flatten() {
        Some(k) => {
            let lists = model.step_top_k(&batch, k)?;
            samplers.iter_mut().zip(&lists).map(|(sampler, list)| sampler.sample_top_k(list)).collect()
        }
        None => {
            let all = model.step(&batch)?;
            samplers.iter_mut().zip(&all).map(|(sampler, logits)| sampler.sample(logits.row(0))).collect()
        }
    };
    let next: Result<_, SamplerError> = next;
    Ok(next?)
}
