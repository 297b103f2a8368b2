//! Attention over cached keys and values, with memory that does not grow with their number.
//!
//! Keys are taken in tiles of [`KEY_TILE`] tokens. Weights are relative to the largest score so far;
//! when a tile holds a larger one, what was summed up is scaled down (Milakov and Gimelshein, arXiv
//! 1805.02867; Dao, arXiv 2307.08691). The walk over tiles is the same in every tier; a tier has the
//! products inside one. Where a tile lies in several pages its scores and sums are taken page by page,
//! in the order of the tokens, so that no result depends on the size of pages.
mod pages;
mod walk;

use crate::Kernels;
pub use pages::{Cached, CachedMut, CachedType, KeyValuePage, KeyValuePages};
use walk::Walk;

/// Tokens of a tile. Tile `i` of a sequence holds positions from `i * KEY_TILE` on.
pub const KEY_TILE: usize = 64;

/// Tokens a page has at least.
pub const SMALLEST_PAGE: usize = 8;

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
        let d = shape.head_dim;
        assert_eq!(queries.len(), out.len(), "attend: {} query values, room for {}", queries.len(), out.len());
        assert!(
            d > 0 && tokens > 0 && queries.len().is_multiple_of(tokens * d),
            "attend: no whole heads of {d} values"
        );
        assert!(shape.window != Some(0), "attend: a window of no tokens");
        let page = cached.page_tokens();
        assert!(
            page.is_power_of_two() && (SMALLEST_PAGE..=KEY_TILE).contains(&page),
            "attend: pages of {page} tokens (a power of two from {SMALLEST_PAGE} to {KEY_TILE} there can be)"
        );
        let walk = Walk { kernels: self, shape, group: queries.len() / (tokens * d), cached, page };
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
