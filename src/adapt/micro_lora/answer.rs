//! Answering with a micro adapter, token by token, and taking note of what it learns from.
use super::{MicroLora, MicroLoraError, Request};
use crate::{
    engine::{Chunk, GenerationError, LanguageModel, LogitRows, SequenceId},
    model::sampler::Sampler,
};

/// Why no token came.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The engine failed, or its logits allow no choice.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// Nothing can be learned from the position.
    #[error(transparent)]
    Position(#[from] MicroLoraError),
}

/// Appends tokens to a sequence and returns the token that follows, as its sampler chooses, having noted in
/// `request` what `micro` learns from. The engine keeps what learning needs
/// ([`LanguageModel::keep_hidden`]), and the sequence has the adapter's rows
/// ([`MicroLora::head_rows`], [`LanguageModel::attach_head`]), so that the logits are those it is answered with.
///
/// Where few logits decide, only those are asked for, as [`next_tokens`](crate::engine::next_tokens) does; what is
/// noted is the same.
///
/// # Errors
///
/// If the engine fails, or its logits allow no choice or are no numbers; the tokens are appended then.
pub fn next_token(
    engine: &mut dyn LanguageModel,
    sequence: SequenceId,
    tokens: &[u32],
    sampler: &mut Sampler,
    micro: &MicroLora,
    request: &mut Request,
) -> Result<u32, AnswerError> {
    let chunk = Chunk { sequence, tokens, logits: LogitRows::Last };
    let Some(deciding) = sampler.sampling().deciding_logits() else {
        let logits = engine.step(&[chunk]).map_err(GenerationError::from)?.remove(0);
        let token = sampler.sample(logits.row(0)).map_err(GenerationError::from)?;
        request.record(micro.project(engine.hidden()), logits.row(0), token)?;
        return Ok(token);
    };
    let k = deciding.max(request.top_k());
    let greatest = engine.step_top_k(&[chunk], k).map_err(GenerationError::from)?.remove(0);
    let token = sampler.sample_top_k(&greatest).map_err(GenerationError::from)?;
    let normaliser = engine.normalisers().first().copied().unwrap_or(f64::NAN);
    request.record_top_k(micro.project(engine.hidden()), &greatest, normaliser, token)?;
    Ok(token)
}
