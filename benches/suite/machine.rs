//! The ceilings: what this machine reads and multiplies at most, measured when first asked for.
use std::{collections::BTreeMap, hint::black_box};

use criterion::measurement::{Measurement, WallTime};
use ruvlab_kernels::{Arena, Format, MULTIPLY_ADDS_A_ROUND, Matrix, Pool, ROUNDS_AT_ONCE};

use super::tiers;

/// The working sets whose bandwidth is told apart: smaller ones are dominated by what surrounds a
/// probe, larger ones lie in memory as this does.
const WORKING_SETS: std::ops::RangeInclusive<usize> = 16 << 10..=128 << 20;
/// Bytes that a timing of the bandwidth reads at least, so that starting it does not count.
const BYTES_A_TIMING: usize = 16 << 20;
/// A probe is timed so often, and for so long at least: one that was held up all the while says nothing.
const TIMINGS: usize = 24;
const SECONDS: f64 = 0.06;

/// What multiply-adds are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Arithmetic {
    /// f32.
    Floats,
    /// 16-bit integers, added up in 32 bits.
    Integers,
}

/// This machine, as its fastest tier shows it.
#[derive(Default)]
pub(super) struct Machine {
    pools: BTreeMap<usize, Pool>,
    /// By threads and working set.
    bandwidths: BTreeMap<(usize, usize), f64>,
    multiply_adds: BTreeMap<(usize, Arithmetic), f64>,
}

/// Returns the seconds of the fastest of some runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let (mut least, mut spent, mut timings) = (f64::INFINITY, 0.0, 0);
    while timings < TIMINGS || spent < SECONDS {
        let start = WallTime.start();
        run();
        let seconds = WallTime.end(start).as_secs_f64();
        (least, spent, timings) = (least.min(seconds), spent + seconds, timings + 1);
    }
    least
}

impl Machine {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn pool(pools: &mut BTreeMap<usize, Pool>, threads: usize) -> &Pool {
        pools.entry(threads).or_insert_with(|| Pool::new(threads).expect("threads"))
    }

    /// Returns the bytes a second that so many threads read together, again and again, of a working
    /// set of at most this size: a smaller one may be nearer, and faster. With `again` it is measured
    /// once more, and the larger figure stays.
    pub(super) fn bandwidth(&mut self, threads: usize, working_set: usize, again: bool) -> f64 {
        let clamped = working_set.clamp(*WORKING_SETS.start(), *WORKING_SETS.end());
        let size = 1 << clamped.ilog2();
        let known = self.bandwidths.get(&(threads, size)).copied();
        if let Some(known) = known.filter(|_| !again) {
            return known;
        }
        let (rows, columns) = (size / 256, 64);
        let mut arena = Arena::with_capacity(size + (1 << 12)).expect("memory");
        let bytes = vec![1; size];
        let matrix = Matrix::pack(&mut arena, Format::F32, rows, columns, &bytes).expect("room in the arena");
        let pool = Self::pool(&mut self.pools, threads);
        let rounds = BYTES_A_TIMING.div_ceil(size);
        let seconds = tiers().map(|kernels| {
            fastest(|| {
                pool.run(&|worker| {
                    for _ in 0..rounds {
                        black_box(kernels.read(black_box(&matrix), matrix.share(worker, threads)));
                    }
                });
            })
        });
        let found = (rounds * size) as f64 / seconds.fold(f64::INFINITY, f64::min);
        let found = known.map_or(found, |known| known.max(found));
        self.bandwidths.insert((threads, size), found);
        found
    }

    /// Returns the multiply-adds a second that so many threads do together, `again` as above.
    pub(super) fn multiply_adds(&mut self, threads: usize, kind: Arithmetic, again: bool) -> f64 {
        let known = self.multiply_adds.get(&(threads, kind)).copied();
        if let Some(known) = known.filter(|_| !again) {
            return known;
        }
        let rounds = 100_000 * ROUNDS_AT_ONCE;
        let pool = Self::pool(&mut self.pools, threads);
        let seconds = tiers().map(|kernels| {
            fastest(|| {
                pool.run(&|_| match kind {
                    Arithmetic::Floats => _ = black_box(kernels.multiply_adds(black_box(rounds))),
                    Arithmetic::Integers => _ = black_box(kernels.multiply_add_pairs(black_box(rounds))),
                });
            })
        });
        let done = (threads * rounds * MULTIPLY_ADDS_A_ROUND) as f64;
        let found = done / seconds.fold(f64::INFINITY, f64::min);
        let found = known.map_or(found, |known| known.max(found));
        self.multiply_adds.insert((threads, kind), found);
        found
    }

    /// Returns what was measured, in words.
    pub(super) fn ceilings(&self) -> impl Iterator<Item = String> {
        let size = |bytes: usize| match bytes >> 20 {
            0 => format!("{} KiB", bytes >> 10),
            mebibytes => format!("{mebibytes} MiB"),
        };
        let read = self.bandwidths.iter().map(move |((threads, bytes), found)| {
            format!("{threads} threads read {:.1} GB/s of {}", found / 1.0e9, size(*bytes))
        });
        let multiplied = self.multiply_adds.iter().map(|((threads, kind), found)| {
            let what = if *kind == Arithmetic::Floats { "f32" } else { "16-bit integers" };
            format!("{threads} threads do {:.1} G multiply-adds of {what} a second", found / 1.0e9)
        });
        read.chain(multiplied)
    }
}
