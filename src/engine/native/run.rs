//! A batch of chunks, step by step.
use super::{
    Native, STEP_ROWS,
    executor::{CachedRotation, HeadResults, Walker},
};
use crate::{
    engine::{
        Chunk, EngineError, Logits,
        steps::{Piece, Steps, hand_out},
    },
    kv::PagedCache,
    model::{
        decoder::{Step, walk},
        sampler::TopK,
    },
};

/// What is wanted of the positions that give logits.
pub(super) enum Wanted<'a> {
    /// All logits, of each chunk.
    Logits(&'a mut [Logits]),
    /// The greatest ones, of one position after the other.
    TopK { k: usize, lists: &'a mut Vec<TopK> },
}

impl Wanted<'_> {
    /// Returns where the head writes what a step gives.
    fn results<'s>(&'s mut self, together: &'s mut Vec<f32>, rows: usize, pieces: &[Piece]) -> HeadResults<'s> {
        match self {
            Self::TopK { k, lists } => HeadResults::TopK { k: *k, lists },
            Self::Logits(chunks) => HeadResults::Logits(match pieces {
                // One chunk's logits are computed where they are returned.
                [piece] => chunks[piece.chunk].grow(rows),
                _ => {
                    together.resize(rows * chunks.first().map_or(0, |chunk| chunk.vocab_size), 0.0);
                    together.as_mut_slice()
                }
            }),
        }
    }

    /// Gives each chunk of a step of several its own.
    fn hand_out(&mut self, together: &[f32], pieces: &[Piece], step: &Step) {
        if let (Self::Logits(chunks), [_, _, ..]) = (self, pieces) {
            hand_out(together, pieces, step, chunks);
        }
    }

    /// Returns the same of the chunks from `first` on.
    fn from(&mut self, first: usize) -> Wanted<'_> {
        match self {
            Self::Logits(chunks) => Wanted::Logits(&mut chunks[first..]),
            Self::TopK { k, lists } => Wanted::TopK { k: *k, lists },
        }
    }
}

impl Logits {
    /// Makes room for more positions, and returns it.
    fn grow(&mut self, rows: usize) -> &mut [f32] {
        let start = self.values.len();
        self.rows += rows;
        if start == 0 {
            // Memory that comes as zeros need not be written.
            self.values = vec![0.0; rows * self.vocab_size];
        } else {
            self.values.resize(self.rows * self.vocab_size, 0.0);
        }
        &mut self.values[start..]
    }
}

impl Native {
    /// Appends the chunks to their sequences; an error takes all of them back to where they were, less what was
    /// evicted meanwhile.
    pub(super) fn append(&mut self, batch: &[Chunk<'_>], mut wanted: Wanted<'_>) -> Result<(), EngineError> {
        let context_length = if self.cache.evicts() { usize::MAX } else { self.context_length };
        self.sequences.check(batch, self.model.spec.vocab_size, context_length)?;
        if let Some(kept) = &mut self.kept {
            kept.clear();
        }
        self.before.clear();
        for chunk in batch {
            let (length, dropped) = self.cache.length(chunk.sequence)?;
            self.before.push((chunk.sequence, length + dropped));
        }
        let result = self.run_parts(batch, &mut wanted);
        if result.is_err() {
            self.undo()?;
        }
        result
    }

    /// Runs a batch in as many parts as its pages need that come from a file.
    fn run_parts(&mut self, batch: &[Chunk<'_>], wanted: &mut Wanted<'_>) -> Result<(), EngineError> {
        let mut first = 0;
        loop {
            let rest = &batch[first..];
            let fitting = self.cache.fitting(rest.iter().map(|chunk| (chunk.sequence, chunk.tokens.len())))?;
            let part = &rest[..fitting.min(rest.len())];
            self.run(part, wanted.from(first))?;
            first += part.len();
            if first == batch.len() {
                return Ok(());
            }
        }
    }

    fn run(&mut self, batch: &[Chunk<'_>], mut wanted: Wanted<'_>) -> Result<(), EngineError> {
        let most = self.cache.most_rows(batch.iter().map(|chunk| (chunk.sequence, chunk.tokens.len())));
        let mut steps = Steps::new(STEP_ROWS.min(most));
        while steps.next(batch, &self.sequences, &mut self.pieces, &mut self.step)? {
            let rotation = CachedRotation { model: &self.model, kernels: self.team.kernels };
            self.cache.prepare(self.step.segments.iter().map(|part| (part.sequence, part.rows.len())), &rotation)?;
            if self.cache.evicts() {
                place(&mut self.step, &self.cache)?;
            }
            self.adapters.lay_out(&self.step);
            let rows = self.step.tokens.len();
            let Self { model, team, work, cache, adapters, attention, kept, logits, pieces, step, .. } = self;
            let results = wanted.results(logits, step.logit_rows.len(), pieces);
            let attention = *attention;
            let mut walker =
                Walker { model, team, work, cache, adapters, attention, rows, results, kept: kept.as_mut() };
            walk(&mut walker, model.spec.layers, step)?;
            wanted.hand_out(logits, pieces, step);
            for segment in &self.step.segments {
                self.cache.advance(segment.sequence, &self.step.tokens[segment.rows.clone()])?;
                self.sequences.get_mut(segment.sequence)?.length = self.cache.length(segment.sequence)?.0;
            }
        }
        Ok(())
    }

    /// Takes all sequences of a batch back to where they were before it.
    fn undo(&mut self) -> Result<(), EngineError> {
        for (sequence, tokens) in std::mem::take(&mut self.before) {
            self.cache.truncate(sequence, tokens)?;
            self.sequences.get_mut(sequence)?.length = self.cache.length(sequence)?.0;
        }
        Ok(())
    }
}

/// Gives the rows of a step their places anew, after tokens before them were evicted.
fn place(step: &mut Step, cache: &PagedCache) -> Result<(), EngineError> {
    for at in 0..step.segments.len() {
        let (earlier, rest) = step.segments.split_at_mut(at);
        let Some(segment) = rest.first_mut() else { break };
        let (length, dropped) = cache.length(segment.sequence)?;
        let same = earlier.iter().filter(|other| other.sequence == segment.sequence);
        segment.past = length + same.map(|other| other.rows.len()).sum::<usize>();
        let first = segment.past + dropped;
        for (position, row) in (first..).zip(segment.rows.clone()) {
            step.positions[row] = position as u32;
        }
    }
    Ok(())
}
