//! Our decoder on candle tensors: any device candle has, and gradients where they are wanted.
mod executor;
mod kv;
mod linear;
mod rope;
mod weights;

use std::{collections::BTreeMap, ops::Range};

use super::{Chunk, EngineError, LanguageModel, LogitRows, Logits, SequenceId, room, sequences::Sequences};
use crate::model::{
    decoder::{Segment, Step, walk},
    spec::ModelSpec,
    weights::Weights,
};
use executor::Walker;
use kv::Cache;
use weights::Model;

const NAME: &str = "candle";

/// Rows computed at once. Longer chunks are cut, which bounds the memory of scores and
/// activations and changes no result but by rounding.
const STEP_ROWS: usize = 512;

/// The engine.
pub(super) struct Candle {
    model: Model,
    context_length: usize,
    sequences: Sequences<Cache>,
}

/// A stretch of one chunk's tokens.
struct Piece {
    chunk: usize,
    tokens: Range<usize>,
}

/// Returns what each step computes: the chunks in order, cut so that a step has at most `limit`
/// rows.
fn cut(batch: &[Chunk<'_>], limit: usize) -> Vec<Vec<Piece>> {
    let mut steps: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut rows = 0;
    for (chunk, Chunk { tokens, .. }) in batch.iter().enumerate() {
        let mut start = 0;
        while start < tokens.len() {
            if rows == limit {
                steps.push(Vec::new());
                rows = 0;
            }
            let end = tokens.len().min(start + limit - rows);
            rows += end - start;
            if let Some(step) = steps.last_mut() {
                step.push(Piece { chunk, tokens: start..end });
            }
            start = end;
        }
    }
    steps
}

impl Candle {
    pub(super) fn load(weights: &Weights, context_length: Option<usize>) -> Result<Self, EngineError> {
        let context_length = room(NAME, context_length, weights.spec().context_length)?;
        Ok(Self { context_length, model: Model::load(weights, context_length)?, sequences: Sequences::new() })
    }

    fn lay_out(&self, batch: &[Chunk<'_>], pieces: &[Piece]) -> Result<Step, EngineError> {
        let mut step = Step::default();
        let mut lengths: BTreeMap<SequenceId, usize> = BTreeMap::new();
        for Piece { chunk, tokens } in pieces {
            let Chunk { sequence, tokens: all, logits } = batch[*chunk];
            let past = *lengths.entry(sequence).or_insert(self.sequences.get(sequence)?.length);
            lengths.insert(sequence, past + tokens.len());
            let start = step.tokens.len();
            step.tokens.extend_from_slice(&all[tokens.clone()]);
            step.positions.extend((past..past + tokens.len()).map(|position| position as u32));
            let rows = start..step.tokens.len();
            match logits {
                LogitRows::All => step.logit_rows.extend(rows.clone().map(|row| row as u32)),
                LogitRows::Last if tokens.end == all.len() => step.logit_rows.push(rows.end as u32 - 1),
                LogitRows::Last => {}
            }
            step.segments.push(Segment { sequence, rows, past });
        }
        Ok(step)
    }

    fn run(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        let mut all = vec![Logits { rows: 0, vocab_size, values: Vec::new() }; batch.len()];
        for pieces in cut(batch, STEP_ROWS) {
            let step = self.lay_out(batch, &pieces)?;
            let mut walker = Walker::new(&self.model, &mut self.sequences, self.context_length, &step)?;
            let logits = walk(&mut walker, self.model.spec.layers, &step)?;
            let logits = logits.map(|tensor| tensor.flatten_all()?.to_vec1::<f32>()).transpose()?.unwrap_or_default();
            let mut rows = logits.chunks_exact(vocab_size).zip(&step.logit_rows).peekable();
            for (Piece { chunk, .. }, segment) in pieces.iter().zip(&step.segments) {
                while let Some((row, _)) = rows.next_if(|(_, row)| segment.rows.contains(&(**row as usize))) {
                    all[*chunk].values.extend_from_slice(row);
                    all[*chunk].rows += 1;
                }
                self.sequences.get_mut(segment.sequence)?.length += segment.rows.len();
            }
        }
        Ok(all)
    }
}

impl LanguageModel for Candle {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        self.sequences.open(NAME, Cache::new(self.model.spec.layers))
    }

    fn close(&mut self, sequence: SequenceId) {
        drop(self.sequences.close(sequence));
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.sequences.check(batch, self.model.spec.vocab_size, self.context_length)?;
        let length = |chunk: &Chunk<'_>| Ok((chunk.sequence, self.sequences.get(chunk.sequence)?.length));
        let before = batch.iter().map(length).collect::<Result<Vec<_>, EngineError>>()?;
        let result = self.run(batch);
        if result.is_err() {
            for (sequence, length) in before {
                self.sequences.get_mut(sequence)?.length = length;
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_in_order_and_nothing_is_lost() {
        let tokens: Vec<u32> = (0..10).collect();
        let chunk = |length: usize| Chunk { sequence: 0, tokens: &tokens[..length], logits: LogitRows::Last };
        let batch = [chunk(3), chunk(10), chunk(1), chunk(2)];
        let steps = cut(&batch, 4);
        let sizes: Vec<usize> = steps.iter().map(|step| step.iter().map(|piece| piece.tokens.len()).sum()).collect();
        assert_eq!(sizes, [4, 4, 4, 4]);
        let mut seen = vec![0; batch.len()];
        for piece in steps.iter().flatten() {
            assert_eq!(seen[piece.chunk], piece.tokens.start);
            seen[piece.chunk] = piece.tokens.end;
        }
        assert_eq!(seen, [3, 10, 1, 2]);
    }
}
