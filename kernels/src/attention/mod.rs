//! Attention over cached keys and values, with memory that does not grow with their number.
//!
//! Keys are taken in tiles of [`KEY_TILE`] tokens. Weights are relative to the largest score so far;
//! when a tile holds a larger one, what was summed up is scaled down (Milakov and Gimelshein, arXiv
//! 1805.02867; Dao, arXiv 2307.08691). The walk over tiles is the same in every tier; a tier has the
//! products inside one. Where a tile lies in several pages its scores and sums are taken page by page,
//! in the order of the tokens, so that no result depends on the size of pages.
//!
//! A single token's keys are taken in parts of [`KEY_PART`], each with a largest score and sums of its
//! own, which are merged in order: threads can share a long context and the result is the same.
mod few;
mod mass;
mod naive;
mod pages;
mod part;
mod walk;

use crate::Kernels;
pub(crate) use pages::widen_blocks;
pub use pages::{CacheType, Cached, CachedMut, KeyValuePage, KeyValuePages};
pub use part::{ContextPart, part_values};
use walk::Walk;

/// Tokens of a tile. Tile `i` of a sequence holds positions from `i * KEY_TILE` on.
pub const KEY_TILE: usize = 64;

/// Keys of a part, a whole number of tiles.
pub const KEY_PART: usize = 256;

/// Tokens a page has at least.
pub const SMALLEST_PAGE: usize = 8;

/// Tokens up to which each query row is taken by itself: repacking a tile's keys would not pay.
const FEW_TOKENS: usize = 3;

/// The functions a tier has. D is the head width; G query rows share keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionKernels {
    pub(crate) f32: TileKernels<f32>,
    pub(crate) f16: TileKernels<u16>,
    /// Of `q8_0`, `q5_1` and `q4_0`. Where there are none, blocks are widened first.
    pub(crate) blocks: Option<[BlockKernels; 3]>,
    /// Where there is none, rows are softened one by one with the functions of softmax, as parts of rows always are.
    pub(crate) soften: Option<Soften>,
    /// Writes cached blocks as f32, as [`crate::dequantize_row`] does.
    pub(crate) widen_blocks: fn(Cached<'_>, &mut [f32]),
    /// `c[m, n] = a[m, k] b[k, n]`, or added to it. Rows are `stride` apart; n is a multiple of
    /// [`PANEL`].
    pub(crate) multiply: fn(Operand<'_>, Operand<'_>, &mut [f32], Product),
}

/// Turns rows of scores, each [`KEY_TILE`] long of which so many count, to weights relative to the largest so far.
/// The last is what will be read next, as in [`TileKernels`].
pub(crate) type Soften = fn(&mut [f32], usize, Softening<'_>, Cached<'_>);

/// What is known of each of some rows.
pub(crate) struct Softening<'a> {
    /// The largest scores so far.
    pub(crate) largest: &'a mut [f32],
    /// The sums of weights relative to those.
    pub(crate) totals: &'a mut [f32],
    /// Where to write what the sums so far are to be multiplied by.
    pub(crate) factors: &'a mut [f32],
}

impl Softening<'_> {
    /// Returns what sums are multiplied by when the largest score changes. Until anything was seen they are 0.
    #[inline]
    pub(crate) fn factor(before: f32, largest: f32) -> f32 {
        if before == largest || before == f32::NEG_INFINITY { 1.0 } else { (before - largest).exp() }
    }
}

/// What reads a tile as it is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileKernels<T> {
    /// Writes keys `[n, D]` as `[D, KEY_TILE]` in f32.
    pub(crate) transpose: fn(&[T], usize, &mut [f32]),
    /// Writes values as f32.
    pub(crate) widen: fn(&[T], &mut [f32]),
    /// Writes `scores[g, t] = queries[g] · keys[t]`; rows of scores are [`KEY_TILE`] long. The last is what
    /// will be read next, which a tier may ask for meanwhile.
    pub(crate) scores: fn(&[f32], &[T], usize, &mut [f32], Cached<'_>),
    /// Adds `Σ weights[g, t] values[t]` to `sums[g]`; rows of weights are [`KEY_TILE`] long. The last as above.
    pub(crate) combine: fn(&[f32], &[T], usize, &mut [f32], Cached<'_>),
}

/// What reads blocks as they are cached, with the results of widening them first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockKernels {
    pub(crate) scores: fn(&[f32], &[u8], usize, &mut [f32], Cached<'_>),
    pub(crate) combine: fn(&[f32], &[u8], usize, &mut [f32], Cached<'_>),
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

/// Buffers of [`Kernels::attend`], which grow to what the largest call needs and are kept.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Of a page, widened.
    blocks: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    queries: Vec<f32>,
    largest: Vec<f32>,
    totals: Vec<f32>,
    factors: Vec<f32>,
    part: Vec<f32>,
}

impl AttentionScratch {
    /// Returns how many bytes the buffers have grown to.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Self { blocks, keys, values, scores, sums, queries, largest, totals, factors, part } = self;
        let buffers = [blocks, keys, values, scores, sums, queries, largest, totals, factors, part];
        buffers.into_iter().map(Vec::capacity).sum::<usize>() * size_of::<f32>()
    }
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
    /// If the lengths do not fit, the pages are of no size there is ([`KeyValuePages::page_tokens`]), a
    /// page has fewer tokens than are seen of it, or D is no multiple of 32 and a page's type needs one.
    #[expect(clippy::too_many_arguments, reason = "one of them holds buffers, so that nothing is allocated")]
    pub fn attend(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        cached: &dyn KeyValuePages,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        self.run(shape, queries, tokens, first, cached, scratch, out, None);
    }

    /// Does what [`Kernels::attend`] does, and writes the logarithm of each row's sum of exponentials,
    /// `ln Σ_s exp(score[s])`.
    ///
    /// # Shapes
    ///
    /// `log_sum_exps` is `[T, G]`.
    ///
    /// # Panics
    ///
    /// As [`Kernels::attend`].
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub fn attend_saving(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        cached: &dyn KeyValuePages,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        log_sum_exps: &mut [f32],
    ) {
        self.run(shape, queries, tokens, first, cached, scratch, out, Some(log_sum_exps));
    }

    #[expect(clippy::too_many_arguments, reason = "as above")]
    fn run(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        cached: &dyn KeyValuePages,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        mut log_sum_exps: Option<&mut [f32]>,
    ) {
        let d = shape.head_dim;
        assert_eq!(queries.len(), out.len(), "attend: {} query values, room for {}", queries.len(), out.len());
        let walk = Walk::new(self, shape, queries, tokens, cached);
        let group = walk.group;
        if let Some(saved) = &log_sum_exps {
            assert_eq!(saved.len(), tokens * group, "attend: room for {} sums of exponentials", saved.len());
        }
        if tokens <= FEW_TOKENS {
            let rows = queries.chunks_exact(group * d).zip(out.chunks_exact_mut(group * d));
            for (token, (queries, out)) in rows.enumerate() {
                let saved = log_sum_exps.as_mut().map(|all| &mut all[token * group..][..group]);
                walk.one_token(queries, first + token, scratch, out, saved);
            }
        } else {
            walk.many_tokens(queries, first, scratch, out, log_sum_exps);
        }
    }
}
