//! Attention against its definition: all scores at once, in f64.
mod definition;
mod limits;
mod pages;

use super::{each_tier, waves};
use crate::{
    AttentionScratch, AttentionShape, CacheType, Cached as Numbers, CachedMut, KEY_TILE, Kernels, KeyValuePage,
    KeyValuePages,
};

/// Numbers as they are cached.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Blocks(CacheType, Vec<u8>),
}

impl Stored {
    /// Stores numbers, and puts in their place what is read back.
    fn new(kernels: &Kernels, kind: CacheType, numbers: &mut [f32]) -> Self {
        let mut stored = match kind {
            CacheType::F32 => Self::F32(vec![0.0; numbers.len()]),
            CacheType::F16 => Self::F16(vec![0; numbers.len()]),
            kind => Self::Blocks(kind, vec![0; kind.bytes(numbers.len()).unwrap()]),
        };
        let to = match &mut stored {
            Self::F32(all) => CachedMut::F32(all),
            Self::F16(all) => CachedMut::F16(all),
            Self::Blocks(CacheType::Q8_0, all) => CachedMut::Q8_0(all),
            Self::Blocks(CacheType::Q5_1, all) => CachedMut::Q5_1(all),
            Self::Blocks(_, all) => CachedMut::Q4_0(all),
        };
        kernels.write_cached(numbers, to);
        let all = 0..numbers.len();
        kernels.read_cached(stored.part(all), numbers);
        stored
    }

    fn part(&self, range: std::ops::Range<usize>) -> Numbers<'_> {
        match self {
            Self::F32(all) => Numbers::F32(&all[range]),
            Self::F16(all) => Numbers::F16(&all[range]),
            Self::Blocks(kind, all) => {
                let bytes = |values| kind.bytes(values).unwrap();
                let all = &all[bytes(range.start)..bytes(range.end)];
                match kind {
                    CacheType::Q8_0 => Numbers::Q8_0(all),
                    CacheType::Q5_1 => Numbers::Q5_1(all),
                    _ => Numbers::Q4_0(all),
                }
            }
        }
    }
}

/// Keys and values of one head, `[S, D]`: as they are cached, and as f32.
struct Cached {
    d: usize,
    page_tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    stored: [Stored; 2],
}

impl Cached {
    fn new(kernels: &Kernels, tokens: usize, d: usize, scale: f32, [key_type, value_type]: [CacheType; 2]) -> Self {
        let (mut keys, mut values) = (waves(tokens * d, scale), waves(tokens * d + 5, 1.0)[5..].to_vec());
        let stored = [Stored::new(kernels, key_type, &mut keys), Stored::new(kernels, value_type, &mut values)];
        Self { d, page_tokens: KEY_TILE, keys, values, stored }
    }

    /// Stores keys and values anew as f32, after they were changed.
    fn restored(self) -> Self {
        let stored = [Stored::F32(self.keys.clone()), Stored::F32(self.values.clone())];
        Self { stored, ..self }
    }
}

impl KeyValuePages for Cached {
    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    fn page(&self, index: usize) -> KeyValuePage<'_> {
        let length = self.page_tokens * self.d;
        let range = index * length..((index + 1) * length).min(self.keys.len());
        KeyValuePage { keys: self.stored[0].part(range.clone()), values: self.stored[1].part(range) }
    }
}

use CacheType::{F16 as Half, F32 as Single, Q4_0, Q5_1, Q8_0};

/// Both as f32, both as f16, and one of each.
const TYPES: [[CacheType; 2]; 4] = [[Single, Single], [Half, Half], [Half, Single], [Single, Half]];
/// Those for heads of whole blocks.
const BLOCK_TYPES: [[CacheType; 2]; 4] = [[Q8_0, Q8_0], [Q8_0, Q4_0], [Q5_1, Half], [Q4_0, Q5_1]];
const F32: [CacheType; 2] = TYPES[0];
const F16: [CacheType; 2] = TYPES[1];

fn score(shape: &AttentionShape, query: &[f32], cached: &Cached, s: usize) -> f64 {
    let key = &cached.keys[s * shape.head_dim..][..shape.head_dim];
    let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
    let score = product * f64::from(shape.scale);
    shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
}

fn oracle(shape: &AttentionShape, queries: &[f32], group: usize, first: usize, cached: &Cached) -> Vec<f64> {
    let d = shape.head_dim;
    let mut out = Vec::new();
    for (row, query) in queries.chunks(d).enumerate() {
        let position = first + row / group;
        let start = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let scores: Vec<f64> = (start..=position).map(|s| score(shape, query, cached, s)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mean = |i: usize| {
            let terms = weights.iter().zip(start..).map(|(weight, s)| weight * f64::from(cached.values[s * d + i]));
            terms.sum::<f64>() / total
        };
        out.extend((0..d).map(mean));
    }
    out
}

fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    difference / want.iter().map(|b| b * b).sum::<f64>()
}

fn attend(
    kernels: &Kernels,
    shape: &AttentionShape,
    queries: &[f32],
    tokens: usize,
    first: usize,
    cached: &Cached,
) -> Vec<f32> {
    let (mut scratch, mut out) = (AttentionScratch::default(), vec![f32::NAN; queries.len()]);
    // Buffers come with whatever an earlier call left there.
    kernels.attend(shape, &queries[..shape.head_dim], 1, 0, cached, &mut scratch, &mut out[..shape.head_dim]);
    kernels.attend(shape, queries, tokens, first, cached, &mut scratch, &mut out);
    out
}

fn shape(d: usize) -> AttentionShape {
    AttentionShape { head_dim: d, scale: (d as f32).sqrt().recip(), soft_cap: None, window: None }
}
