//! The matrix products of a phase, shared among threads.
use std::{
    cell::LazyCell,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruvlab_kernels::{ActivationClass, Activations, AttentionScratch, Chunks, Kernels, Pool, Precision};

use super::{
    exchange::Exchange,
    low_rank::{Additions, Following, LowRankScratch, Reduced},
    product::{Input, Inputs, Product, Then},
    selection::Selection,
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
    /// What A made of a row.
    narrow: Vec<f32>,
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
    exchange: Exchange,
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
            exchange: Exchange::default(),
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
        &mut self,
        input: Input<'_>,
        rows: usize,
        columns: usize,
        products: &[Product<'_>],
        classes: [Option<ActivationClass>; 2],
        additions: Additions<'_>,
    ) {
        let (kernels, workers) = (self.kernels, self.pool.threads());
        self.exchange.reset(additions, workers);
        let (team, exchange) = (&*self, &self.exchange);
        self.pool.run(&|worker| {
            let Scratch { activations, row, low_rank, reduced, narrow, selection, .. } = &mut *team.scratch(worker);
            let shared = activations.each_mut();
            for (batch, class) in shared.into_iter().zip(classes) {
                let Some(class) = class else { continue };
                let batch = batch.shared(rows, columns, class);
                for index in 0..rows {
                    batch.quantize(kernels, index, input.row(kernels, index, columns, row));
                }
            }
            let activations = &*activations;
            let prepared = [0, 1].map(|class| classes[class].map(|_| &activations[class]));
            let following = |at: usize| {
                let matrix = products.get(at).map(|product| product.matrix).or(additions.next);
                Following(matrix.map(|matrix| (matrix, worker, workers)))
            };
            let mut reduce = |worker: usize| {
                let mut start = 0;
                for (own, packed) in additions.runs() {
                    let (ranks, share) = (packed.ranks(), packed.share(worker, workers));
                    let prepared = if own == (0..rows) { prepared } else { [None; 2] };
                    let (count, of, next) = (own.len(), share.clone(), following(0));
                    let values = low_rank.reduce(kernels, input, columns, row, &prepared, packed, own, of, next);
                    exchange.put(start, ranks, share, values);
                    start += count * ranks;
                }
            };
            reduce(worker);
            exchange.arrive(worker);
            let reduced = LazyCell::new(move || {
                (0..workers).filter(|other| !exchange.wait(*other)).for_each(&mut reduce);
                exchange.hand_on(kernels, additions, narrow, reduced);
                &*reduced
            });
            for (slot, product) in products.iter().enumerate() {
                let from = Inputs { activations, additions, reduced: &reduced, following: following(slot + 1) };
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
                    let (count, ranks) = (rows.len(), packed.ranks());
                    let values = low_rank.reduce(
                        kernels,
                        input,
                        columns,
                        row,
                        &[None; 2],
                        packed,
                        rows,
                        0..ranks,
                        Following(None),
                    );
                    for (at, values) in (0..count).zip(values.chunks_exact_mut(ranks)) {
                        packed.hand_on(kernels, values, |slot, values| {
                            shared[slot].quantize(kernels, start + at, values);
                        });
                    }
                }
            });
        }
        let all: usize = products.iter().map(|product| product.matrix.rows()).sum();
        let [few, many] = CHUNKS;
        let size = if all < MANY_CHUNKS * many * self.pool.threads() { few } else { many };
        let chunks_of = |product: &Product<'_>| product.matrix.rows().div_ceil(size);
        let chunks = Chunks::new(products.iter().map(chunks_of).sum(), 1);
        self.pool.run(&|worker| {
            let Scratch { selection, .. } = &mut *self.scratch(worker);
            let reduced = &reduced;
            let from = Inputs { activations: &activations, additions, reduced: &&reduced, following: Following(None) };
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
