//! Prints what the machine reads and multiplies, as JSON: the limits that products are held against.
//!
//! `cargo run --release -p ruvlab-kernels --example probe [THREADS]`
#![expect(clippy::print_stdout, reason = "a program's output")]
use std::{hint::black_box, thread::available_parallelism};

use criterion::measurement::{Measurement, WallTime};
use ruvlab_kernels::{Arena, Format, MULTIPLY_ADDS_A_ROUND, Matrix, Pool, active};

/// A matrix that no cache holds.
const ROWS: usize = 16 * 8960;
const COLUMNS: usize = 1536;
const ROUNDS: usize = 1_000_000;

/// Returns the median seconds of some runs.
fn median(mut run: impl FnMut()) -> f64 {
    let mut seconds = [0.0; 15];
    for seconds in &mut seconds {
        let start = WallTime.start();
        run();
        *seconds = WallTime.end(start).as_secs_f64();
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    let threads = std::env::args().nth(1).map(|count| count.parse().expect("a number of threads"));
    let threads = threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let (kernels, pool) = (active(), Pool::new(threads).expect("threads"));
    let packed = Matrix::packed_bytes(Format::Q8_0, ROWS, COLUMNS).expect("a whole number of blocks");
    let mut arena = Arena::with_capacity(packed).expect("memory");
    // Written, not only reserved: pages that nobody has written to are all one page of zeros.
    let bytes = vec![1; Format::Q8_0.row_bytes(COLUMNS).expect("a whole number of blocks") * ROWS];
    let matrix = Matrix::pack_on(&pool, &mut arena, Format::Q8_0, ROWS, COLUMNS, &bytes).expect("room");
    drop(bytes);
    let read = median(|| {
        pool.run(&|worker| {
            black_box(kernels.read(&matrix, matrix.share(worker, threads)));
        });
    });
    let multiply = median(|| {
        pool.run(&|_| {
            black_box(kernels.multiply_adds(ROUNDS));
        });
    });
    let multiply_pairs = median(|| {
        pool.run(&|_| {
            black_box(kernels.multiply_add_pairs(ROUNDS));
        });
    });
    let products = (threads * ROUNDS * MULTIPLY_ADDS_A_ROUND) as f64;
    println!(
        "{{\"tier\": \"{}\", \"threads\": {threads}, \"read_bytes_per_s\": {:.0}, \"f32_multiply_adds_per_s\": {:.0}, \
         \"integer_multiply_adds_per_s\": {:.0}}}",
        kernels.tier().name(),
        matrix.bytes() as f64 / read,
        products / multiply,
        products / multiply_pairs
    );
}
