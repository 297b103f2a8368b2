//! The greatest logits, kept by each thread of those it computes, so that no position has all of them.
use std::ops::Range;

use ruvlab_kernels::{Claims, Output, Tile};

use super::products::room;
use crate::model::sampler::TopK;

/// Rows of the head that are computed before they are looked through: numbers that stay in a core's cache, and
/// so many that reading the weights, which starts over with each piece, does not notice.
const ROWS: usize = 16_384;

/// What a thread keeps.
#[derive(Default)]
pub(super) struct Selection {
    values: Vec<f32>,
    claims: Claims,
    lists: Vec<TopK>,
}

impl Selection {
    /// Forgets what was kept, to keep `k` logits of each of so many positions.
    pub(super) fn begin(&mut self, positions: usize, k: usize) {
        self.lists.iter_mut().for_each(|list| list.reset(k));
        self.lists.resize_with(positions, || TopK::new(k));
    }

    /// Keeps the greatest of what is computed for some rows of the head, a few at a time.
    pub(super) fn keep(&mut self, rows: Range<usize>, mut compute: impl FnMut(Range<usize>, &mut Tile<'_>)) {
        let positions = self.lists.len();
        for start in rows.clone().step_by(ROWS) {
            let some = start..(start + ROWS).min(rows.end);
            let values = room(&mut self.values, positions * some.len());
            let mut tile = Output::new(values, positions, some.len(), &mut self.claims).tile(0..some.len());
            compute(some, &mut tile);
            for (position, list) in self.lists.iter_mut().enumerate() {
                list.offer(start as u32, tile.token(position));
            }
        }
    }

    /// Adds what was kept to the lists of all threads.
    pub(super) fn merge_into(&self, lists: &mut [TopK]) {
        lists.iter_mut().zip(&self.lists).for_each(|(all, own)| all.merge(own));
    }
}
