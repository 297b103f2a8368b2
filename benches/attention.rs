//! The attention of a layer over its cache, on one thread, tier beside tier.
mod suite;
mod waves;

use std::process::ExitCode;

use ruvlab_kernels::{AttentionScratch, AttentionShape, Cached, KEY_TILE, Kernels, KeyValueTile, KeyValueTiles};
use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// H, K and D of each model.
const SHAPES: [(&str, usize, usize, usize); 3] =
    [("smollm2-135m", 9, 3, 64), ("qwen2.5-1.5b", 12, 2, 128), ("qwen2.5-7b", 28, 4, 128)];
/// One token at the end of a context, and a prompt: tokens, and tokens before them.
const CASES: [(&str, usize, usize); 3] = [("decode", 1, 1023), ("decode", 1, 4095), ("prefill", 128, 0)];

/// Keys and values of one key head: `[tokens, D]`.
enum Head {
    F32 { keys: Vec<f32>, values: Vec<f32> },
    F16 { keys: Vec<u16>, values: Vec<u16> },
}

impl Head {
    /// Returns numbers that differ from head to head.
    fn new(kernels: &Kernels, is_half: bool, index: usize, length: usize) -> Self {
        let part = |from: usize| -> Vec<f32> { waves(from + length)[from..].to_vec() };
        let (keys, values) = (part(31 * index), part(1000 + 77 * index));
        if !is_half {
            return Self::F32 { keys, values };
        }
        let half = |values: &[f32]| {
            let mut bits = vec![0; values.len()];
            kernels.narrow(values, &mut bits);
            bits
        };
        Self::F16 { keys: half(&keys), values: half(&values) }
    }

    /// Returns keys and values as f32.
    fn wide(&self, kernels: &Kernels) -> [Vec<f32>; 2] {
        let wide = |bits: &[u16]| {
            let mut values = vec![0.0; bits.len()];
            kernels.widen(bits, &mut values);
            values
        };
        match self {
            Self::F32 { keys, values } => [keys.clone(), values.clone()],
            Self::F16 { keys, values } => [wide(keys), wide(values)],
        }
    }
}

/// A head of a given width as tiles.
struct Tiles<'a>(&'a Head, usize);

impl KeyValueTiles for Tiles<'_> {
    fn tile(&self, index: usize) -> KeyValueTile<'_> {
        let part = |length: usize| {
            let start = index * KEY_TILE * self.1;
            start..length.min(start + KEY_TILE * self.1)
        };
        match self.0 {
            Head::F32 { keys, values } => KeyValueTile {
                keys: Cached::F32(&keys[part(keys.len())]),
                values: Cached::F32(&values[part(values.len())]),
            },
            Head::F16 { keys, values } => KeyValueTile {
                keys: Cached::F16(&keys[part(keys.len())]),
                values: Cached::F16(&values[part(values.len())]),
            },
        }
    }
}

/// Returns the plain definition in f64, all scores at once, of some tokens' queries `[T, G, D]`.
fn oracle([keys, values]: &[Vec<f32>; 2], queries: &[f32], group: usize, d: usize, first: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for (row, query) in queries.chunks_exact(d).enumerate() {
        let seen = first + row / group + 1;
        let dot = |key: &[f32]| key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>();
        let scores: Vec<f64> = keys.chunks_exact(d).take(seen).map(|key| dot(key) / (d as f64).sqrt()).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..d).map(|i| {
            let terms = weights.iter().zip(values.chunks_exact(d));
            terms.map(|(weight, value)| weight * f64::from(value[i])).sum::<f64>() / sum
        }));
    }
    out
}

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (model, heads, kv_heads, d) in SHAPES {
        for (phase, tokens, before) in CASES {
            for (is_half, cache) in [(true, "f16"), (false, "f32")] {
                let (group, length) = (heads / kv_heads, (before + tokens) * d);
                let queries = waves(tokens * heads * d);
                let shape =
                    AttentionShape { head_dim: d, scale: 1.0 / (d as f32).sqrt(), soft_cap: None, window: None };
                // Each query sees what comes before it and itself; a score and a weighted sum of both.
                let pairs: usize = heads * (1..=tokens).map(|token| before + token).sum::<usize>();
                let work = Work {
                    read: 2 * kv_heads * length * if is_half { 2 } else { 4 } + size_of_val(&queries[..]),
                    written: size_of_val(&queries[..]),
                    float_operations: pairs * (4 * d + 3),
                    threads: 1,
                    ..Work::default()
                };
                for kernels in tiers() {
                    let cached: Vec<Head> = (0..kv_heads).map(|i| Head::new(kernels, is_half, i, length)).collect();
                    let (mut scratch, mut out) = (AttentionScratch::default(), vec![0.0; queries.len()]);
                    let part = tokens * group * d;
                    let mut attend = |out: &mut [f32]| {
                        let rows = queries.chunks_exact(part).zip(out.chunks_exact_mut(part));
                        for (head, (queries, out)) in cached.iter().zip(rows) {
                            kernels.attend(&shape, queries, tokens, before, &Tiles(head, d), &mut scratch, out);
                        }
                    };
                    attend(&mut out);
                    // The last head is another one than the first, and a few tokens are enough.
                    for (index, checked) in [(0, tokens.min(8)), (kv_heads - 1, tokens.min(70))] {
                        let queries = &queries[index * part..][..checked * group * d];
                        let want = oracle(&cached[index].wide(kernels), queries, group, d, before);
                        verify("attention", &out[index * part..][..want.len()], &want, 1.0e-7);
                    }
                    let what = format!("{model}/{cache}/{tokens} at {before}");
                    suite.time(&format!("attention_{phase}"), kernels.tier().name(), &what, work, || attend(&mut out));
                }
            }
        }
    }
    suite.finish()
}
