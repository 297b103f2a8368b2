//! Products with the matrices of feed-forward layers, tier beside tier, on all threads.
mod suite;
mod waves;

use std::{process::ExitCode, thread::available_parallelism};

use ruvlab_kernels::{
    Activations, Arena, Chunks, Claims, Format, Kernels, Matrix, Output, Pool, Precision, Tier, dequantize_row,
    quantize_row,
};
use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// All but the two that files may have and nothing here writes.
const FORMATS: [Format; 11] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
];
/// Rows and columns of each model's `gate_proj`, and the formats it is measured in: all on one shape.
/// (SmolLM2's 576 columns are no whole blocks of the k formats.)
const SHAPES: [(&str, usize, usize, &[Format]); 3] = [
    ("smollm2-135m", 1536, 576, &[Format::Q8_0, Format::Q4_1]),
    ("qwen2.5-1.5b", 8960, 1536, &FORMATS),
    ("qwen2.5-7b", 18_944, 3584, &[Format::Q8_0, Format::Q4K]),
];
/// More than any cache of the machines this runs on.
const SET_BYTES: usize = 160 << 20;
const CHUNK_ROWS: usize = 64;

/// As many copies of a matrix as no cache holds.
struct Set {
    format: Format,
    columns: usize,
    matrices: Vec<Matrix>,
    /// The bytes the rows were packed from.
    bytes: Vec<u8>,
}

impl Set {
    fn new(format: Format, rows: usize, columns: usize, set_bytes: usize) -> Self {
        let size = format.row_bytes(columns).expect("a whole number of blocks");
        let mut row = vec![0; size];
        quantize_row(format, &waves(columns), &mut row).expect("finite numbers");
        // Rows differ, so that a kernel that mixes them up is found out.
        let mut bytes = row.repeat(rows);
        for (index, row) in bytes.chunks_exact_mut(size).enumerate() {
            let at = index % (size / format.block_bytes()) * format.block_bytes();
            row.rotate_left(at);
            // A float's exponent is not to be touched: its value could be anything.
            if format.is_quantized() {
                row[at + format.block_bytes() / 2] ^= 1 << (index % 8);
            }
        }
        let packed = Matrix::packed_bytes(format, rows, columns).expect("a whole number of blocks");
        let copies = set_bytes.div_ceil(packed);
        let mut arena = Arena::with_capacity(copies * packed).expect("memory");
        let pack = |_| Matrix::pack(&mut arena, format, rows, columns, &bytes).expect("room in the arena");
        Self { format, columns, matrices: (0..copies).map(pack).collect(), bytes }
    }

    /// Panics unless products are near those of the numbers that the bytes stand for.
    fn verify(&self, x: &[f32], out: &[f32], name: &str, precision: Precision) {
        let rows = self.matrices[0].rows();
        let size = self.bytes.len() / rows;
        let mut weights = vec![0.0; self.columns];
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for row in (0..rows).step_by(89) {
            dequantize_row(self.format, &self.bytes[row * size..][..size], &mut weights);
            for (x, out) in x.chunks_exact(self.columns).zip(out.chunks_exact(rows)) {
                want.push(weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum());
                got.push(out[row]);
            }
        }
        let bound = if precision == Precision::Int8 { 5.0e-4 } else { 1.0e-7 };
        verify(name, &got, &want, bound);
    }

    /// Returns what products of all matrices with so many tokens move and compute. Bytes are those of
    /// the file's format: packing adds none that a product needs.
    fn work(&self, tokens: usize, threads: usize) -> Work {
        let (rows, count) = (self.matrices[0].rows(), self.matrices.len());
        let operations = 2 * count * tokens * rows * self.columns;
        let is_integer = self.format.is_quantized();
        Work {
            read: count * self.bytes.len() + tokens * self.columns * size_of::<f32>(),
            written: count * tokens * rows * size_of::<f32>(),
            float_operations: if is_integer { 0 } else { operations },
            integer_operations: if is_integer { operations } else { 0 },
            threads,
            ..Work::default()
        }
    }
}

/// One token: every weight is read once, so bytes are what counts.
fn decode(suite: &mut Suite, pool: &Pool, model: &str, set: &Set) {
    let rows = set.matrices[0].rows();
    let x = waves(set.columns);
    for kernels in tiers() {
        let (mut activations, mut claims, mut out) = (Activations::new(), Claims::new(), vec![0.0; rows]);
        activations.quantize(kernels, &x, 1, set.columns, set.matrices[0].activation_class());
        let mut product = |matrices: &[Matrix], out: &mut [f32]| {
            for matrix in matrices {
                let output = Output::new(out, 1, rows, &mut claims);
                pool.run(&|worker| {
                    kernels.matmul(matrix, &activations, &mut output.tile(matrix.share(worker, pool.threads())));
                });
            }
        };
        product(&set.matrices[..1], &mut out);
        let (tier, what) = (kernels.tier().name(), format!("{model}/{}", set.format));
        set.verify(&x, &out, &what, Precision::Int16);
        let work = set.work(1, pool.threads());
        suite.time("matmul_decode", tier, &what, work, || product(&set.matrices, &mut out));
    }
}

/// Portable code does not gain from a batch, and it is slow: fewer tokens tell the same.
fn prompt_tokens(kernels: &Kernels) -> usize {
    if kernels.tier() == Tier::Scalar { 16 } else { 128 }
}

/// A prompt: every weight is multiplied many times, so multiply-adds are what counts.
fn prefill(suite: &mut Suite, pool: &Pool, model: &str, set: &Set, precision: Precision) {
    let matrix = &set.matrices[0];
    // Codes of 8 bits are there for the tiers that gain from them.
    let gains =
        |kernels: &&Kernels| precision == Precision::Int16 || matches!(kernels.tier(), Tier::Avx2 | Tier::Avx512);
    for kernels in tiers().filter(gains) {
        let tokens = prompt_tokens(kernels);
        let x = waves(tokens * set.columns);
        let (mut activations, mut claims) = (Activations::with_precision(precision), Claims::new());
        let mut out = vec![0.0; tokens * matrix.rows()];
        activations.quantize(kernels, &x, tokens, set.columns, matrix.activation_class());
        let mut product = |out: &mut [f32]| {
            let output = Output::new(out, tokens, matrix.rows(), &mut claims);
            let chunks = Chunks::new(matrix.rows(), CHUNK_ROWS);
            pool.run(&|_| {
                while let Some(rows) = chunks.next() {
                    kernels.matmul(matrix, &activations, &mut output.tile(rows));
                }
            });
        };
        product(&mut out);
        let (tier, what) = (kernels.tier().name(), format!("{model}/{}", set.format));
        set.verify(&x, &out, &what, precision);
        let mut work = set.work(tokens, pool.threads());
        let group = if precision == Precision::Int8 {
            // Two products of bytes take the place of one.
            work.integer_operations /= 2;
            "matmul_prefill_int8"
        } else {
            "matmul_prefill"
        };
        suite.time(group, tier, &what, work, || product(&mut out));
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let pool = Pool::new(available_parallelism().map_or(1, usize::from)).expect("threads");
    for (model, rows, columns, formats) in SHAPES {
        for &format in formats {
            let set_bytes = if suite.is_timing() { SET_BYTES } else { 1 };
            decode(&mut suite, &pool, model, &Set::new(format, rows, columns, set_bytes));
            let set = Set::new(format, rows, columns, 1);
            prefill(&mut suite, &pool, model, &set, Precision::Int16);
            if format.is_quantized() {
                prefill(&mut suite, &pool, model, &set, Precision::Int8);
            }
        }
    }
    suite.finish()
}
