//! The library's kernels, tier beside tier. Each result is verified before it is timed.
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ruvlab_kernels::{Tier, for_tier};

fn log_sum_exp(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_sum_exp_f32");
    for size in [4096usize, 49_152, 151_936] {
        let logits: Vec<f32> = (0..size).map(|i| ((i as f32) * 0.737).sin() * 12.0).collect();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).sum();
        let want = f64::from(largest) + sum.ln();
        for kernels in Tier::ALL.into_iter().filter_map(for_tier) {
            let got = kernels.log_sum_exp_f32(&logits);
            assert!((got - want).abs() <= 1.0e-6, "{}: got {got}, want {want}", kernels.tier().name());
            group.throughput(Throughput::Bytes((size * size_of::<f32>()) as u64));
            group.bench_with_input(BenchmarkId::new(kernels.tier().name(), size), &logits, |bencher, logits| {
                bencher.iter(|| kernels.log_sum_exp_f32(black_box(logits)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, log_sum_exp);
criterion_main!(benches);
