//! Attention against its definition: all scores at once, in f64.
use super::{each_tier, waves};
use crate::{AttentionScratch, AttentionShape, Cached as Numbers, KEY_TILE, Kernels, KeyValueTile, KeyValueTiles};

/// Keys and values of one head, `[S, D]`; where there are f16 ones, the f32 ones are their values.
struct Cached {
    d: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    half_keys: Option<Vec<u16>>,
    half_values: Option<Vec<u16>>,
}

impl Cached {
    fn new(kernels: &Kernels, tokens: usize, d: usize, scale: f32, [half_keys, half_values]: [bool; 2]) -> Self {
        let (mut keys, mut values) = (waves(tokens * d, scale), waves(tokens * d + 5, 1.0)[5..].to_vec());
        let narrow = |x: &mut Vec<f32>| {
            let mut bits = vec![0; x.len()];
            kernels.narrow(x, &mut bits);
            kernels.widen(&bits, x);
            bits
        };
        let half_keys = half_keys.then(|| narrow(&mut keys));
        let half_values = half_values.then(|| narrow(&mut values));
        Self { d, keys, values, half_keys, half_values }
    }
}

impl KeyValueTiles for Cached {
    fn tile(&self, index: usize) -> KeyValueTile<'_> {
        let range = index * KEY_TILE * self.d..((index + 1) * KEY_TILE * self.d).min(self.keys.len());
        KeyValueTile {
            keys: match &self.half_keys {
                None => Numbers::F32(&self.keys[range.clone()]),
                Some(keys) => Numbers::F16(&keys[range.clone()]),
            },
            values: match &self.half_values {
                None => Numbers::F32(&self.values[range]),
                Some(values) => Numbers::F16(&values[range]),
            },
        }
    }
}

/// Both as f32, both as f16, and one of each.
const TYPES: [[bool; 2]; 4] = [[false, false], [true, true], [true, false], [false, true]];
const F32: [bool; 2] = TYPES[0];
const F16: [bool; 2] = TYPES[1];

fn oracle(shape: &AttentionShape, queries: &[f32], group: usize, first: usize, cached: &Cached) -> Vec<f64> {
    let d = shape.head_dim;
    let mut out = Vec::new();
    for (row, query) in queries.chunks(d).enumerate() {
        let position = first + row / group;
        let start = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let score = |s: usize| {
            let key = &cached.keys[s * d..][..d];
            let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let score = product * f64::from(shape.scale);
            shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (start..=position).map(score).collect();
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

#[test]
fn attention_is_its_definition_for_every_shape() {
    each_tier(|kernels| {
        let mut worst: f64 = 0.0;
        for d in [4, 16, 20, 64, 80, 96, 128, 256] {
            for (group, types) in [1, 2, 3, 7].into_iter().zip(TYPES) {
                for (tokens, first) in
                    [(1, 0), (1, 62), (1, 63), (1, 64), (1, 201), (3, 63), (4, 0), (13, 60), (65, 0), (70, 130)]
                {
                    let queries = waves(tokens * group * d, 2.0);
                    let cached = Cached::new(kernels, first + tokens, d, 2.0, types);
                    for (soft_cap, window) in [(None, None), (Some(5.0), None), (None, Some(17)), (None, Some(70))] {
                        let shape = AttentionShape { soft_cap, window, ..shape(d) };
                        let got = attend(kernels, &shape, &queries, tokens, first, &cached);
                        let found = nmse(&got, &oracle(&shape, &queries, group, first, &cached));
                        assert!(found <= 1.0e-10, "{shape:?} G={group} T={tokens} at {first}: {found:e}");
                        worst = worst.max(found);
                    }
                }
            }
        }
        println!("  largest NMSE {worst:e}");
    });
}

#[test]
fn every_number_of_tokens_and_keys_is_right() {
    each_tier(|kernels| {
        let d = 16;
        for tokens in 1..=140 {
            let first = tokens * 7 % 90;
            let queries = waves(tokens * 2 * d, 1.0);
            let cached = Cached::new(kernels, first + tokens, d, 3.0, TYPES[tokens % 4]);
            let got = attend(kernels, &shape(d), &queries, tokens, first, &cached);
            let found = nmse(&got, &oracle(&shape(d), &queries, 2, first, &cached));
            assert!(found <= 1.0e-10, "T={tokens} at {first}: {found:e}");
        }
    });
}

#[test]
fn a_head_does_not_depend_on_those_it_shares_keys_with() {
    each_tier(|kernels| {
        let (d, group) = (64, 7);
        for (tokens, first) in [(1, 150), (9, 120)] {
            let queries = waves(tokens * group * d, 2.0);
            let cached = Cached::new(kernels, first + tokens, d, 2.0, F16);
            let together = attend(kernels, &shape(d), &queries, tokens, first, &cached);
            for head in 0..group {
                let pick = |all: &[f32]| -> Vec<f32> {
                    all.chunks(group * d).flat_map(|token| token[head * d..][..d].to_vec()).collect()
                };
                let alone = attend(kernels, &shape(d), &pick(&queries), tokens, first, &cached);
                assert!(alone == pick(&together), "head {head} of {tokens} tokens");
            }
        }
    });
}

#[test]
fn large_scores_stay_finite_and_take_the_largest() {
    each_tier(|kernels| {
        let d = 32;
        for tokens in [1, 12] {
            let first = 100;
            let mut cached = Cached::new(kernels, first + tokens, d, 1.0, F32);
            cached.keys[70 * d..71 * d].fill(4.0e3);
            let queries = vec![4.0e3; tokens * d];
            let got = attend(kernels, &shape(d), &queries, tokens, first, &cached);
            for row in got.chunks(d) {
                assert_eq!(row, &cached.values[70 * d..71 * d]);
            }
        }
    });
}

#[test]
fn what_comes_later_or_is_out_of_the_window_is_not_read_into_the_mean() {
    each_tier(|kernels| {
        let d = 32;
        for tokens in [1, 20] {
            let first = 90;
            let shape = AttentionShape { window: Some(30), ..shape(d) };
            let queries = waves(tokens * d, 1.0);
            let mut cached = Cached::new(kernels, first + tokens + 40, d, 1.0, F32);
            let clean = attend(kernels, &shape, &queries, tokens, first, &cached);
            cached.keys[..61 * d].fill(1.0e4);
            cached.values[..61 * d].fill(1.0e4);
            cached.keys[(first + tokens) * d..].fill(f32::NAN);
            cached.values[(first + tokens) * d..].fill(f32::NAN);
            let again = attend(kernels, &shape, &queries, tokens, first, &cached);
            assert!(clean == again, "{tokens} tokens");
            cached.values[first * d] = f32::NAN;
            let spoilt = attend(kernels, &shape, &queries, tokens, first, &cached);
            assert!(spoilt[(tokens - 1) * d].is_nan(), "NaN in sight is lost");
        }
    });
}
