//! Rotating the queries and keys of a layer, on one thread, tier beside tier.
mod suite;
mod waves;

use std::process::ExitCode;

use ruvlab_kernels::RopePairs;
use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// H + K and D of each model.
const SHAPES: [(&str, usize, usize); 3] =
    [("smollm2-135m", 9 + 3, 64), ("qwen2.5-1.5b", 12 + 2, 128), ("qwen2.5-7b", 28 + 4, 128)];
const TOKENS: [usize; 2] = [1, 128];
const BASE: f64 = 10_000.0;
const PAIRS: [(RopePairs, &str); 2] =
    [(RopePairs::Interleaved, "rope_interleaved"), (RopePairs::Halves, "rope_halves")];

/// Returns the angle of a pair at a position.
fn angle(position: usize, pair: usize, head_dim: usize) -> f64 {
    position as f64 * BASE.powf(-2.0 * pair as f64 / head_dim as f64)
}

/// Returns what rotating makes of the values, in f64.
fn oracle(values: &[f32], heads: usize, head_dim: usize, pairs: RopePairs) -> Vec<f64> {
    let mut rotated: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    for (index, head) in rotated.chunks_exact_mut(head_dim).enumerate() {
        for pair in 0..head_dim / 2 {
            let (first, second) = match pairs {
                RopePairs::Interleaved => (2 * pair, 2 * pair + 1),
                RopePairs::Halves => (pair, pair + head_dim / 2),
            };
            let (sin, cos) = angle(index / heads, pair, head_dim).sin_cos();
            (head[first], head[second]) =
                (head[first] * cos - head[second] * sin, head[first] * sin + head[second] * cos);
        }
    }
    rotated
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (model, heads, head_dim) in SHAPES {
        for tokens in TOKENS {
            let values = tokens * heads * head_dim;
            let table = |of: fn(f64) -> f64| -> Vec<f32> {
                let at = |i: usize| of(angle(i / (head_dim / 2), i % (head_dim / 2), head_dim)) as f32;
                (0..tokens * head_dim / 2).map(at).collect()
            };
            let (cos, sin) = (table(f64::cos), table(f64::sin));
            let work = Work {
                read: (values + cos.len() + sin.len()) * size_of::<f32>(),
                written: values * size_of::<f32>(),
                float_operations: 3 * values,
                threads: 1,
                ..Work::default()
            };
            for (pairs, name) in PAIRS {
                for kernels in tiers() {
                    let mut x = waves(values);
                    let rotate = |x: &mut [f32]| {
                        let tables = cos.chunks_exact(head_dim / 2).zip(sin.chunks_exact(head_dim / 2));
                        for (x, (cos, sin)) in x.chunks_exact_mut(heads * head_dim).zip(tables) {
                            kernels.rotate(x, head_dim, cos, sin, pairs);
                        }
                    };
                    rotate(&mut x);
                    verify(name, &x, &oracle(&waves(values), heads, head_dim, pairs), 1.0e-12);
                    let what = format!("{model}/{tokens} tokens");
                    suite.time(name, kernels.tier().name(), &what, work, || rotate(&mut x));
                }
            }
        }
    }
    suite.finish()
}
