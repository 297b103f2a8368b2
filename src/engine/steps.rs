//! From the chunks of a batch to the steps an engine computes.
use std::ops::Range;

use super::{Chunk, EngineError, LogitRows, Logits, sequences::Sequences};
use crate::model::decoder::{Segment, Step};

/// A stretch of one chunk's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) chunk: usize,
    pub(super) tokens: Range<usize>,
}

/// Goes through the chunks of a batch in order, cut so that a step has at most `limit` rows. Cutting
/// bounds the memory of activations and changes no result but by rounding.
#[derive(Debug)]
pub(super) struct Steps {
    limit: usize,
    chunk: usize,
    token: usize,
}

impl Steps {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, chunk: 0, token: 0 }
    }

    /// Lays out the next step and returns whether there is one. `pieces` and `step` are buffers to
    /// reuse: nothing is allocated once they have held as much.
    pub(super) fn next<S>(
        &mut self,
        batch: &[Chunk<'_>],
        sequences: &Sequences<S>,
        pieces: &mut Vec<Piece>,
        step: &mut Step,
    ) -> Result<bool, EngineError> {
        pieces.clear();
        step.tokens.clear();
        step.positions.clear();
        step.segments.clear();
        step.logit_rows.clear();
        while let Some(Chunk { sequence, tokens: all, logits }) = batch.get(self.chunk) {
            let start = step.tokens.len();
            let count = (all.len() - self.token).min(self.limit - start);
            if count == 0 {
                break;
            }
            let tokens = self.token..self.token + count;
            let earlier = step.segments.iter().filter(|segment| segment.sequence == *sequence);
            let past = sequences.get(*sequence)?.length + earlier.map(|segment| segment.rows.len()).sum::<usize>();
            step.tokens.extend_from_slice(&all[tokens.clone()]);
            step.positions.extend((past..past + count).map(|position| position as u32));
            let rows = start..start + count;
            match logits {
                LogitRows::All => step.logit_rows.extend(rows.clone().map(|row| row as u32)),
                LogitRows::Last if tokens.end == all.len() => step.logit_rows.push(rows.end as u32 - 1),
                LogitRows::Last => {}
            }
            step.segments.push(Segment { sequence: *sequence, rows, past });
            let ended = tokens.end == all.len();
            pieces.push(Piece { chunk: self.chunk, tokens });
            (self.chunk, self.token) = if ended { (self.chunk + 1, 0) } else { (self.chunk, self.token + count) };
        }
        Ok(!pieces.is_empty())
    }
}

/// Copies the logits of a step, `[logit_rows, V]`, to those of each chunk.
pub(super) fn hand_out(logits: &[f32], pieces: &[Piece], step: &Step, all: &mut [Logits]) {
    let Some(vocab_size) = all.first().map(|logits| logits.vocab_size) else { return };
    let mut rows = logits.chunks_exact(vocab_size).zip(&step.logit_rows).peekable();
    for (piece, segment) in pieces.iter().zip(&step.segments) {
        while let Some((row, _)) = rows.next_if(|(_, row)| segment.rows.contains(&(**row as usize))) {
            all[piece.chunk].values.extend_from_slice(row);
            all[piece.chunk].rows += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lengths: &[usize], limit: usize) -> Vec<(Vec<Piece>, Step)> {
        let tokens: Vec<u32> = (0..100).collect();
        let mut sequences = Sequences::new();
        let ids: Vec<_> = lengths.iter().map(|_| sequences.open("test", ()).unwrap()).collect();
        let chunk =
            |(id, length): (&u32, &usize)| Chunk { sequence: *id, tokens: &tokens[..*length], logits: LogitRows::Last };
        let batch: Vec<_> = ids.iter().zip(lengths).map(chunk).collect();
        let (mut all, mut steps) = (Vec::new(), Steps::new(limit));
        let (mut pieces, mut step) = (Vec::new(), Step::default());
        while steps.next(&batch, &sequences, &mut pieces, &mut step).unwrap() {
            for segment in &step.segments {
                sequences.get_mut(segment.sequence).unwrap().length += segment.rows.len();
            }
            all.push((pieces.clone(), step.clone()));
        }
        all
    }

    #[test]
    fn steps_are_full_and_in_order() {
        let piece = |chunk, tokens| Piece { chunk, tokens };
        let found = steps(&[3, 10, 1], 6);
        let pieces: Vec<_> = found.iter().map(|(pieces, _)| pieces.clone()).collect();
        assert_eq!(
            pieces,
            [vec![piece(0, 0..3), piece(1, 0..3)], vec![piece(1, 3..9)], vec![piece(1, 9..10), piece(2, 0..1)],]
        );
        let wanted: Vec<_> = found.iter().map(|(_, step)| step.logit_rows.clone()).collect();
        assert_eq!(wanted, [vec![2], vec![], vec![0, 1]]);
        assert_eq!(found[1].1.positions, [3, 4, 5, 6, 7, 8]);
        assert_eq!(found[2].1.segments[0], Segment { sequence: 1, rows: 0..1, past: 9 });
    }

    #[test]
    fn a_sequence_twice_in_a_step_goes_on_where_it_was() {
        let mut sequences = Sequences::new();
        let id = sequences.open("test", ()).unwrap();
        let chunk = |tokens| Chunk { sequence: id, tokens, logits: LogitRows::All };
        let (mut pieces, mut step) = (Vec::new(), Step::default());
        let batch = [chunk(&[1, 2]), chunk(&[3])];
        assert!(Steps::new(8).next(&batch, &sequences, &mut pieces, &mut step).unwrap());
        assert_eq!(step.positions, [0, 1, 2]);
        assert_eq!(step.segments[1], Segment { sequence: id, rows: 2..3, past: 2 });
    }
}
