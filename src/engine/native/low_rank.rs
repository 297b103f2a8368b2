//! The products of a phase's rows with its adapters' matrices.
use std::{
    ops::Range,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread,
};

use ruvlab_kernels::{ActivationClass, Activations, Claims, Kernels, Output, Precision, SharedRows, Tile};

use super::{
    adapters::{Group, Packed, Run, SLOTS},
    products::{Input, room},
};

/// The adapters of the rows of a phase.
#[derive(Clone, Copy)]
pub(super) struct Additions<'a> {
    pub(super) runs: &'a [Run],
    pub(super) group: Group,
}

impl<'a> Additions<'a> {
    /// Returns the runs whose adapter adds to this group.
    pub(super) fn runs(self) -> impl Iterator<Item = (Range<usize>, &'a Packed)> {
        self.runs.iter().filter_map(move |(rows, adapter)| Some((rows.clone(), adapter.group(self.group)?)))
    }
}

/// `scale · (A x)` for each run and each matrix of the group.
#[derive(Default)]
pub(super) struct Reduced {
    all: Vec<[Activations; SLOTS]>,
}

impl Reduced {
    /// Makes room for a run and returns its rows, of each matrix of the group, to be filled in.
    pub(super) fn run(&mut self, run: usize, rows: usize, packed: &Packed) -> [SharedRows<'_>; SLOTS] {
        if self.all.len() <= run {
            self.all.resize_with(run + 1, Default::default);
        }
        let mut parts = packed.parts.iter();
        self.all[run].each_mut().map(|batch| {
            let rank = parts.next().and_then(|part| Some(part.as_ref()?.ranks.len())).unwrap_or(0);
            batch.shared(if rank == 0 { 0 } else { rows }, rank, ActivationClass::Float)
        })
    }

    fn of(&self, run: usize, slot: usize) -> &Activations {
        &self.all[run][slot]
    }
}

/// Hands what all rows of A made of one row of a run, `A x`, on to the matrices of the group.
pub(super) fn hand_on(kernels: &Kernels, packed: &Packed, values: &mut [f32], fill: &mut dyn FnMut(usize, &[f32])) {
    let (values, more) = values.split_at_mut(packed.a.rows() / packed.terms);
    for term in more.chunks_exact(values.len()) {
        kernels.add(values, term);
    }
    for (slot, part) in packed.parts.iter().enumerate() {
        let Some(part) = part else { continue };
        let values = &mut values[part.ranks.clone()];
        kernels.scale(values, part.scale);
        fill(slot, values);
    }
}

/// Looks for the others before a thread lets another one have its core.
const SPINS: u32 = 2000;

/// `A x` of few rows, which threads compute for each other: each its share of the rows of A, before its
/// share of the group's own matrices. When it is done with that, the others' part has long been there.
#[derive(Default)]
pub(super) struct Exchange {
    /// The bits of numbers: of each run `[rows, rows of A]`.
    values: Vec<AtomicU32>,
    arrived: AtomicUsize,
}

/// Tells that a thread has handed in all it has to, when it is dropped: also where it panics, so that
/// nobody waits for it.
pub(super) struct Arrival<'a>(&'a AtomicUsize);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Exchange {
    /// Makes room for so many numbers, with nobody arrived.
    pub(super) fn reset(&mut self, numbers: usize) {
        if self.values.len() < numbers {
            self.values.resize_with(numbers, AtomicU32::default);
        }
        *self.arrived.get_mut() = 0;
    }

    pub(super) fn arrival(&self) -> Arrival<'_> {
        Arrival(&self.arrived)
    }

    pub(super) fn put(&self, start: usize, values: &[f32]) {
        for (place, value) in self.values[start..].iter().zip(values) {
            place.store(value.to_bits(), Ordering::Relaxed);
        }
    }

    /// Waits for all threads.
    pub(super) fn wait(&self, workers: usize) {
        let mut spins = 0;
        while self.arrived.load(Ordering::Acquire) < workers {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }

    /// Copies numbers that are there.
    pub(super) fn get(&self, start: usize, values: &mut [f32]) {
        for (value, place) in values.iter_mut().zip(&self.values[start..]) {
            *value = f32::from_bits(place.load(Ordering::Relaxed));
        }
    }
}

/// What a thread needs for products with adapters.
#[derive(Default)]
pub(super) struct LowRankScratch {
    input: Activations,
    values: Vec<f32>,
    claims: Claims,
}

impl LowRankScratch {
    /// Returns one whose inputs are rounded as those of the matrices are.
    pub(super) fn with_precision(precision: Precision) -> Self {
        Self { input: Activations::with_precision(precision), ..Self::default() }
    }

    /// Multiplies some rows of a run with some rows of A, `[rows, of]`. `prepared` are these rows, and no
    /// others, where they are there already.
    #[expect(clippy::too_many_arguments, reason = "an input is its rows, their width and a buffer")]
    pub(super) fn multiply(
        &mut self,
        kernels: &Kernels,
        input: Input<'_>,
        columns: usize,
        row: &mut Vec<f32>,
        prepared: &[Option<&Activations>; 2],
        packed: &Packed,
        rows: Range<usize>,
        of: Range<usize>,
    ) -> &mut [f32] {
        let count = rows.len();
        let class = packed.a.activation_class();
        let prepared = prepared.iter().flatten().copied().find(|batch| batch.class() == class);
        let batch: &Activations = match prepared {
            Some(prepared) => prepared,
            None => {
                let batch = self.input.shared(count, columns, class);
                for (at, index) in rows.enumerate() {
                    batch.quantize(kernels, at, input.row(kernels, index, columns, row));
                }
                &self.input
            }
        };
        let values = room(&mut self.values, count * of.len());
        let mut out = Output::new(values, count, of.len(), &mut self.claims).tile(0..of.len());
        kernels.matmul_rows(&packed.a, of, batch, &mut out);
        values
    }

    /// Adds what B makes of them to the tile of one matrix of the group, and scales the rows of decomposed
    /// changes.
    pub(super) fn add(
        &mut self,
        kernels: &Kernels,
        additions: Additions<'_>,
        reduced: &Reduced,
        slot: usize,
        tile: &mut Tile<'_>,
    ) {
        let outputs = tile.rows();
        for (run, (rows, packed)) in additions.runs().enumerate() {
            let Some(part) = &packed.parts[slot] else { continue };
            let values = room(&mut self.values, rows.len() * outputs.len());
            let mut out = Output::new(values, rows.len(), outputs.len(), &mut self.claims).tile(0..outputs.len());
            kernels.matmul_rows(&part.b, outputs.clone(), reduced.of(run, slot), &mut out);
            for (row, values) in rows.zip(values.chunks_exact(outputs.len())) {
                let out = tile.token(row);
                kernels.add(out, values);
                if let Some(factors) = &part.factors {
                    out.iter_mut().zip(&factors[outputs.clone()]).for_each(|(y, factor)| *y *= factor);
                }
            }
        }
    }
}
