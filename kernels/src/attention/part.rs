//! Parts of a context: what each knows by itself, and how they become one.
use std::ops::Range;

use super::{AttentionScratch, AttentionShape, KEY_PART, KeyValuePages, Operand, PANEL, Product, walk::Walk};
use crate::Kernels;

/// Parts that are merged at once.
const MERGED: usize = 64;

/// Returns how many numbers hold what a part knows of G heads of D: the weighted sums `[G, D]`, the
/// largest scores `[G]` those are relative to and the sums of weights `[G]`, rounded up to a multiple
/// of eight so that threads can write parts side by side.
#[must_use]
pub fn part_values(head_dim: usize, group: usize) -> usize {
    (group * (head_dim + 2)).next_multiple_of(8)
}

/// Returns the positions of a part that are seen.
pub(super) fn clip(seen: &Range<usize>, part: usize) -> Range<usize> {
    seen.start.max(part * KEY_PART)..seen.end.min((part + 1) * KEY_PART)
}

/// Returns `ln Σ exp(score)`: negative infinity where nothing was seen.
pub(super) fn log_sum_exp(largest: f32, total: f32) -> f32 {
    if total == 0.0 { f32::NEG_INFINITY } else { largest + total.ln() }
}

/// A part of what a token sees.
#[derive(Clone, Copy)]
pub struct ContextPart<'a> {
    /// Keys and values of one key head.
    pub cached: &'a dyn KeyValuePages,
    /// Of the token.
    pub position: usize,
    /// The part is the keys from `index * KEY_PART` on, up to [`KEY_PART`] of them.
    pub index: usize,
}

impl<'a> ContextPart<'a> {
    /// Returns the walk over it, and which positions of it are seen.
    fn walk(self, kernels: &'a Kernels, shape: &'a AttentionShape, queries: &[f32]) -> (Walk<'a>, Range<usize>) {
        let walk = Walk::new(kernels, shape, queries, 1, self.cached);
        let seen = clip(&walk.seen(self.position), self.index);
        (walk, seen)
    }
}

impl AttentionShape {
    /// Returns the parts of a context that a query at `position` sees.
    #[must_use]
    pub fn parts(&self, position: usize) -> Range<usize> {
        let start = (position + 1).saturating_sub(self.window.unwrap_or(position + 1));
        start / KEY_PART..(position + 1).div_ceil(KEY_PART)
    }
}

impl Kernels {
    /// Writes what one part of a context contributes to one token. Memory is asked for what it reads while it
    /// computes, and at the end for what the part `following` it reads first: the one that this thread does next.
    ///
    /// [`Kernels::merge_parts`] of all parts in [`AttentionShape::parts`], in order, gives what
    /// [`Kernels::attend`] of the token gives, bit for bit.
    ///
    /// # Shapes
    ///
    /// `queries` is `[G, D]`; `out` is [`part_values`]. A part of which nothing is seen has sums of 0.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or as [`Kernels::attend`].
    pub fn attend_part(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        part: ContextPart<'_>,
        following: Option<ContextPart<'_>>,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let (walk, seen) = part.walk(self, shape, queries);
        assert_eq!(out.len(), part_values(shape.head_dim, walk.group), "attend_part: room for {}", out.len());
        let following = following.map(|part| part.walk(self, shape, &[]));
        walk.part(queries, &seen, following.as_ref().map(|(walk, seen)| (walk, seen)), scratch, out);
    }

    /// Writes the means that parts make together, and where asked the logarithms of their sums of
    /// exponentials.
    ///
    /// Of nothing seen in any part the mean is 0 and the logarithm negative infinity.
    ///
    /// # Shapes
    ///
    /// `parts` is one or more [`part_values`], `out` is `[G, D]`, `log_sum_exps` `[G]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn merge_parts(&self, head_dim: usize, parts: &[f32], out: &mut [f32], log_sum_exps: Option<&mut [f32]>) {
        merge(self, head_dim, parts, out, log_sum_exps);
    }
}

pub(super) fn merge(kernels: &Kernels, d: usize, parts: &[f32], out: &mut [f32], mut log_sum_exps: Option<&mut [f32]>) {
    let group = out.len() / d;
    let length = part_values(d, group);
    assert!(
        out.len() == group * d && !parts.is_empty() && parts.len().is_multiple_of(length),
        "merge: {} numbers are no whole parts of {group} heads of {d}",
        parts.len()
    );
    for (head, out) in out.chunks_exact_mut(d).enumerate() {
        let state = |part: &[f32]| (part[group * d + head], part[group * (d + 1) + head]);
        // NaN is left out of the largest: it comes through the totals.
        let largest = parts.chunks_exact(length).fold(f32::NEG_INFINITY, |most, part| most.max(state(part).0));
        let mut sum = 0.0;
        out.fill(0.0);
        for some in parts.chunks(MERGED * length) {
            let mut factors = [0.0; MERGED];
            let factors = &mut factors[..some.len() / length];
            // Where nothing was seen at all they stay 0: the difference of infinities would be NaN.
            if largest > f32::NEG_INFINITY {
                for (factor, part) in factors.iter_mut().zip(some.chunks_exact(length)) {
                    *factor = state(part).0;
                }
                (kernels.softmax.exponentials)(factors, largest);
            }
            for (factor, part) in factors.iter().zip(some.chunks_exact(length)) {
                sum += factor * state(part).1;
            }
            add_rows(kernels, factors, &some[head * d..], length, out);
        }
        if let Some(saved) = &mut log_sum_exps {
            saved[head] = log_sum_exp(largest, sum);
        }
        if sum != 0.0 {
            kernels.scale(out, 1.0 / sum);
        }
    }
}

/// Adds rows times their factors; rows are `stride` apart.
fn add_rows(kernels: &Kernels, factors: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    let (k, n) = (factors.len(), out.len());
    if n.is_multiple_of(PANEL) {
        let (factors, rows) = (Operand { values: factors, stride: k }, Operand { values: rows, stride });
        return (kernels.attention.multiply)(factors, rows, out, Product { m: 1, n, k, stride: n, accumulate: true });
    }
    for (factor, row) in factors.iter().zip(rows.chunks(stride)) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += factor * x;
        }
    }
}
