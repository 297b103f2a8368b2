#![allow(clippy::all, clippy::print_stdout)]
use ruvlab_kernels::*;
use std::{hint::black_box, time::Instant};
fn median(n: usize, mut run: impl FnMut()) -> f64 {
    let mut s: Vec<f64> = (0..n)
        .map(|_| {
            let t = Instant::now();
            run();
            t.elapsed().as_secs_f64()
        })
        .collect();
    s.sort_by(f64::total_cmp);
    s[n / 2]
}
fn main() {
    let k = active();
    let threads = 2;
    let pool = Pool::new(threads).unwrap();
    let p = median(5, || {
        pool.run(&|_| {
            black_box(k.multiply_add_pairs(4_000_000));
        });
    });
    println!("peak int16 {:.1} GMAC/s a core", 4e6 * 96.0 / p / 1e9);
    let only = std::env::args().nth(1).unwrap_or_default();
    for (rows, columns) in [(8960usize, 1536usize), (1536, 8960), (1536, 576)] {
        for format in [Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q4K, Format::Q6K] {
            if columns % format.block_values() != 0 || !format!("{format}").contains(&only) {
                continue;
            }
            let mut row = vec![0; format.row_bytes(columns).unwrap()];
            let wave: Vec<f32> = (0..columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
            quantize_row(format, &wave, &mut row).unwrap();
            let bytes = row.repeat(rows);
            let packed = Matrix::packed_bytes(format, rows, columns).unwrap();
            let copies = (400usize << 20).div_ceil(packed);
            let mut arena = Arena::with_capacity(copies * packed).unwrap();
            let ms: Vec<Matrix> = (0..copies)
                .map(|_| Matrix::pack_on(&pool, &mut arena, format, rows, columns, &bytes).unwrap())
                .collect();
            let mut claims = Claims::new();
            let mut line = format!("{format} {rows}x{columns}:");
            let read = median(5, || {
                for m in &ms {
                    pool.run(&|w| {
                        black_box(k.read(m, m.share(w, threads)));
                    })
                }
            });
            line += &format!(" read {:.1} GB/s", (copies * packed) as f64 / read / 1e9);
            let x: Vec<f32> = (0..256 * columns).map(|i| ((i * 41 % 103) as f32 - 51.0) / 100.0).collect();
            for precision in PRECISIONS {
                let mut a = NEW(precision);
                a.quantize(k, &x[..columns], 1, columns, ms[0].activation_class());
                let mut out = vec![0.0; 256 * rows];
                let one = median(5, || {
                    for m in &ms {
                        let o = Output::new(&mut out[..rows], 1, rows, &mut claims);
                        pool.run(&|w| k.matmul(m, &a, &mut o.tile(m.share(w, threads))));
                    }
                });
                line += &format!(", gemv {:.1} GB/s", (copies * packed) as f64 / one / 1e9);
                a.quantize(k, &x, 256, columns, ms[0].activation_class());
                let n = 8.min(copies);
                let many = median(5, || {
                    for m in &ms[..n] {
                        let o = Output::new(&mut out, 256, rows, &mut claims);
                        let c = Chunks::new(rows, 64);
                        pool.run(&|_| {
                            while let Some(r) = c.next() {
                                k.matmul(m, &a, &mut o.tile(r))
                            }
                        });
                    }
                });
                line += &format!(", gemm {:.1} GMAC/s a core", (n * rows * columns * 256) as f64 / many / 1e9 / 2.0);
            }
            println!("{line}");
        }
    }
}
const PRECISIONS: [Precision; 2] = [Precision::Int16, Precision::Int8];
#[allow(non_snake_case)]
fn NEW(p: Precision) -> Activations {
    Activations::with_precision(p)
}
