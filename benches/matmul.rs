//! Products of the shapes of a 1.5B model, tier beside tier, as fractions of what the machine reads
//! and multiplies. Each result is verified before it is timed.
#![expect(clippy::print_stderr, reason = "a benchmark's report")]
use std::{hint::black_box, thread::available_parallelism, time::Duration};

use criterion::{
    BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, WallTime},
};
use ruvlab_kernels::{
    Activations, Arena, Chunks, Claims, Format, Kernels, MULTIPLY_ADDS_A_ROUND, Matrix, Output, Pool, Tier,
    dequantize_row, for_tier, quantize_row,
};

const ROWS: usize = 8960;
const COLUMNS: usize = 1536;
/// More than any cache of the machines this runs on.
const SET_BYTES: usize = 160 << 20;
const PROMPT_TOKENS: usize = 128;
const FORMATS: [Format; 9] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::F16,
];

/// A deterministic sequence that repeats nothing.
fn waves(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as f32) * 0.737).sin() + ((i % 8191) as f32 * 0.013).cos() * 0.3).collect()
}

/// As many copies of a matrix as no cache holds.
struct Set {
    format: Format,
    matrices: Vec<Matrix>,
    /// The bytes the first rows were packed from.
    bytes: Vec<u8>,
}

impl Set {
    fn new(format: Format, set_bytes: usize) -> Self {
        let size = format.row_bytes(COLUMNS).expect("a whole number of blocks");
        let mut row = vec![0; size];
        quantize_row(format, &waves(COLUMNS), &mut row).expect("finite numbers");
        // Rows differ, so that a kernel that mixes them up is found out.
        let mut bytes = row.repeat(ROWS);
        for (index, row) in bytes.chunks_exact_mut(size).enumerate() {
            let at = index % (size / format.block_bytes()) * format.block_bytes();
            row[at + format.block_bytes() / 2] ^= 1 << (index % 8);
        }
        let packed = Matrix::packed_bytes(format, ROWS, COLUMNS).expect("a whole number of blocks");
        let copies = set_bytes.div_ceil(packed);
        let mut arena = Arena::with_capacity(copies * packed).expect("memory");
        let pack = |_| Matrix::pack(&mut arena, format, ROWS, COLUMNS, &bytes).expect("room in the arena");
        Self { format, matrices: (0..copies).map(pack).collect(), bytes }
    }

    fn total_bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::bytes).sum()
    }

    /// Panics unless a product is near the one of the numbers that the bytes stand for.
    fn verify(&self, x: &[f32], out: &[f32], name: &str) {
        let size = self.bytes.len() / ROWS;
        let mut weights = vec![0.0; COLUMNS];
        let (mut error, mut power) = (0.0, 0.0);
        for row in (0..ROWS).step_by(89) {
            dequantize_row(self.format, &self.bytes[row * size..][..size], &mut weights);
            for (x, out) in x.chunks_exact(COLUMNS).zip(out.chunks_exact(ROWS)) {
                let want: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                error += (f64::from(out[row]) - want).powi(2);
                power += want * want;
            }
        }
        assert!(error <= 1.0e-7 * power, "{name}: NMSE {:e}", error / power);
    }
}

/// Returns the seconds of the fastest of some runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let once = |()| {
        let start = WallTime.start();
        run();
        WallTime.end(start).as_secs_f64()
    };
    [(); 12].map(once).into_iter().fold(f64::INFINITY, f64::min)
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The tiers that are for speed; `scalar` is what they must mean.
fn tiers() -> impl Iterator<Item = &'static Kernels> {
    Tier::ALL.into_iter().filter(|tier| *tier != Tier::Scalar).filter_map(for_tier)
}

/// One token: every weight is read once, so bytes are what counts.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul_decode");
    let pool = Pool::new(threads()).expect("threads");
    let x = waves(COLUMNS);
    for set in FORMATS.into_iter().map(|format| Set::new(format, SET_BYTES)) {
        for kernels in tiers() {
            let name = format!("{}/{}", kernels.tier().name(), set.format);
            let (mut activations, mut claims, mut out) = (Activations::new(), Claims::new(), vec![0.0; ROWS]);
            activations.quantize(kernels, &x, 1, COLUMNS, set.matrices[0].activation_class());
            let mut product = || {
                for matrix in &set.matrices {
                    let output = Output::new(&mut out, 1, ROWS, &mut claims);
                    pool.run(&|worker| {
                        kernels.matmul(matrix, &activations, &mut output.tile(matrix.share(worker, pool.threads())));
                    });
                }
            };
            product();
            let seconds = fastest(&mut product);
            let probe = fastest(|| {
                pool.run(&|worker| {
                    for matrix in &set.matrices {
                        black_box(kernels.read(matrix, matrix.share(worker, pool.threads())));
                    }
                });
            });
            let bytes = set.total_bytes();
            eprintln!(
                "{name}: {:.1} GB/s, {:.0} % of the {:.1} GB/s that reading alone reaches",
                bytes as f64 / seconds / 1.0e9,
                100.0 * probe / seconds,
                bytes as f64 / probe / 1.0e9
            );
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| bencher.iter(&mut product));
            set.verify(&x, &out, &name);
        }
    }
    group.finish();
}

/// A prompt: every weight is multiplied many times, so multiply-adds are what counts.
fn prefill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul_prefill");
    let pool = Pool::new(threads()).expect("threads");
    let x = waves(PROMPT_TOKENS * COLUMNS);
    for set in FORMATS.into_iter().map(|format| Set::new(format, 1)) {
        for kernels in tiers() {
            let name = format!("{}/{}", kernels.tier().name(), set.format);
            let (mut activations, mut claims) = (Activations::new(), Claims::new());
            let mut out = vec![0.0; PROMPT_TOKENS * ROWS];
            let matrix = &set.matrices[0];
            activations.quantize(kernels, &x, PROMPT_TOKENS, COLUMNS, matrix.activation_class());
            let mut product = || {
                let output = Output::new(&mut out, PROMPT_TOKENS, ROWS, &mut claims);
                let chunks = Chunks::new(ROWS, 64);
                pool.run(&|_| {
                    while let Some(rows) = chunks.next() {
                        kernels.matmul(matrix, &activations, &mut output.tile(rows));
                    }
                });
            };
            product();
            let seconds = fastest(&mut product);
            let rounds = 200_000;
            let probe = fastest(|| {
                pool.run(&|_| {
                    black_box(kernels.multiply_adds(rounds));
                });
            });
            let speed = (PROMPT_TOKENS * ROWS * COLUMNS) as f64 / pool.threads() as f64 / seconds;
            let most = (rounds * MULTIPLY_ADDS_A_ROUND) as f64 / probe;
            eprintln!(
                "{name}: {:.1} G multiply-adds a second and thread, {:.2} of the {:.1} G of f32 in registers",
                speed / 1.0e9,
                speed / most,
                most / 1.0e9
            );
            group.throughput(Throughput::Elements((PROMPT_TOKENS * ROWS * COLUMNS) as u64));
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| bencher.iter(&mut product));
            set.verify(&x, &out, &name);
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = decode, prefill
}
criterion_main!(benches);
