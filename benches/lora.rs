//! Low-rank adapters: `y += scale · B (A x)` for one matrix of every layer, tier beside tier, on all
//! threads.
mod suite;
mod waves;

use std::{process::ExitCode, thread::available_parallelism};

use ruvlab_kernels::{
    Activations, Ahead, Arena, Claims, Format, Kernels, Matrix, Output, Pool, dequantize_row, matmul_pooled,
    quantize_row,
};
use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// Layers, inputs and outputs of each model's `down_proj`, the largest matrix an adapter sits on.
const SHAPES: [(&str, usize, usize, usize); 3] =
    [("smollm2-135m", 30, 1536, 576), ("qwen2.5-1.5b", 28, 8960, 1536), ("qwen2.5-7b", 28, 18_944, 3584)];
const RANKS: [usize; 2] = [4, 16];
const FORMATS: [Format; 2] = [Format::F32, Format::F16];
const PROMPT_TOKENS: usize = 128;
/// `lora_alpha / r`.
const SCALE: f32 = 2.0;

/// The adapter of one matrix, as an engine holds it.
struct Packed {
    /// `[r, I]`.
    a: Matrix,
    /// `[O, r]`.
    b: Matrix,
}

/// What an application of an adapter needs besides; reused from call to call.
struct Buffers {
    activations: Activations,
    claims: Claims,
    low: Vec<f32>,
}

impl Buffers {
    fn new(tokens: usize, rank: usize) -> Self {
        Self { activations: Activations::new(), claims: Claims::new(), low: vec![0.0; tokens * rank] }
    }
}

impl Packed {
    fn apply(&self, kernels: &Kernels, pool: &Pool, x: &[f32], tokens: usize, to: &mut Buffers, out: &mut [f32]) {
        let Buffers { activations, claims, low } = to;
        matmul_pooled(kernels, pool, &self.a, x, tokens, activations, claims, low);
        kernels.scale(low, SCALE);
        activations.quantize(kernels, low, tokens, self.b.columns(), self.b.activation_class());
        let (output, activations) = (Output::new(out, tokens, self.b.rows(), claims), &*activations);
        let workers = pool.threads();
        pool.run(&|worker| {
            let share = self.b.share(worker, workers);
            kernels.matmul_adding(
                &self.b,
                share.clone(),
                activations,
                &mut output.tile(share),
                0..tokens,
                Ahead::default(),
            );
        });
    }
}

/// Returns the bytes of numbers in a format, and the numbers they stand for.
fn stored(format: Format, values: &[f32], columns: usize) -> (Vec<u8>, Vec<f64>) {
    let size = format.row_bytes(columns).expect("floats have rows of any length");
    let (mut bytes, mut wide) = (vec![0; values.len() / columns * size], vec![0.0; values.len()]);
    let rows = values.chunks_exact(columns).zip(bytes.chunks_exact_mut(size)).zip(wide.chunks_exact_mut(columns));
    for ((row, bytes), wide) in rows {
        quantize_row(format, row, bytes).expect("finite numbers");
        dequantize_row(format, bytes, wide);
    }
    (bytes, wide.into_iter().map(f64::from).collect())
}

/// Adapters of all layers; one stands for all of a kind, so that what it computes is known.
struct Adapters {
    layers: Vec<Packed>,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Adapters {
    fn new(format: Format, count: usize, inputs: usize, outputs: usize, rank: usize) -> Self {
        let (a_bytes, a) = stored(format, &waves(rank * inputs), inputs);
        let (b_bytes, b) = stored(format, &waves(outputs * rank), rank);
        let packed = |rows, columns| Matrix::packed_bytes(format, rows, columns).expect("a shape");
        let room = count * (packed(rank, inputs) + packed(outputs, rank));
        let mut arena = Arena::with_capacity(room).expect("memory");
        let mut pack =
            |rows, columns, bytes: &[u8]| Matrix::pack(&mut arena, format, rows, columns, bytes).expect("room");
        let layer = |_| Packed { a: pack(rank, inputs, &a_bytes), b: pack(outputs, rank, &b_bytes) };
        Self { layers: (0..count).map(layer).collect(), a, b }
    }

    /// Returns `y + scale B (A x)` of one token, in f64.
    fn oracle(&self, x: &[f32], y: &[f32]) -> Vec<f64> {
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let low: Vec<f64> = self.a.chunks_exact(x.len()).map(|row| dot(row, &x)).collect();
        let rows = self.b.chunks_exact(low.len()).zip(y);
        rows.map(|(row, y)| f64::from(*y) + f64::from(SCALE) * dot(row, &low)).collect()
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let threads = available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(threads).expect("threads");
    for (model, layers, inputs, outputs) in SHAPES {
        for rank in RANKS {
            for format in FORMATS {
                // A token goes through all layers, whose adapters no near cache holds; a prompt reads
                // an adapter once for many tokens, so one layer tells the same as all.
                for (phase, tokens, layers) in [("lora_decode", 1, layers), ("lora_prefill", PROMPT_TOKENS, 1)] {
                    let adapters = Adapters::new(format, layers, inputs, outputs, rank);
                    let (x, y) = (waves(tokens * inputs), waves(tokens * outputs));
                    let value = size_of::<f32>();
                    let weights = format.row_bytes(rank * (inputs + outputs)).expect("floats");
                    let work = Work {
                        read: layers * weights + tokens * (inputs + outputs) * value,
                        written: tokens * outputs * value,
                        float_operations: layers * tokens * (2 * rank * (inputs + outputs) + outputs + rank),
                        threads,
                        ..Work::default()
                    };
                    for kernels in tiers() {
                        let mut buffers = Buffers::new(tokens, rank);
                        let mut out = y.clone();
                        adapters.layers[layers - 1].apply(kernels, &pool, &x, tokens, &mut buffers, &mut out);
                        for token in [0, tokens - 1] {
                            let (x, y) = (&x[token * inputs..][..inputs], &y[token * outputs..][..outputs]);
                            let got = &out[token * outputs..][..outputs];
                            verify(phase, got, &adapters.oracle(x, y), 1.0e-9);
                        }
                        let what = format!("{model}/r{rank} {format}");
                        suite.time(phase, kernels.tier().name(), &what, work, || {
                            out.copy_from_slice(&y);
                            for adapter in &adapters.layers {
                                adapter.apply(kernels, &pool, &x, tokens, &mut buffers, &mut out);
                            }
                        });
                    }
                }
            }
        }
    }
    suite.finish()
}
