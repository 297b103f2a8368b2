//! The matrix products of a phase, shared among threads.
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruvlab_kernels::{
    ActivationClass, Activations, AttentionScratch, Chunks, Kernels, Matrix, Output, Pool, Precision, Tile,
};

use super::{
    low_rank::{Additions, Following, LowRankScratch, Reduced},
    selection::Selection,
};
use crate::{
    engine::{HEAD_RANK, HeadRows},
    model::spec::Activation,
};

/// Up to so many rows (decoding), every thread prepares all inputs for itself, which is cheaper than
/// to wait for others, and takes an equal share of a matrix, whose weights then stay with its core.
/// Of more rows (prompts), inputs are prepared once, and shares handed out as threads ask for them.
pub(super) const FEW_ROWS: usize = 8;

/// Rows of a matrix that a thread takes at a time: what the kernels unpack together, once or twice.
const CHUNKS: [usize; 2] = [32, 64];
/// With so many of the larger chunks for each thread, it hardly counts that one waits for another at the end.
const MANY_CHUNKS: usize = 16;
/// Rows of inputs that a thread takes at a time.
const INPUT_CHUNK: usize = 8;
/// So many tokens before they are read, rows of a tile are fetched.
const FETCHED: usize = 3;

/// What a thread keeps for itself.
#[derive(Default)]
pub(super) struct Scratch {
    activations: [Activations; 2],
    pub(super) row: Vec<f32>,
    pub(super) queries: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) attention: AttentionScratch,
    low_rank: LowRankScratch,
    reduced: Reduced,
    pub(super) selection: Selection,
}

/// Makes a buffer at least so long, and returns that much of it.
pub(super) fn room(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// The threads, with all they need.
pub(super) struct Team {
    pub(super) kernels: &'static Kernels,
    pub(super) pool: Pool,
    scratch: Vec<Mutex<Scratch>>,
    activations: [Activations; 2],
    reduced: Reduced,
}

/// The rows that go into a product.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Their RMS norms; of those rows only, where some are named.
    Normed { stream: &'a [f32], weight: &'a [f32], eps: f32, rows: Option<&'a [u32]> },
}

impl<'a> Input<'a> {
    pub(super) fn row<'s>(self, kernels: &Kernels, index: usize, columns: usize, buffer: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::Plain(rows) => &rows[index * columns..][..columns],
            Self::Normed { stream, weight, eps, rows } => {
                let index = rows.map_or(index, |rows| rows[index] as usize);
                let out = room(buffer, columns);
                kernels.rms_norm(&stream[index * columns..][..columns], weight, eps, out);
                out
            }
        }
    }
}

/// What is done with the rows of a product where they were computed.
pub(super) enum Then<'a> {
    Nothing,
    /// Adds a bias.
    Bias(&'a [f32]),
    /// Takes the product as the gate of another one.
    Gate {
        up: &'a Matrix,
        output: &'a Output<'a>,
        activation: Activation,
    },
    /// Adds it to the stream.
    AddTo(&'a Output<'a>),
    /// Bends logits, and then adds to rows of them what A h of the row comes to.
    Head {
        soft_cap: Option<f32>,
        rows: &'a [(usize, Arc<HeadRows>)],
        projected: &'a [[f32; HEAD_RANK]],
    },
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(super) enum Destination<'a> {
    /// All of it here.
    Output(&'a Output<'a>),
    /// The greatest numbers of each row, into what the thread keeps; all of them here, too, where there is room.
    Selection(Option<&'a Output<'a>>),
}

/// A product `x Wᵀ`.
pub(super) struct Product<'a> {
    pub(super) matrix: &'a Matrix,
    pub(super) destination: Destination<'a>,
    pub(super) then: Then<'a>,
}

fn index(class: ActivationClass) -> usize {
    match class {
        ActivationClass::Float => 0,
        ActivationClass::Integer => 1,
    }
}

impl Product<'_> {
    fn needs(&self, class: ActivationClass) -> bool {
        let other = if let Then::Gate { up, .. } = &self.then { Some(up.activation_class()) } else { None };
        self.matrix.activation_class() == class || other == Some(class)
    }

    /// Computes some rows of product number `slot` of its group.
    fn compute(&self, kernels: &Kernels, slot: usize, from: Inputs<'_>, rows: Range<usize>, selection: &mut Selection) {
        if rows.is_empty() {
            return;
        }
        match self.destination {
            Destination::Output(output) => {
                self.fill(kernels, slot, from, rows.clone(), &mut output.tile(rows));
            }
            Destination::Selection(output) => {
                selection.keep(kernels, rows, output, |some, tile| self.fill(kernels, slot, from, some, tile));
            }
        }
    }

    /// Computes some rows into a tile of as many.
    fn fill(&self, kernels: &Kernels, slot: usize, from: Inputs<'_>, rows: Range<usize>, tile: &mut Tile<'_>) {
        let Inputs { activations, additions, reduced, following } = from;
        let of = |matrix: &Matrix| &activations[index(matrix.activation_class())];
        let ahead = additions.ahead(slot, rows.clone());
        kernels.matmul_fetching(self.matrix, rows.clone(), of(self.matrix), tile, ahead);
        let of_gate = if let Then::Gate { up, .. } = self.then { following.instead(up) } else { following };
        additions.add(kernels, reduced, slot, rows.clone(), tile, of_gate);
        match &self.then {
            Then::Nothing => {}
            Then::Bias(bias) => {
                (0..tile.tokens()).for_each(|token| kernels.add(tile.token(token), &bias[rows.clone()]));
            }
            Then::Head { soft_cap, rows: added, projected } => {
                if let Some(cap) = soft_cap {
                    (0..tile.tokens()).for_each(|token| kernels.soft_cap(tile.token(token), *cap));
                }
                for ((token, head), projected) in added.iter().zip(*projected) {
                    head.add(*projected, rows.start, tile.token(*token));
                }
            }
            Then::AddTo(stream) => {
                join(kernels, Kernels::add, &mut stream.tile(rows), tile);
            }
            Then::Gate { up, output, activation } => {
                let mut other = output.tile(rows.clone());
                let ahead = additions.ahead(slot + 1, rows.clone());
                kernels.matmul_fetching(up, rows.clone(), of(up), &mut other, ahead);
                additions.add(kernels, reduced, slot + 1, rows, &mut other, following);
                let gate = match activation {
                    Activation::Silu => Kernels::silu_gate,
                    Activation::GeluTanh => Kernels::gelu_tanh_gate,
                };
                join(kernels, gate, tile, &mut other);
            }
        }
    }
}

/// Changes each token's rows of a tile by those of another, while the rows of later tokens, which lie in pages of
/// their own, are brought near.
fn join(kernels: &Kernels, change: fn(&Kernels, &mut [f32], &[f32]), tile: &mut Tile<'_>, other: &mut Tile<'_>) {
    let tokens = tile.tokens();
    for token in 0..tokens {
        if token + FETCHED < tokens {
            kernels.fetch(tile.token(token + FETCHED));
            kernels.fetch(other.token(token + FETCHED));
        }
        change(kernels, tile.token(token), other.token(token));
    }
}

/// What products of a phase read.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    activations: &'a [Activations; 2],
    additions: Additions<'a>,
    reduced: &'a Reduced,
    following: Following<'a>,
}

const CLASSES: [ActivationClass; 2] = [ActivationClass::Float, ActivationClass::Integer];

impl Team {
    pub(super) fn new(kernels: &'static Kernels, precision: Precision, threads: usize) -> std::io::Result<Self> {
        let activations = || CLASSES.map(|_| Activations::with_precision(precision));
        let scratch = || Scratch {
            activations: activations(),
            low_rank: LowRankScratch::with_precision(precision),
            ..Scratch::default()
        };
        Ok(Self {
            kernels,
            pool: Pool::new(threads)?,
            scratch: (0..threads).map(|_| Mutex::new(scratch())).collect(),
            activations: activations(),
            reduced: Reduced::default(),
        })
    }

    /// Returns a thread's own; nobody else takes it, so there is nothing to wait for.
    pub(super) fn scratch(&self, worker: usize) -> MutexGuard<'_, Scratch> {
        self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something for each of `count` rows, on all threads where there are many.
    pub(super) fn each_row(&self, count: usize, job: &(dyn Fn(usize, &mut Scratch) + Sync)) {
        if count <= FEW_ROWS {
            let scratch = &mut self.scratch(0);
            return (0..count).for_each(|row| job(row, scratch));
        }
        let chunks = Chunks::new(count, INPUT_CHUNK);
        self.pool.run(&|worker| {
            let scratch = &mut self.scratch(worker);
            while let Some(rows) = chunks.next() {
                rows.for_each(|row| job(row, scratch));
            }
        });
    }

    /// Computes products that share their input of `rows` rows, with what adapters add to them.
    pub(super) fn multiply(
        &mut self,
        input: Input<'_>,
        rows: usize,
        columns: usize,
        products: &[Product<'_>],
        additions: Additions<'_>,
    ) {
        let classes = CLASSES.map(|class| products.iter().any(|product| product.needs(class)).then_some(class));
        if rows <= FEW_ROWS {
            self.multiply_few(input, rows, columns, products, classes, additions);
        } else {
            self.multiply_many(input, rows, columns, products, classes, additions);
        }
        for Product { matrix, then, .. } in products {
            matrix.release();
            if let Then::Gate { up, .. } = then {
                up.release();
            }
        }
    }

    fn multiply_few(
        &self,
        input: Input<'_>,
        rows: usize,
        columns: usize,
        products: &[Product<'_>],
        classes: [Option<ActivationClass>; 2],
        additions: Additions<'_>,
    ) {
        let (kernels, workers) = (self.kernels, self.pool.threads());
        self.pool.run(&|worker| {
            let Scratch { activations, row, low_rank, reduced, selection, .. } = &mut *self.scratch(worker);
            let shared = activations.each_mut();
            for (batch, class) in shared.into_iter().zip(classes) {
                let Some(class) = class else { continue };
                let batch = batch.shared(rows, columns, class);
                for index in 0..rows {
                    batch.quantize(kernels, index, input.row(kernels, index, columns, row));
                }
            }
            let prepared = [0, 1].map(|class| classes[class].map(|_| &activations[class]));
            let following = |at: usize| {
                let matrix = products.get(at).map(|product| product.matrix).or(additions.next);
                Following(matrix.map(|matrix| (matrix, worker, workers)))
            };
            for (run, (own, packed)) in additions.runs().enumerate() {
                let shared = reduced.run(run, own.len(), packed);
                let prepared = if own == (0..rows) { prepared } else { [None; 2] };
                let fill = &mut |slot: usize, row: usize, values: &[f32]| shared[slot].quantize(kernels, row, values);
                low_rank.reduce(kernels, input, columns, row, &prepared, packed, own, 0, following(0), fill);
            }
            for (slot, product) in products.iter().enumerate() {
                let from = Inputs { activations, additions, reduced, following: following(slot + 1) };
                let share = product.matrix.share(worker, workers);
                product.compute(kernels, slot, from, share, selection);
            }
        });
    }

    fn multiply_many(
        &mut self,
        input: Input<'_>,
        rows: usize,
        columns: usize,
        products: &[Product<'_>],
        classes: [Option<ActivationClass>; 2],
        additions: Additions<'_>,
    ) {
        let kernels = self.kernels;
        let mut activations = std::mem::take(&mut self.activations);
        for (batch, class) in activations.each_mut().into_iter().zip(classes) {
            let Some(class) = class else { continue };
            let batch = batch.shared(rows, columns, class);
            self.each_row(rows, &|index, Scratch { row, .. }| {
                batch.quantize(kernels, index, input.row(kernels, index, columns, row));
            });
        }
        let mut reduced = std::mem::take(&mut self.reduced);
        for (run, (rows, packed)) in additions.runs().enumerate() {
            let shared = reduced.run(run, rows.len(), packed);
            let chunks = Chunks::new(rows.len(), INPUT_CHUNK);
            self.pool.run(&|worker| {
                let Scratch { row, low_rank, .. } = &mut *self.scratch(worker);
                while let Some(Range { start, end }) = chunks.next() {
                    let rows = rows.start + start..rows.start + end;
                    low_rank.reduce(
                        kernels,
                        input,
                        columns,
                        row,
                        &[None; 2],
                        packed,
                        rows,
                        start,
                        Following(None),
                        &mut |slot, row, values| {
                            shared[slot].quantize(kernels, row, values);
                        },
                    );
                }
            });
        }
        let from = Inputs { activations: &activations, additions, reduced: &reduced, following: Following(None) };
        let all: usize = products.iter().map(|product| product.matrix.rows()).sum();
        let [few, many] = CHUNKS;
        let size = if all < MANY_CHUNKS * many * self.pool.threads() { few } else { many };
        let chunks_of = |product: &Product<'_>| product.matrix.rows().div_ceil(size);
        let chunks = Chunks::new(products.iter().map(chunks_of).sum(), 1);
        self.pool.run(&|worker| {
            let Scratch { selection, .. } = &mut *self.scratch(worker);
            while let Some(chunk) = chunks.next() {
                let mut number = chunk.start;
                for (slot, product) in products.iter().enumerate() {
                    if number < chunks_of(product) {
                        let start = number * size;
                        let rows = start..(start + size).min(product.matrix.rows());
                        product.compute(kernels, slot, from, rows, selection);
                        break;
                    }
                    number -= chunks_of(product);
                }
            }
        });
        self.activations = activations;
        self.reduced = reduced;
    }
}
