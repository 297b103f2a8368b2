//! The greatest logits, kept by each thread of those it computes, so that no position has all of them.
use std::ops::Range;

use ruvlab_kernels::{Claims, Kernels, Output, Tile};

use super::products::room;
use crate::model::sampler::TopK;

/// Rows of the head that are computed before they are looked through: numbers that stay in a core's cache.
const ROWS: usize = 4096;

/// What a thread keeps.
#[derive(Default)]
pub(super) struct Selection {
    values: Vec<f32>,
    claims: Claims,
    lists: Vec<TopK>,
    /// `ln Σ exp` of what was looked through, of each position; none where nobody asks.
    normalisers: Vec<f64>,
}

/// Returns `ln (exp a + exp b)`; NaN where one is.
fn log_sum(a: f64, b: f64) -> f64 {
    let (high, low) = if b > a { (b, a) } else { (a, b) };
    // Of two infinities there is no difference.
    if high.is_infinite() && !low.is_nan() { high } else { high + (low - high).exp().ln_1p() }
}

impl Selection {
    /// Forgets what was kept, to keep `k` logits of each of so many positions, and their normalisers where asked.
    pub(super) fn begin(&mut self, positions: usize, k: usize, normalise: bool) {
        self.normalisers.clear();
        self.normalisers.resize(if normalise { positions } else { 0 }, f64::NEG_INFINITY);
        self.lists.iter_mut().for_each(|list| list.reset(k));
        self.lists.resize_with(positions, || TopK::new(k));
    }

    /// Keeps the greatest of what is computed for some rows of the head, a few at a time, and leaves all of it in
    /// `output`, where there is one.
    pub(super) fn keep(
        &mut self,
        kernels: &Kernels,
        rows: Range<usize>,
        output: Option<&Output<'_>>,
        mut compute: impl FnMut(Range<usize>, &mut Tile<'_>),
    ) {
        let positions = self.lists.len();
        for start in rows.clone().step_by(ROWS) {
            let some = start..(start + ROWS).min(rows.end);
            let mut tile = match output {
                Some(output) => output.tile(some.clone()),
                None => {
                    let values = room(&mut self.values, positions * some.len());
                    Output::new(values, positions, some.len(), &mut self.claims).tile(0..some.len())
                }
            };
            compute(some, &mut tile);
            for (position, list) in self.lists.iter_mut().enumerate() {
                list.offer(start as u32, tile.token(position));
            }
            for (position, normaliser) in self.normalisers.iter_mut().enumerate() {
                let logits = tile.token(position);
                let more = match self.lists[position].entries().ok().and_then(<[_]>::first) {
                    Some((_, largest)) => f64::from(*largest) + kernels.exponential_sum(logits, *largest).ln(),
                    None => kernels.log_sum_exp_f32(logits),
                };
                *normaliser = log_sum(*normaliser, more);
            }
        }
    }

    /// Adds what was kept to the lists and normalisers of all threads.
    pub(super) fn merge_into(&self, lists: &mut [TopK], normalisers: &mut [f64]) {
        lists.iter_mut().zip(&self.lists).for_each(|(all, own)| all.merge(own));
        normalisers.iter_mut().zip(&self.normalisers).for_each(|(all, own)| *all = log_sum(*all, *own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_exponentials_are_added_whatever_they_are() {
        let none = f64::NEG_INFINITY;
        assert!((log_sum(3.0f64.ln(), 4.0f64.ln()) - 7.0f64.ln()).abs() <= 1e-15);
        assert!((log_sum(-900.0, -901.0) + 900.0 - (-1.0f64).exp().ln_1p()).abs() <= 1e-12);
        assert_eq!([log_sum(none, 2.0), log_sum(2.0, none), log_sum(none, none)], [2.0, 2.0, none]);
        assert_eq!(log_sum(f64::INFINITY, 1.0), f64::INFINITY);
        assert!(log_sum(f64::NAN, 1.0).is_nan() && log_sum(1.0, f64::NAN).is_nan());
        assert!(log_sum(f64::NAN, none).is_nan() && log_sum(none, f64::NAN).is_nan());
    }
}
