//! Sequences side by side.
use candle_core::Tensor;

use crate::{
    engine::{EngineError, Scored, candle::weights::Model},
    model::decoder::Step,
};

/// Sequences of one length, the shorter ones with tokens behind them that nothing looks at.
pub(super) struct Batch {
    pub(super) step: Step,
    /// Tokens of every sequence.
    pub(super) length: usize,
    /// The rows of real tokens, where there are others.
    pub(super) real: Option<Tensor>,
    /// Rows that predict a scored token, and that token.
    pub(super) scored: Vec<(u32, u32)>,
}

impl Batch {
    pub(super) fn new(sequences: &[Scored<'_>], model: &Model) -> Result<Self, EngineError> {
        let (vocab_size, context_length) = (model.spec.vocab_size, model.spec.context_length);
        for Scored { tokens, .. } in sequences {
            let inputs = tokens.len().saturating_sub(1);
            if inputs == 0 {
                return Err(EngineError::EmptyChunk);
            }
            if inputs > context_length {
                return Err(EngineError::ContextFull { needed: inputs, context_length });
            }
            if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
                return Err(EngineError::TokenOutOfRange { token, vocab_size });
            }
        }
        let inputs = || sequences.iter().map(|sequence| sequence.tokens.len() - 1);
        let length = inputs().max().ok_or(EngineError::EmptyChunk)?;
        let (mut step, mut real, mut scored) = (Step::default(), Vec::new(), Vec::new());
        for ((first, Scored { tokens, prompt }), inputs) in (0u32..).step_by(length).zip(sequences).zip(inputs()) {
            step.tokens.extend(&tokens[..inputs]);
            step.tokens.resize(first as usize + length, 0);
            step.positions.extend((0u32..).take(length));
            real.extend((first..).take(inputs));
            let skipped = (*prompt).max(1);
            scored.extend((first..).skip(skipped - 1).zip(tokens.iter().copied().skip(skipped)));
        }
        let padded = real.len() < step.tokens.len();
        let real = if padded { Some(Tensor::new(real, &model.device)?) } else { None };
        Ok(Self { step, length, real, scored })
    }
}
