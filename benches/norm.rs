//! Whole rows: norms, softmax and its normaliser, on one thread, tier beside tier.
mod suite;
mod waves;

use std::{hint::black_box, process::ExitCode};

use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// E of each model.
const WIDTHS: [(&str, usize); 3] = [("smollm2-135m", 576), ("qwen2.5-1.5b", 1536), ("qwen2.5-7b", 3584)];
/// V of the first two, and what a row of attention has.
const SOFTMAX_WIDTHS: [usize; 3] = [4096, 49_152, 151_936];
const TOKENS: [usize; 2] = [1, 128];
const EPS: f32 = 1.0e-6;
const VALUE: usize = size_of::<f32>();

/// Returns the RMS norm of rows, in f64.
fn rms_oracle(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let rows = x.chunks_exact(weight.len()).flat_map(|row| {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        row.iter().zip(weight).map(move |(x, weight)| f64::from(*x) * scale * f64::from(*weight))
    });
    rows.collect()
}

fn layer_oracle(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let rows = x.chunks_exact(weight.len()).flat_map(|row| {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        let weights = weight.iter().zip(bias);
        row.iter().zip(weights).map(move |(x, (w, b))| (f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b))
    });
    rows.collect()
}

fn norms(suite: &mut Suite) {
    for (model, width) in WIDTHS {
        let (weight, bias) = (waves(width), waves(2 * width)[width..].to_vec());
        for tokens in TOKENS {
            let n = tokens * width;
            let (x, mut out) = (waves(n), vec![0.0; n]);
            let what = format!("{model}/{tokens} tokens");
            let work = |read, written, operations| Work {
                read: read * VALUE,
                written: written * VALUE,
                float_operations: operations,
                threads: 1,
                ..Work::default()
            };
            for kernels in tiers() {
                let tier = kernels.tier().name();
                kernels.rms_norm(&x, &weight, EPS, &mut out);
                verify("rms_norm", &out, &rms_oracle(&x, &weight), 1.0e-12);
                suite.time("rms_norm", tier, &what, work(n + width, n, 4 * n), || {
                    kernels.rms_norm(black_box(&x), &weight, EPS, &mut out);
                });

                let (mut stream, delta) = (x.clone(), waves(2 * n)[n..].to_vec());
                kernels.add_rms_norm(&mut stream, &delta, &weight, EPS, &mut out);
                let sum: Vec<f32> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
                assert!(stream == sum, "add_rms_norm: the sum");
                verify("add_rms_norm", &out, &rms_oracle(&sum, &weight), 1.0e-12);
                suite.time("add_rms_norm", tier, &what, work(2 * n + width, 2 * n, 5 * n), || {
                    kernels.add_rms_norm(&mut stream, black_box(&delta), &weight, EPS, &mut out);
                });

                kernels.layer_norm(&x, &weight, &bias, EPS, &mut out);
                verify("layer_norm", &out, &layer_oracle(&x, &weight, &bias), 1.0e-12);
                suite.time("layer_norm", tier, &what, work(n + 2 * width, n, 7 * n), || {
                    kernels.layer_norm(black_box(&x), &weight, &bias, EPS, &mut out);
                });
            }
        }
    }
}

fn softmaxes(suite: &mut Suite) {
    for width in SOFTMAX_WIDTHS {
        let logits: Vec<f32> = waves(width).iter().map(|x| 9.0 * x).collect();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let terms: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).collect();
        let sum: f64 = terms.iter().sum();
        let what = format!("{width}");
        // Subtracting, the exponential, the sum.
        let read = Work { read: width * VALUE, float_operations: 3 * width, threads: 1, ..Work::default() };
        for kernels in tiers() {
            let tier = kernels.tier().name();
            let (got, want) = (kernels.log_sum_exp_f32(&logits), sum.ln() + f64::from(largest));
            assert!((got - want).abs() <= 1.0e-6, "log_sum_exp/{tier}: {got}, want {want}");
            suite.time("log_sum_exp", tier, &what, read, || {
                black_box(kernels.log_sum_exp_f32(black_box(&logits)));
            });

            let mut x = logits.clone();
            kernels.softmax(&mut x, width);
            let want: Vec<f64> = terms.iter().map(|term| term / sum).collect();
            verify("softmax", &x, &want, 1.0e-11);
            let work = Work { written: width * VALUE, float_operations: 4 * width, ..read };
            suite.time("softmax", tier, &what, work, || kernels.softmax(black_box(&mut x), width));
        }
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    norms(&mut suite);
    softmaxes(&mut suite);
    suite.finish()
}
