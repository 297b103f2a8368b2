//! One token at a time: the walk over the tiles of a part of what it sees, and what memory is asked for meanwhile.
use std::ops::Range;

use super::{
    AttentionScratch, Cached, KEY_PART, KEY_TILE, KeyValuePage, SMALLEST_PAGE, Softening,
    part::{clip, merge, part_values},
    room,
    walk::{Walk, visible},
};

/// What is seen of the pages of a tile: keys and values of each, and the place of its first token.
struct Pages<'a> {
    all: [(Cached<'a>, Cached<'a>, usize); KEY_TILE / SMALLEST_PAGE],
    count: usize,
}

impl<'a> Pages<'a> {
    fn none() -> Self {
        Self { all: [(Cached::NOTHING, Cached::NOTHING, 0); KEY_TILE / SMALLEST_PAGE], count: 0 }
    }

    fn get(&self) -> &[(Cached<'a>, Cached<'a>, usize)] {
        &self.all[..self.count]
    }
}

impl<'a> Walk<'a> {
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
        let all = room(&mut part, parts.len() * length);
        for (index, to) in parts.zip(all.chunks_exact_mut(length)) {
            self.part(queries, &clip(&seen, index), Some((self, &clip(&seen, index + 1))), scratch, to);
        }
        merge(self.kernels, d, all, out, log_sum_exps);
        scratch.part = part;
    }

    /// Writes the state of some keys of one part for one token, as [`part_values`] says. What is read next comes
    /// meanwhile: the values of a tile while its keys are multiplied, the keys of the next tile while weights are
    /// computed and its values multiplied, and at the end those of the `following` keys. A core awaits only so many
    /// lines at once, so each phase asks for the next one's and not for more, and none for nothing.
    pub(super) fn part(
        &self,
        queries: &[f32],
        seen: &Range<usize>,
        following: Option<(&Walk<'_>, &Range<usize>)>,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let (kernels, d, group) = (self.kernels, self.shape.head_dim, self.group);
        let scaled = self.scaled(queries, &mut scratch.queries);
        let wide = room(&mut scratch.blocks, KEY_TILE * d);
        // A row more, so that rows can be taken from any of their tokens on.
        let scores = room(&mut scratch.scores, (group + 1) * KEY_TILE);
        let factors = room(&mut scratch.factors, group);
        let rows = group * KEY_TILE;
        let (sums, states) = out.split_at_mut(group * d);
        let (largest, totals) = states.split_at_mut(group);
        sums.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        let tiles = seen.start / KEY_TILE..seen.end.div_ceil(KEY_TILE);
        let (mut pages, mut next) = (&mut Pages::none(), &mut Pages::none());
        self.find_pages(seen, tiles.start, pages);
        for tile in tiles.clone() {
            match following {
                _ if tile + 1 < tiles.end => self.find_pages(seen, tile + 1, next),
                Some((walk, seen)) => walk.find_pages(seen, seen.start / KEY_TILE, next),
                None => next.count = 0,
            }
            for (keys, values, at) in pages.get() {
                self.score(scaled, *keys, wide, &mut scores[*at..][..rows], *values);
            }
            let count = visible(seen, tile).len();
            let [early, late] = next.get().first().map_or(Cached::NOTHING, |(keys, ..)| *keys).halves();
            self.soften_all(&mut scores[..rows], count, Softening { largest, totals, factors }, early);
            for (sums, factor) in sums.chunks_exact_mut(d).zip(&*factors) {
                if *factor != 1.0 {
                    kernels.scale(sums, *factor);
                }
            }
            for (index, (_, values, at)) in pages.get().iter().enumerate() {
                let ahead = match next.get().get(index) {
                    Some(_) if index == 0 => late,
                    Some((keys, ..)) => *keys,
                    None => Cached::NOTHING,
                };
                self.combine(&scores[*at..][..rows], *values, wide, sums, ahead);
            }
            std::mem::swap(&mut pages, &mut next);
        }
    }

    /// Turns the scores of a tile to weights, those of all heads at once where the tier can.
    fn soften_all(&self, scores: &mut [f32], count: usize, states: Softening<'_>, ahead: Cached<'_>) {
        let rows = scores.chunks_exact_mut(KEY_TILE);
        if let Some(soften) = self.kernels.attention.soften {
            if let Some(cap) = self.shape.soft_cap {
                rows.for_each(|scores| self.kernels.soft_cap(&mut scores[..count], cap));
            }
            return soften(scores, count, states, ahead);
        }
        let Softening { largest, totals, factors } = states;
        for (((scores, largest), total), factor) in rows.zip(largest).zip(totals).zip(factors) {
            *factor = self.soften(&mut scores[..count], largest, total);
        }
    }

    /// Looks up the pages of a tile, as far as it is seen.
    fn find_pages(&self, seen: &Range<usize>, tile: usize, to: &mut Pages<'a>) {
        to.count = 0;
        for (KeyValuePage { keys, values }, at) in self.pages(tile, visible(seen, tile)) {
            to.all[to.count] = (keys, values, at);
            to.count += 1;
        }
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
}
