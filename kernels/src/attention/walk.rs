//! The walk over the tiles of a sequence, and over the pages of a tile.
use std::ops::Range;

use super::{
    AttentionScratch, AttentionShape, Cached, KEY_PART, KEY_TILE, KeyValuePage, KeyValuePages, Operand, PANEL, Product,
    SMALLEST_PAGE,
    part::{clip, log_sum_exp, merge, part_values},
    room,
};
use crate::Kernels;

/// Tokens of a page that are taken together; what is read next is asked for meanwhile.
const PIECE: usize = 16;

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

impl Walk<'_> {
    /// Returns the positions a query sees.
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        end.saturating_sub(self.window)..end
    }

    /// Turns a row of scores to weights relative to the largest so far, and returns what the sums so
    /// far are to be multiplied by.
    fn soften(&self, scores: &mut [f32], largest: &mut f32, total: &mut f32) -> f32 {
        let kernels = self.kernels;
        if let Some(cap) = self.shape.soft_cap {
            kernels.soft_cap(scores, cap);
        }
        let before = *largest;
        *largest = before.max((kernels.softmax.largest)(scores));
        let sum = (kernels.softmax.exponentials)(scores, *largest);
        // Until anything was seen, `before` is negative infinity and the factor 0.
        let factor = if before == *largest { 1.0 } else { (before - *largest).exp() };
        *total = *total * factor + sum;
        factor
    }

    /// Calls `take` with each piece of a page of some tokens of a tile, and the place of its first token among
    /// them.
    pub(super) fn each_part(&self, tile: usize, tokens: Range<usize>, mut take: impl FnMut(KeyValuePage<'_>, usize)) {
        let (page, start) = (self.page, tile * KEY_TILE);
        let mut at = tokens.start;
        while at < tokens.end {
            let (index, first) = ((start + at) / page, (start + at) % page);
            let count = (page - first).min(PIECE).min(tokens.end - at);
            let KeyValuePage { keys, values } = self.cached.page(index);
            let (part, d) = (first..first + count, self.shape.head_dim);
            take(
                KeyValuePage { keys: keys.tokens(part.clone(), d), values: values.tokens(part, d) },
                at - tokens.start,
            );
            at += count;
        }
    }

    pub(super) fn one_token(
        &self,
        queries: &[f32],
        position: usize,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        log_sum_exps: Option<&mut [f32]>,
    ) {
        let (d, seen) = (self.shape.head_dim, self.seen(position));
        let mut part = std::mem::take(&mut scratch.part);
        let length = part_values(d, self.group);
        let parts = seen.start / KEY_PART..seen.end.div_ceil(KEY_PART);
        if parts.len() == 1 {
            self.part(queries, seen, scratch, room(&mut part, length));
            merge(self.kernels, d, &part[..length], out, log_sum_exps);
        } else {
            let all = room(&mut part, parts.len() * length);
            for (index, to) in parts.zip(all.chunks_exact_mut(length)) {
                self.part(queries, clip(&seen, index), scratch, to);
            }
            merge(self.kernels, d, all, out, log_sum_exps);
        }
        scratch.part = part;
    }

    /// Writes the state of some keys of one part for one token, as [`part_values`] says.
    pub(super) fn part(&self, queries: &[f32], seen: Range<usize>, scratch: &mut AttentionScratch, out: &mut [f32]) {
        let (kernels, d, group) = (self.kernels, self.shape.head_dim, self.group);
        let scaled = self.scaled(queries, &mut scratch.queries);
        let wide = room(&mut scratch.blocks, KEY_TILE * d);
        // A row more, so that rows can be taken from any of their tokens on.
        let scores = room(&mut scratch.scores, (group + 1) * KEY_TILE);
        let rows = group * KEY_TILE;
        let (sums, states) = out.split_at_mut(group * d);
        let (largest, totals) = states.split_at_mut(group);
        sums.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        for tile in seen.start / KEY_TILE..seen.end.div_ceil(KEY_TILE) {
            let visible = visible(&seen, tile);
            let count = visible.len();
            self.each_part(tile, visible.clone(), |page, at| {
                self.score(scaled, page.keys, wide, &mut scores[at..][..rows], page.values);
            });
            for (head, scores) in scores[..rows].chunks_exact_mut(KEY_TILE).enumerate() {
                let factor = self.soften(&mut scores[..count], &mut largest[head], &mut totals[head]);
                if factor != 1.0 {
                    kernels.scale(&mut sums[head * d..][..d], factor);
                }
            }
            // What the next tile reads first comes while this one's values are summed up.
            let mut next = (tile + 1) * KEY_TILE;
            self.each_part(tile, visible, |page, at| {
                let mut ahead = Cached::NOTHING;
                if next < seen.end {
                    let count = (self.page - next % self.page).min(PIECE).min(seen.end - next);
                    let first = next % self.page;
                    ahead = self.cached.page(next / self.page).keys.tokens(first..first + count, d);
                    next += count;
                }
                self.combine(&scores[at..][..rows], page.values, wide, sums, ahead);
            });
        }
    }

    /// Asks for what [`Self::part`] of these keys reads first.
    pub(super) fn fetch(&self, seen: &Range<usize>) {
        let (tile, prefetch) = (seen.start / KEY_TILE, self.kernels.attention.prefetch);
        self.each_part(tile, visible(seen, tile), |page, _| {
            prefetch(page.keys);
            prefetch(page.values);
        });
    }

    /// Writes the products of queries with keys; `wide` has room for them as f32. What is read next is `ahead`.
    pub(super) fn score(
        &self,
        queries: &[f32],
        keys: Cached<'_>,
        wide: &mut [f32],
        scores: &mut [f32],
        ahead: Cached<'_>,
    ) {
        let (attention, d) = (&self.kernels.attention, self.shape.head_dim);
        if let (Some((kind, keys)), Some(blocks)) = (keys.blocks(), &attention.blocks) {
            return (blocks[kind].scores)(queries, keys, d, scores, ahead);
        }
        match keys {
            Cached::F32(keys) => (attention.f32.scores)(queries, keys, d, scores, ahead),
            Cached::F16(keys) => (attention.f16.scores)(queries, keys, d, scores, ahead),
            blocks => (attention.f32.scores)(queries, self.widened(blocks, wide), d, scores, ahead),
        }
    }

    /// Adds weighted values to sums, likewise.
    fn combine(&self, weights: &[f32], values: Cached<'_>, wide: &mut [f32], sums: &mut [f32], ahead: Cached<'_>) {
        let (attention, d) = (&self.kernels.attention, self.shape.head_dim);
        if let (Some((kind, values)), Some(blocks)) = (values.blocks(), &attention.blocks) {
            return (blocks[kind].combine)(weights, values, d, sums, ahead);
        }
        match values {
            Cached::F32(values) => (attention.f32.combine)(weights, values, d, sums, ahead),
            Cached::F16(values) => (attention.f16.combine)(weights, values, d, sums, ahead),
            blocks => (attention.f32.combine)(weights, self.widened(blocks, wide), d, sums, ahead),
        }
    }

    /// Returns blocks as f32.
    fn widened<'b>(&self, blocks: Cached<'_>, wide: &'b mut [f32]) -> &'b [f32] {
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
        self.each_part(tile, tokens, |page, at| {
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
        });
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
