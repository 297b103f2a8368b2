//! What threads of a phase compute for each other.
use std::{
    hint,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use ruvlab_kernels::Kernels;

use super::{
    low_rank::{Additions, Reduced},
    products::room,
};

/// Looks for what another thread computes, before it is computed once more: that one may have lost its processor, or
/// come after this one, where one thread does the work of all.
const SPINS: usize = 2000;

/// `A x` of few rows: each thread computes it for its share of A's rows, and then its share of the group's first
/// matrix. When it is done with that, the others' results have long been there, so that nobody waits.
#[derive(Default)]
pub(super) struct Exchange {
    /// The bits of numbers: of each run `[rows, ranks]`.
    values: Vec<AtomicU32>,
    /// Whether a thread's are there.
    there: Vec<AtomicBool>,
}

impl Exchange {
    /// Makes room for what threads compute of a phase, with nothing there.
    pub(super) fn reset(&mut self, additions: Additions<'_>, workers: usize) {
        let numbers = additions.runs().map(|(rows, packed)| rows.len() * packed.ranks()).sum();
        if self.values.len() < numbers {
            self.values.resize_with(numbers, AtomicU32::default);
        }
        if self.there.len() < workers {
            self.there.resize_with(workers, AtomicBool::default);
        }
        self.there.iter_mut().for_each(|there| *there.get_mut() = false);
    }

    /// Puts some columns of a run's rows, `[rows, columns]`. `start` is where the run begins, which has so many ranks.
    pub(super) fn put(&self, start: usize, ranks: usize, columns: Range<usize>, values: &[f32]) {
        for (row, values) in values.chunks_exact(columns.len().max(1)).enumerate() {
            let places = &self.values[start + row * ranks..][columns.clone()];
            places.iter().zip(values).for_each(|(place, value)| place.store(value.to_bits(), Ordering::Relaxed));
        }
    }

    /// Says that all is there that a thread computes.
    pub(super) fn arrive(&self, worker: usize) {
        self.there[worker].store(true, Ordering::Release);
    }

    /// Waits for what a thread computes, and returns whether it is there; in vain only for so long as spinning costs
    /// less than to do without.
    pub(super) fn wait(&self, worker: usize) -> bool {
        let there = || self.there[worker].load(Ordering::Acquire);
        (0..SPINS).any(|_| {
            let there = there();
            if !there {
                hint::spin_loop();
            }
            there
        })
    }

    /// Hands what all threads have put on to the matrices of the group.
    pub(super) fn hand_on(
        &self,
        kernels: &Kernels,
        additions: Additions<'_>,
        buffer: &mut Vec<f32>,
        reduced: &mut Reduced,
    ) {
        let mut start = 0;
        for (run, (rows, packed)) in additions.runs().enumerate() {
            let shared = reduced.run(run, rows.len(), packed);
            for row in 0..rows.len() {
                let values = room(buffer, packed.ranks());
                for (value, place) in values.iter_mut().zip(&self.values[start..]) {
                    *value = f32::from_bits(place.load(Ordering::Relaxed));
                }
                packed.hand_on(kernels, values, |slot, values| shared[slot].quantize(kernels, row, values));
                start += packed.ranks();
            }
        }
    }
}
