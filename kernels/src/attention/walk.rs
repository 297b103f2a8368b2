//! The walk over the tiles of a sequence, and over the pages of a tile.
use std::{ops::Range, slice::from_mut};

use super::{
    AttentionScratch, AttentionShape, Cached, KEY_TILE, KeyValuePage, KeyValuePages, Operand, PANEL, Product,
    SMALLEST_PAGE, Softening, part::log_sum_exp, room,
};
use crate::Kernels;

pub(super) struct Walk<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) shape: &'a AttentionShape,
    /// G.
    pub(super) group: usize,
    pub(super) cached: &'a dyn KeyValuePages,
    /// Tokens of a page.
    pub(super) page: usize,
    /// Tokens a query sees at most.
    window: usize,
}

impl<'a> Walk<'a> {
    /// Checks what a call asks for.
    pub(super) fn new(
        kernels: &'a Kernels,
        shape: &'a AttentionShape,
        queries: &[f32],
        tokens: usize,
        cached: &'a dyn KeyValuePages,
    ) -> Self {
        let (d, page) = (shape.head_dim, cached.page_tokens());
        assert!(
            d > 0 && tokens > 0 && queries.len().is_multiple_of(tokens * d),
            "attend: no whole heads of {d} values"
        );
        assert!(shape.window != Some(0), "attend: a window of no tokens");
        assert!(
            page.is_power_of_two() && (SMALLEST_PAGE..=KEY_TILE).contains(&page),
            "attend: pages of {page} tokens (a power of two from {SMALLEST_PAGE} to {KEY_TILE} there can be)"
        );
        let window = shape.window.unwrap_or(usize::MAX);
        Self { kernels, shape, group: queries.len() / (tokens * d), cached, page, window }
    }

    /// Returns queries times the scale.
    pub(super) fn scaled<'b>(&self, queries: &[f32], buffer: &'b mut Vec<f32>) -> &'b [f32] {
        let scaled = room(buffer, queries.len());
        scaled.copy_from_slice(queries);
        self.kernels.scale(scaled, self.shape.scale);
        scaled
    }
}

impl<'a> Walk<'a> {
    /// Returns the positions a query sees.
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        end.saturating_sub(self.window)..end
    }

    /// Turns a row of scores to weights relative to the largest so far, and returns what the sums so
    /// far are to be multiplied by.
    pub(super) fn soften(&self, scores: &mut [f32], largest: &mut f32, total: &mut f32) -> f32 {
        let kernels = self.kernels;
        if let Some(cap) = self.shape.soft_cap {
            kernels.soft_cap(scores, cap);
        }
        if let (Some(soften), KEY_TILE) = (kernels.attention.soften, scores.len()) {
            let mut factors = [1.0];
            let states = Softening { largest: from_mut(largest), totals: from_mut(total), factors: &mut factors };
            soften(scores, KEY_TILE, states, Cached::NOTHING);
            return factors[0];
        }
        let before = *largest;
        *largest = before.max((kernels.softmax.largest)(scores));
        let sum = (kernels.softmax.exponentials)(scores, *largest);
        let factor = Softening::factor(before, *largest);
        *total = *total * factor + sum;
        factor
    }

    /// Returns the pages, or the parts of them, that some tokens of a tile are in, each with the place of its first
    /// token among them.
    #[inline]
    pub(super) fn pages(
        &self,
        tile: usize,
        tokens: Range<usize>,
    ) -> impl Iterator<Item = (KeyValuePage<'a>, usize)> + use<'a> {
        let (cached, page, d, start) = (self.cached, self.page, self.shape.head_dim, tile * KEY_TILE);
        // A division would take longer than finding the page.
        let (shift, mut at) = (page.trailing_zeros(), tokens.start);
        std::iter::from_fn(move || {
            let (index, first) = ((start + at) >> shift, (start + at) & (page - 1));
            let count = (page - first).min(tokens.end.checked_sub(at).filter(|left| *left > 0)?);
            let found = (cached.page(index).tokens(first..first + count, d), at - tokens.start);
            at += count;
            Some(found)
        })
    }

    /// Returns blocks as f32.
    pub(super) fn widened<'b>(&self, blocks: Cached<'_>, wide: &'b mut [f32]) -> &'b [f32] {
        let wide = &mut wide[..blocks.values()];
        self.kernels.read_cached(blocks, wide);
        wide
    }

    pub(super) fn many_tokens(
        &self,
        queries: &[f32],
        first: usize,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        log_sum_exps: Option<&mut [f32]>,
    ) {
        let (kernels, d, rows) = (self.kernels, self.shape.head_dim, queries.len() / self.shape.head_dim);
        let wide = d.next_multiple_of(PANEL);
        let position = |row: usize| first + row / self.group;
        let scaled = self.scaled(queries, &mut scratch.queries);
        let keys = room(&mut scratch.keys, d * KEY_TILE);
        let values = room(&mut scratch.values, KEY_TILE * wide);
        let blocks = room(&mut scratch.blocks, d * KEY_TILE);
        let scores = room(&mut scratch.scores, rows * KEY_TILE);
        let sums = room(&mut scratch.sums, rows * wide);
        let largest = room(&mut scratch.largest, rows);
        let totals = room(&mut scratch.totals, rows);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        sums.fill(0.0);
        let (start, end) = (self.seen(first).start, self.seen(position(rows - 1)).end);
        for tile in start / KEY_TILE..end.div_ceil(KEY_TILE) {
            let base = tile * KEY_TILE;
            self.unpack(tile, start.saturating_sub(base)..(end - base).min(KEY_TILE), keys, values, blocks);
            // Rows whose last position is before this tile see nothing of it: they come first.
            let skipped = base.saturating_sub(first) * self.group;
            let (scaled, scores) = (&scaled[skipped * d..], &mut scores[skipped * KEY_TILE..]);
            let m = rows - skipped;
            (kernels.attention.multiply)(
                Operand { values: scaled, stride: d },
                Operand { values: keys, stride: KEY_TILE },
                scores,
                Product { m, n: KEY_TILE, k: d, stride: KEY_TILE, accumulate: false },
            );
            for (row, scores) in (skipped..rows).zip(scores.chunks_exact_mut(KEY_TILE)) {
                let visible = visible(&self.seen(position(row)), tile);
                if visible.len() < KEY_TILE {
                    scores[..visible.start].fill(0.0);
                    scores[visible.end..].fill(0.0);
                    if visible.is_empty() {
                        continue;
                    }
                }
                let factor = self.soften(&mut scores[visible], &mut largest[row], &mut totals[row]);
                if factor != 1.0 {
                    kernels.scale(&mut sums[row * wide..][..wide], factor);
                }
            }
            (kernels.attention.multiply)(
                Operand { values: scores, stride: KEY_TILE },
                Operand { values, stride: wide },
                &mut sums[skipped * wide..],
                Product { m, n: wide, k: KEY_TILE, stride: wide, accumulate: true },
            );
        }
        if let Some(saved) = log_sum_exps {
            for ((saved, largest), total) in saved.iter_mut().zip(largest.iter()).zip(totals.iter()) {
                *saved = log_sum_exp(*largest, *total);
            }
        }
        for ((out, sums), total) in out.chunks_exact_mut(d).zip(sums.chunks_exact(wide)).zip(totals) {
            out.copy_from_slice(&sums[..d]);
            kernels.scale(out, 1.0 / *total);
        }
    }

    /// Writes the tokens of a tile that are seen as keys `[D, KEY_TILE]` and values `[KEY_TILE, wide]`, with zeros for the others: their weights are 0, and 0 times what an
    /// earlier tile left there could be NaN. `blocks` has room for a page's as f32.
    pub(super) fn unpack(
        &self,
        tile: usize,
        tokens: Range<usize>,
        keys: &mut [f32],
        values: &mut [f32],
        blocks: &mut [f32],
    ) {
        let (attention, d) = (&self.kernels.attention, self.shape.head_dim);
        let wide = values.len() / KEY_TILE;
        if tokens.len() < KEY_TILE || wide > d {
            keys.fill(0.0);
            values.fill(0.0);
        }
        let start = tokens.start;
        for (page, at) in self.pages(tile, tokens) {
            let at = start + at;
            match page.keys {
                Cached::F32(k) => (attention.f32.transpose)(k, d, &mut keys[at..]),
                Cached::F16(k) => (attention.f16.transpose)(k, d, &mut keys[at..]),
                k => (attention.f32.transpose)(self.widened(k, blocks), d, &mut keys[at..]),
            }
            let to = &mut values[at * wide..];
            match page.values {
                Cached::F32(v) => spread(attention.f32.widen, v, d, to, wide),
                Cached::F16(v) => spread(attention.f16.widen, v, d, to, wide),
                v => spread(attention.f32.widen, self.widened(v, blocks), d, to, wide),
            }
        }
    }
}

/// Returns the part of a tile that is seen, relative to its first token.
pub(super) fn visible(seen: &Range<usize>, tile: usize) -> Range<usize> {
    let start = tile * KEY_TILE;
    let end = seen.end.clamp(start, start + KEY_TILE) - start;
    seen.start.clamp(start, start + end) - start..end
}

/// Widens rows of `d` values to rows that are `wide` apart.
fn spread<T>(widen: fn(&[T], &mut [f32]), from: &[T], d: usize, to: &mut [f32], wide: usize) {
    if wide == d {
        return widen(from, &mut to[..from.len()]);
    }
    for (from, to) in from.chunks_exact(d).zip(to.chunks_exact_mut(wide)) {
        widen(from, &mut to[..d]);
    }
}
