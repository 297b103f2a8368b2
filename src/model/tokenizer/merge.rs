//! Merging neighbours, the best pair first: what both kinds of tokenizers do.
//!
//! A heap of candidates beside a list of symbols makes it O(n log n) for n symbols, however long
//! a word is.
use std::{cmp::Reverse, collections::BinaryHeap};

use super::TokenizerError;

/// Most bytes that are merged as one: a symbol and its candidate take 44 bytes of memory for each.
const MAX_BYTES: usize = 1 << 26;

/// A stretch of text that is, or may become part of, a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Where it starts, in bytes.
    start: u32,
    /// How many bytes it has; none once it has become part of another.
    length: u32,
    /// Its token, where the vocabulary has one.
    pub(super) token: Option<u32>,
    previous: u32,
    next: u32,
}

/// No symbol.
const NONE: u32 = u32::MAX;

impl Symbol {
    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    pub(super) fn length(&self) -> usize {
        self.length as usize
    }
}

/// What two neighbours may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merge {
    /// Lower ones come first; of equals, the one further left.
    pub(super) order: u32,
    /// The token of both together.
    pub(super) token: u32,
}

/// A row of symbols.
pub(super) struct Symbols(Vec<Symbol>);

impl Symbols {
    /// Returns an empty row for a stretch of so many bytes.
    pub(super) fn new(bytes: usize) -> Result<Self, TokenizerError> {
        if bytes > MAX_BYTES {
            return Err(TokenizerError::TooLong { bytes, most: MAX_BYTES });
        }
        Ok(Self(Vec::with_capacity(bytes.min(4096))))
    }

    /// Appends a symbol of `length` bytes. All lengths together are what `new` was told.
    pub(super) fn push(&mut self, length: usize, token: Option<u32>) {
        let index = self.0.len() as u32;
        let mut start = 0;
        if let Some(last) = self.0.last_mut() {
            last.next = index;
            start = last.start + last.length;
        }
        self.0.push(Symbol { start, length: length as u32, token, previous: index.wrapping_sub(1), next: NONE });
    }

    /// Merges until no pair is left that `merge_of` knows, and returns what remains, in order.
    pub(super) fn merged(
        mut self,
        merge_of: impl Fn(&Symbol, &Symbol) -> Option<Merge>,
    ) -> impl Iterator<Item = Symbol> {
        // Ordered by rank, then place; the length tells whether both are still what they were.
        let mut candidates: BinaryHeap<Reverse<(u32, u32, u32, u32, u32)>> = BinaryHeap::new();
        let candidate = |symbols: &[Symbol], left: u32, right: u32| {
            let (first, second) = (symbols.get(left as usize)?, symbols.get(right as usize)?);
            let merge = merge_of(first, second)?;
            Some(Reverse((merge.order, left, right, first.length + second.length, merge.token)))
        };
        candidates.extend((1..self.0.len() as u32).filter_map(|right| candidate(&self.0, right - 1, right)));
        while let Some(Reverse((_, left, right, length, token))) = candidates.pop() {
            let (taken, removed) = (self.0[left as usize], self.0[right as usize]);
            if taken.length == 0 || removed.length == 0 || taken.length + removed.length != length {
                continue;
            }
            self.0[right as usize].length = 0;
            self.0[left as usize] = Symbol { length, token: Some(token), next: removed.next, ..taken };
            if let Some(next) = self.0.get_mut(removed.next as usize) {
                next.previous = left;
            }
            candidates.extend(candidate(&self.0, left, removed.next));
            candidates.extend(candidate(&self.0, taken.previous, left));
        }
        self.0.into_iter().filter(|symbol| symbol.length > 0)
    }
}
