//! The products of a phase's rows with its adapters' matrices.
//!
//! A layer has as many rounds of the threads with an adapter as without: each thread computes all of `A x` for
//! itself, with the inputs it has prepared, and its own share of B. On all linears of SmolLM2-135M with r = 16 A has
//! 2.4 million numbers and B 2.5, of 16 bits each: 9.9 MB to read beside the 98 MB of its `q4_1` file, and 2.4 + 1.2
//! million products a thread beside 67. They lie in 330 short stretches, and whoever begins to read one waits for
//! memory first; so what is needed next is fetched while a matrix, which is long, is multiplied
//! ([`Additions::ahead`]), and while they are multiplied, memory is kept busy with where the next matrix begins
//! ([`Following`]).
use std::ops::Range;

use ruvlab_kernels::{
    ActivationClass, Activations, Ahead, Claims, Kernels, Matrix, Output, Precision, SharedRows, Tile,
};

use super::{
    adapters::Run,
    packed::{Group, Packed, SLOTS},
    products::{Input, room},
};

/// The adapters of the rows of a phase.
#[derive(Clone, Copy)]
pub(super) struct Additions<'a> {
    pub(super) runs: &'a [Run],
    pub(super) group: Group,
    /// The matrix that is read after the group's last.
    pub(super) next: Option<&'a Matrix>,
}

/// The matrix that is read after a product, and who reads it: a worker of so many; none where nobody knows.
#[derive(Clone, Copy)]
pub(super) struct Following<'a>(pub(super) Option<(&'a Matrix, usize, usize)>);

impl<'a> Following<'a> {
    /// Returns the same with another matrix.
    pub(super) fn instead(self, matrix: &'a Matrix) -> Self {
        Self(self.0.map(|(_, worker, workers)| (matrix, worker, workers)))
    }

    /// Returns what is fetched while so many bytes of an adapter are multiplied: as many of those that the worker
    /// begins with.
    fn beginning(self, bytes: usize) -> Ahead<'a> {
        self.0.map_or(Ahead::default(), |(matrix, worker, workers)| {
            Ahead::beginning(matrix, matrix.share(worker, workers), bytes)
        })
    }
}

impl<'a> Additions<'a> {
    /// Returns what is read after the group's matrix number `slot` was: these rows of its B, and after the first
    /// matrix, commonly the largest, the next group's A. Of several adapters, the first one's.
    pub(super) fn ahead(self, slot: usize, rows: Range<usize>) -> Ahead<'a> {
        let Some((_, adapter)) = self.runs.first() else { return Ahead::default() };
        let b = adapter.group(self.group).and_then(|packed| Some((&packed.parts[slot].as_ref()?.b, rows)));
        let next = self.group.next().filter(|_| slot == 0).and_then(|group| adapter.group(group));
        Ahead::of([b, next.map(|packed| (&packed.a, 0..packed.ranks()))])
    }

    /// Adds to a tile of one matrix of the group what B makes of `reduced`, and scales the rows of decomposed
    /// changes.
    pub(super) fn add(
        self,
        kernels: &Kernels,
        reduced: &Reduced,
        slot: usize,
        outputs: Range<usize>,
        tile: &mut Tile<'_>,
        following: Following<'_>,
    ) {
        for (run, (rows, packed)) in self.runs().enumerate() {
            let Some(part) = &packed.parts[slot] else { continue };
            let ahead = following.beginning(part.b.bytes_of(outputs.len()));
            kernels.matmul_adding(&part.b, outputs.clone(), reduced.of(run, slot), tile, rows.clone(), ahead);
            let Some(factors) = &part.factors else { continue };
            for row in rows {
                tile.token(row).iter_mut().zip(&factors[outputs.clone()]).for_each(|(y, factor)| *y *= factor);
            }
        }
    }

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

    /// Multiplies some rows of a run with A, and fills in the results: rows `first ..` of the run.
    /// `prepared` are these rows, and no others, where they are there already.
    #[expect(clippy::too_many_arguments, reason = "an input is its rows, their width and a buffer")]
    pub(super) fn reduce(
        &mut self,
        kernels: &Kernels,
        input: Input<'_>,
        columns: usize,
        row: &mut Vec<f32>,
        prepared: &[Option<&Activations>; 2],
        packed: &Packed,
        rows: Range<usize>,
        first: usize,
        following: Following<'_>,
        fill: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let (count, ranks) = (rows.len(), packed.ranks());
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
        let values = room(&mut self.values, count * ranks);
        let ahead = following.beginning(packed.a.bytes());
        let mut tile = Output::new(values, count, ranks, &mut self.claims).tile(0..ranks);
        kernels.matmul_fetching(&packed.a, 0..ranks, batch, &mut tile, ahead);
        for (at, values) in values.chunks_exact_mut(ranks).enumerate() {
            for (slot, part) in packed.parts.iter().enumerate() {
                let Some(part) = part else { continue };
                let values = &mut values[part.ranks.clone()];
                if let Some(choice) = &part.choice {
                    choice.apply(values);
                }
                kernels.scale(values, part.scale);
                fill(slot, first + at, values);
            }
        }
    }
}
