//! The attention of a layer over its cache, on one thread, tier beside tier.
mod suite;
mod waves;

use std::process::ExitCode;

use ruvlab_kernels::{
    AttentionScratch, AttentionShape, CacheType, Cached, KEY_TILE, Kernels, KeyValuePage, KeyValuePages, quantize_row,
};
use suite::{Suite, Work, tiers, verify};
use waves::waves;

/// H, K and D of each model.
const SHAPES: [(&str, usize, usize, usize); 3] =
    [("smollm2-135m", 9, 3, 64), ("qwen2.5-1.5b", 12, 2, 128), ("qwen2.5-7b", 28, 4, 128)];
/// One token at the end of a context, and a prompt: tokens, and tokens before them.
const CASES: [(&str, usize, usize); 3] = [("decode", 1, 1023), ("decode", 1, 4095), ("prefill", 128, 0)];

/// Types of keys and values, and the model they are timed with where it is one only.
const TYPES: [(CacheType, Option<&str>); 5] = [
    (CacheType::F16, None),
    (CacheType::F32, None),
    (CacheType::Q8_0, Some("qwen2.5-1.5b")),
    (CacheType::Q5_1, Some("qwen2.5-1.5b")),
    (CacheType::Q4_0, Some("qwen2.5-1.5b")),
];

/// Numbers as they are cached.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Blocks(CacheType, Vec<u8>),
}

impl Stored {
    fn new(kernels: &Kernels, kind: CacheType, values: &[f32]) -> Self {
        match kind {
            CacheType::F32 => Self::F32(values.to_vec()),
            CacheType::F16 => {
                let mut bits = vec![0; values.len()];
                kernels.narrow(values, &mut bits);
                Self::F16(bits)
            }
            kind => {
                let mut blocks = vec![0; kind.bytes(values.len()).expect("whole blocks")];
                quantize_row(kind.format(), values, &mut blocks).expect("numbers");
                Self::Blocks(kind, blocks)
            }
        }
    }

    /// Returns some of its numbers.
    fn part(&self, range: std::ops::Range<usize>) -> Cached<'_> {
        match self {
            Self::F32(all) => Cached::F32(&all[range]),
            Self::F16(all) => Cached::F16(&all[range]),
            Self::Blocks(kind, all) => {
                let bytes = |values| kind.bytes(values).expect("whole blocks");
                let blocks = &all[bytes(range.start)..bytes(range.end)];
                match kind {
                    CacheType::Q8_0 => Cached::Q8_0(blocks),
                    CacheType::Q5_1 => Cached::Q5_1(blocks),
                    _ => Cached::Q4_0(blocks),
                }
            }
        }
    }
}

/// Keys and values of one key head: `[tokens, D]`.
struct Head {
    length: usize,
    stored: [Stored; 2],
}

impl Head {
    /// Returns numbers that differ from head to head.
    fn new(kernels: &Kernels, kind: CacheType, index: usize, length: usize) -> Self {
        let part = |from: usize| Stored::new(kernels, kind, &waves(from + length)[from..]);
        Self { length, stored: [part(31 * index), part(1000 + 77 * index)] }
    }

    /// Returns keys and values as f32.
    fn wide(&self, kernels: &Kernels) -> [Vec<f32>; 2] {
        [0, 1].map(|which| {
            let mut values = vec![0.0; self.length];
            kernels.read_cached(self.stored[which].part(0..self.length), &mut values);
            values
        })
    }
}

/// A head of a given width as tiles.
struct Tiles<'a>(&'a Head, usize);

impl KeyValuePages for Tiles<'_> {
    fn page_tokens(&self) -> usize {
        KEY_TILE
    }

    fn page(&self, index: usize) -> KeyValuePage<'_> {
        let start = index * KEY_TILE * self.1;
        let part = start..self.0.length.min(start + KEY_TILE * self.1);
        KeyValuePage { keys: self.0.stored[0].part(part.clone()), values: self.0.stored[1].part(part) }
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
            for (cache, only) in TYPES {
                if only.is_some_and(|only| only != model) {
                    continue;
                }
                let (group, length) = (heads / kv_heads, (before + tokens) * d);
                let queries = waves(tokens * heads * d);
                let shape =
                    AttentionShape { head_dim: d, scale: 1.0 / (d as f32).sqrt(), soft_cap: None, window: None };
                // Each query sees what comes before it and itself; a score and a weighted sum of both.
                let pairs: usize = heads * (1..=tokens).map(|token| before + token).sum::<usize>();
                let work = Work {
                    read: 2 * kv_heads * cache.bytes(length).expect("whole blocks") + size_of_val(&queries[..]),
                    written: size_of_val(&queries[..]),
                    float_operations: pairs * (4 * d + 3),
                    threads: 1,
                    ..Work::default()
                };
                for kernels in tiers() {
                    let cached: Vec<Head> = (0..kv_heads).map(|i| Head::new(kernels, cache, i, length)).collect();
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
