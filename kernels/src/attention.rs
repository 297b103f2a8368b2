//! Attention over cached keys and values, with memory that does not grow with their number.
//!
//! Keys come in tiles of [`KEY_TILE`] tokens. Weights are relative to the largest score so far; when
//! a tile holds a larger one, what was summed up is scaled down (Milakov and Gimelshein, arXiv
//! 1805.02867; Dao, arXiv 2307.08691). The walk over tiles is the same in every tier; a tier has the
//! products inside one.
use std::ops::Range;

use crate::Kernels;

/// Tokens of a tile. Tile `i` of a sequence holds positions from `i * KEY_TILE` on.
pub const KEY_TILE: usize = 64;

/// Tokens up to which each query row is taken by itself: repacking a tile's keys would not pay.
const FEW_TOKENS: usize = 3;

/// The functions a tier has. D is the head width; G query rows share keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionKernels {
    pub(crate) f32: TileKernels<f32>,
    pub(crate) f16: TileKernels<u16>,
    /// `c[m, n] = a[m, k] b[k, n]`, or added to it. Rows are `stride` apart; n is a multiple of
    /// [`PANEL`].
    pub(crate) multiply: fn(Operand<'_>, Operand<'_>, &mut [f32], Product),
}

/// What reads a tile as it is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileKernels<T> {
    /// Writes keys `[n, D]` as `[D, KEY_TILE]` in f32.
    pub(crate) transpose: fn(&[T], usize, &mut [f32]),
    /// Writes values as f32.
    pub(crate) widen: fn(&[T], &mut [f32]),
    /// Writes `scores[g, t] = queries[g] · keys[t]`; rows of scores are [`KEY_TILE`] long.
    pub(crate) scores: fn(&[f32], &[T], usize, &mut [f32]),
    /// Adds `Σ weights[g, t] values[t]` to `sums[g]`; rows of weights are [`KEY_TILE`] long.
    pub(crate) combine: fn(&[f32], &[T], usize, &mut [f32]),
}

/// The columns of a product come in multiples of this.
pub(crate) const PANEL: usize = 16;

/// A matrix in memory.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

/// The shape of a product.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Of the result's rows.
    pub(crate) stride: usize,
    pub(crate) accumulate: bool,
}

/// How the heads of a layer attend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// D.
    pub head_dim: usize,
    /// What scores are multiplied by, `1/√D` in most models.
    pub scale: f32,
    /// Keeps scores inside ±cap by `cap · tanh(score / cap)`, before the mask.
    pub soft_cap: Option<f32>,
    /// How many tokens a query sees, itself included; all before it without one.
    pub window: Option<usize>,
}

/// Numbers as they are cached; f16 as its bits.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Cached<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

/// Keys and values of one key head in one tile.
///
/// # Shapes
///
/// Both are `[n, D]` with n up to [`KEY_TILE`].
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "described above")]
pub struct KeyValueTile<'a> {
    pub keys: Cached<'a>,
    pub values: Cached<'a>,
}

/// The cached keys and values of one key head of one sequence.
pub trait KeyValueTiles {
    /// Returns the tile of positions from `index * KEY_TILE` on, with at least the tokens any query
    /// may see of it.
    fn tile(&self, index: usize) -> KeyValueTile<'_>;
}

/// Buffers of [`Kernels::attend`], which grow to what the largest call needs and are kept.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    queries: Vec<f32>,
    largest: Vec<f32>,
    totals: Vec<f32>,
}

fn room(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

impl Kernels {
    /// Writes, for each query row, the mean of the values it sees, weighted by the softmax of its
    /// scores: `out[q] = Σ_s softmax_s(scale · query · key[s]) value[s]`.
    ///
    /// A query at position p sees positions up to p, and with a window only the last `window` of
    /// them.
    ///
    /// # Shapes
    ///
    /// `queries` and `out` are `[T, G, D]`: T tokens at positions from `first` on, and the G query
    /// heads that share the key head of `cached`.
    ///
    /// # Numerics
    ///
    /// Products and sums are f32. A head's result depends neither on G nor on how heads are shared
    /// among threads. NaN among the values of a token reaches every query that is handled in one call
    /// with one that sees it.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or a tile has fewer tokens than are seen of it.
    #[expect(clippy::too_many_arguments, reason = "one of them holds buffers, so that nothing is allocated")]
    pub fn attend(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        cached: &dyn KeyValueTiles,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let d = shape.head_dim;
        assert_eq!(queries.len(), out.len(), "attend: {} query values, room for {}", queries.len(), out.len());
        assert!(
            d > 0 && tokens > 0 && queries.len().is_multiple_of(tokens * d),
            "attend: no whole heads of {d} values"
        );
        assert!(shape.window != Some(0), "attend: a window of no tokens");
        let walk = Walk { kernels: self, shape, group: queries.len() / (tokens * d), cached };
        if tokens <= FEW_TOKENS {
            for (token, (queries, out)) in
                queries.chunks_exact(walk.group * d).zip(out.chunks_exact_mut(walk.group * d)).enumerate()
            {
                walk.one_token(queries, first + token, scratch, out);
            }
        } else {
            walk.many_tokens(queries, first, scratch, out);
        }
    }
}

struct Walk<'a> {
    kernels: &'a Kernels,
    shape: &'a AttentionShape,
    /// G.
    group: usize,
    cached: &'a dyn KeyValueTiles,
}

impl Walk<'_> {
    /// Returns the positions a query sees.
    fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.shape.window.map_or(0, |window| end.saturating_sub(window))..end
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

    fn one_token(&self, queries: &[f32], position: usize, scratch: &mut AttentionScratch, out: &mut [f32]) {
        let (kernels, d, seen) = (self.kernels, self.shape.head_dim, self.seen(position));
        let scaled = room(&mut scratch.queries, queries.len());
        scaled.copy_from_slice(queries);
        kernels.scale(scaled, self.shape.scale);
        let largest = room(&mut scratch.largest, self.group);
        let totals = room(&mut scratch.totals, self.group);
        let scores = room(&mut scratch.scores, self.group * KEY_TILE);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        out.fill(0.0);
        for tile in seen.start / KEY_TILE..seen.end.div_ceil(KEY_TILE) {
            let visible = visible(&seen, tile);
            let range = visible.start * d..visible.end * d;
            let count = visible.len();
            let KeyValueTile { keys, values } = self.cached.tile(tile);
            match keys {
                Cached::F32(keys) => (kernels.attention.f32.scores)(scaled, &keys[range.clone()], d, scores),
                Cached::F16(keys) => (kernels.attention.f16.scores)(scaled, &keys[range.clone()], d, scores),
            }
            for (head, scores) in scores.chunks_exact_mut(KEY_TILE).enumerate() {
                let factor = self.soften(&mut scores[..count], &mut largest[head], &mut totals[head]);
                if factor != 1.0 {
                    kernels.scale(&mut out[head * d..][..d], factor);
                }
            }
            match values {
                Cached::F32(values) => (kernels.attention.f32.combine)(scores, &values[range], d, out),
                Cached::F16(values) => (kernels.attention.f16.combine)(scores, &values[range], d, out),
            }
        }
        for (out, total) in out.chunks_exact_mut(d).zip(totals) {
            kernels.scale(out, 1.0 / *total);
        }
    }

    fn many_tokens(&self, queries: &[f32], first: usize, scratch: &mut AttentionScratch, out: &mut [f32]) {
        let (kernels, d, rows) = (self.kernels, self.shape.head_dim, queries.len() / self.shape.head_dim);
        let wide = d.next_multiple_of(PANEL);
        let position = |row: usize| first + row / self.group;
        let scaled = room(&mut scratch.queries, queries.len());
        scaled.copy_from_slice(queries);
        kernels.scale(scaled, self.shape.scale);
        let keys = room(&mut scratch.keys, d * KEY_TILE);
        let values = room(&mut scratch.values, KEY_TILE * wide);
        let scores = room(&mut scratch.scores, rows * KEY_TILE);
        let sums = room(&mut scratch.sums, rows * wide);
        let largest = room(&mut scratch.largest, rows);
        let totals = room(&mut scratch.totals, rows);
        largest.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        sums.fill(0.0);
        let (start, end) = (self.seen(first).start, self.seen(position(rows - 1)).end);
        for tile in start / KEY_TILE..end.div_ceil(KEY_TILE) {
            self.unpack(tile, (end - tile * KEY_TILE).min(KEY_TILE), keys, values);
            // Rows whose last position is before this tile see nothing of it: they come first.
            let skipped = (tile * KEY_TILE).saturating_sub(first) * self.group;
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
                scores[..visible.start].fill(0.0);
                scores[visible.end..].fill(0.0);
                if visible.is_empty() {
                    continue;
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
        for ((out, sums), total) in out.chunks_exact_mut(d).zip(sums.chunks_exact(wide)).zip(totals) {
            out.copy_from_slice(&sums[..d]);
            kernels.scale(out, 1.0 / *total);
        }
    }

    /// Writes the first `count` tokens of a tile as keys `[D, KEY_TILE]` and values
    /// `[KEY_TILE, wide]`, with zeros for the others: their weights are 0, and 0 times what an
    /// earlier tile left there could be NaN.
    fn unpack(&self, tile: usize, count: usize, keys: &mut [f32], values: &mut [f32]) {
        let (attention, d) = (&self.kernels.attention, self.shape.head_dim);
        let wide = values.len() / KEY_TILE;
        if count < KEY_TILE || wide > d {
            keys.fill(0.0);
            values.fill(0.0);
        }
        let tile = self.cached.tile(tile);
        match tile.keys {
            Cached::F32(k) => (attention.f32.transpose)(&k[..count * d], d, keys),
            Cached::F16(k) => (attention.f16.transpose)(&k[..count * d], d, keys),
        }
        match tile.values {
            Cached::F32(v) => spread(attention.f32.widen, &v[..count * d], d, values, wide),
            Cached::F16(v) => spread(attention.f16.widen, &v[..count * d], d, values, wide),
        }
    }
}

/// Returns the part of a tile that is seen, relative to its first token.
fn visible(seen: &Range<usize>, tile: usize) -> Range<usize> {
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
