//! One token at a time: the walk over the tiles of a part of what it sees, and what memory is asked for meanwhile.
use std::ops::Range;

use super::{
    AttentionScratch, Cached, KEY_PART, KEY_TILE, KeyValuePage, SMALLEST_PAGE,
    part::{clip, merge, part_values},
    room,
    walk::{Walk, visible},
};

/// Of a tile, each with the place of its first token.
type Pages<'a> = [Option<(KeyValuePage<'a>, usize)>; KEY_TILE / SMALLEST_PAGE];

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
    /// meanwhile: the values of a tile while its keys are multiplied, the keys of the next tile while its values
    /// are, and at the end those of the `following` keys. A core awaits only so many lines at once, so each
    /// phase asks for the next one's and not for more.
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
        let rows = group * KEY_TILE;
        let (sums, states) = out.split_at_mut(group * d);
        let (largest, totals) = states.split_at_mut(group);
        sums.fill(0.0);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        let tiles = seen.start / KEY_TILE..seen.end.div_ceil(KEY_TILE);
        let mut pages = self.seen_pages(seen, tiles.start);
        for tile in tiles.clone() {
            let next = match following {
                _ if tile + 1 < tiles.end => self.seen_pages(seen, tile + 1),
                Some((walk, seen)) => walk.seen_pages(seen, seen.start / KEY_TILE),
                None => Pages::default(),
            };
            for (page, at) in pages.iter().flatten() {
                self.score(scaled, page.keys, wide, &mut scores[*at..][..rows], page.values);
            }
            let count = visible(seen, tile).len();
            for (head, scores) in scores[..rows].chunks_exact_mut(KEY_TILE).enumerate() {
                let factor = self.soften(&mut scores[..count], &mut largest[head], &mut totals[head]);
                if factor != 1.0 {
                    kernels.scale(&mut sums[head * d..][..d], factor);
                }
            }
            for ((page, at), next) in pages.iter().flatten().zip(next) {
                let ahead = next.map_or(Cached::NOTHING, |(page, _)| page.keys);
                self.combine(&scores[*at..][..rows], page.values, wide, sums, ahead);
            }
            pages = next;
        }
    }

    /// Returns the pages of a tile, as far as it is seen: they are looked up once.
    fn seen_pages(&self, seen: &Range<usize>, tile: usize) -> Pages<'a> {
        let mut pages = Pages::default();
        pages.iter_mut().zip(self.pages(tile, visible(seen, tile))).for_each(|(to, page)| *to = Some(page));
        pages
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
