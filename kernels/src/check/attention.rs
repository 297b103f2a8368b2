//! Attention against its definition: all scores at once, in f64.
use super::{each_tier, waves};
use crate::{
    AttentionScratch, AttentionShape, Cached as Numbers, CachedMut, CachedType, KEY_PART, KEY_TILE, Kernels,
    KeyValuePage, KeyValuePages, part_values,
};

/// Numbers as they are cached.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Blocks(CachedType, Vec<u8>),
}

impl Stored {
    /// Stores numbers, and puts in their place what is read back.
    fn new(kernels: &Kernels, kind: CachedType, numbers: &mut [f32]) -> Self {
        let mut stored = match kind {
            CachedType::F32 => Self::F32(vec![0.0; numbers.len()]),
            CachedType::F16 => Self::F16(vec![0; numbers.len()]),
            kind => Self::Blocks(kind, vec![0; kind.cached_bytes(numbers.len()).unwrap()]),
        };
        let to = match &mut stored {
            Self::F32(all) => CachedMut::F32(all),
            Self::F16(all) => CachedMut::F16(all),
            Self::Blocks(CachedType::Q8_0, all) => CachedMut::Q8_0(all),
            Self::Blocks(CachedType::Q5_1, all) => CachedMut::Q5_1(all),
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
                let bytes = |values| kind.cached_bytes(values).unwrap();
                let all = &all[bytes(range.start)..bytes(range.end)];
                match kind {
                    CachedType::Q8_0 => Numbers::Q8_0(all),
                    CachedType::Q5_1 => Numbers::Q5_1(all),
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
    fn new(kernels: &Kernels, tokens: usize, d: usize, scale: f32, [key_type, value_type]: [CachedType; 2]) -> Self {
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

use CachedType::{F16 as Half, F32 as Single, Q4_0, Q5_1, Q8_0};

/// Both as f32, both as f16, and one of each.
const TYPES: [[CachedType; 2]; 4] = [[Single, Single], [Half, Half], [Half, Single], [Single, Half]];
/// Those for heads of whole blocks.
const BLOCK_TYPES: [[CachedType; 2]; 4] = [[Q8_0, Q8_0], [Q8_0, Q4_0], [Q5_1, Half], [Q4_0, Q5_1]];
const F32: [CachedType; 2] = TYPES[0];
const F16: [CachedType; 2] = TYPES[1];

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

#[test]
fn attention_is_its_definition_for_every_shape() {
    each_tier(|kernels| {
        let mut worst: f64 = 0.0;
        for d in [4, 16, 20, 64, 80, 96, 128, 256] {
            let blocks = BLOCK_TYPES.iter().filter(|_| d % 32 == 0);
            for (group, types) in [1, 2, 3, 7].into_iter().cycle().zip(TYPES.iter().chain(blocks)) {
                for (tokens, first) in
                    [(1, 0), (1, 62), (1, 63), (1, 64), (1, 201), (3, 63), (4, 0), (13, 60), (65, 0), (70, 130)]
                {
                    let queries = waves(tokens * group * d, 2.0);
                    let cached = Cached::new(kernels, first + tokens, d, 2.0, *types);
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

/// Also those that are multiples of nothing, in types of whole blocks.
#[test]
fn prompts_of_up_to_600_tokens_are_right() {
    each_tier(|kernels| {
        let d = 32;
        for (tokens, types) in (8..=600).step_by(37).zip(BLOCK_TYPES.into_iter().chain(TYPES).cycle()) {
            let queries = waves(tokens * d, 1.5);
            let cached = Cached::new(kernels, tokens, d, 2.0, types);
            let got = attend(kernels, &shape(d), &queries, tokens, 0, &cached);
            let found = nmse(&got, &oracle(&shape(d), &queries, 1, 0, &cached));
            assert!(found <= 1.0e-10, "{types:?} T={tokens}: {found:e}");
        }
    });
}

#[test]
fn blocks_are_read_as_everywhere_else() {
    each_tier(|kernels| {
        for kind in [Q8_0, Q5_1, Q4_0] {
            for blocks in [1, 2, 7] {
                let mut numbers = waves(blocks * 32, 3.0);
                numbers[5] = 40.0;
                let mut bytes = vec![0; kind.cached_bytes(numbers.len()).unwrap()];
                crate::quantize_row(kind.format(), &numbers, &mut bytes).unwrap();
                // Codes that no quantiser writes, and a scale that is not a number.
                let size = bytes.len() / blocks;
                for byte in &mut bytes[size - 1..] {
                    *byte = byte.wrapping_mul(151) ^ 0x80;
                }
                if blocks == 7 {
                    bytes[3 * size..3 * size + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
                }
                let (mut got, mut want) = (vec![1.0; numbers.len()], vec![2.0; numbers.len()]);
                let cached = match kind {
                    Q8_0 => Numbers::Q8_0(&bytes),
                    Q5_1 => Numbers::Q5_1(&bytes),
                    _ => Numbers::Q4_0(&bytes),
                };
                kernels.read_cached(cached, &mut got);
                crate::dequantize_row(kind.format(), &bytes, &mut want);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(got.iter().zip(&want).all(same), "{kind}");
            }
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
            let cached = cached.restored();
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
            let mut cached = cached.restored();
            let again = attend(kernels, &shape, &queries, tokens, first, &cached);
            assert!(clean == again, "{tokens} tokens");
            cached.values[first * d] = f32::NAN;
            let cached = cached.restored();
            let spoilt = attend(kernels, &shape, &queries, tokens, first, &cached);
            assert!(spoilt[(tokens - 1) * d].is_nan(), "NaN in sight is lost");
        }
    });
}

#[test]
fn no_result_depends_on_the_size_of_pages() {
    each_tier(|kernels| {
        for (d, types) in [(64, &TYPES[..]), (80, &TYPES[..]), (20, &TYPES[..]), (96, &BLOCK_TYPES[..])] {
            for (group, types) in [1, 3, 5, 7].into_iter().zip(types) {
                for (tokens, first) in [(1, 0), (1, 200), (3, 126), (1, 598), (4, 0), (37, 100), (130, 70)] {
                    for window in [None, Some(75)] {
                        let shape = AttentionShape { window, ..shape(d) };
                        let queries = waves(tokens * group * d, 2.0);
                        let mut cached = Cached::new(kernels, first + tokens, d, 2.0, *types);
                        let contiguous = attend(kernels, &shape, &queries, tokens, first, &cached);
                        for page_tokens in [8, 16, 32] {
                            cached.page_tokens = page_tokens;
                            let paged = attend(kernels, &shape, &queries, tokens, first, &cached);
                            let same = contiguous.iter().zip(&paged).all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(same, "D={d} T={tokens} at {first}, {types:?}, pages of {page_tokens}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_written_is_read_back_in_its_type_and_what_is_not_finite_is_not_lost() {
    each_tier(|kernels| {
        // The largest distance from a number, relative to the largest of its block.
        for (kind, bound) in [(Single, 0.0), (Half, 4.9e-4), (Q8_0, 4.5e-3), (Q5_1, 3.3e-2), (Q4_0, 0.13)] {
            let numbers = waves(320, 3.0);
            let mut back = numbers.clone();
            Stored::new(kernels, kind, &mut back);
            for (block, (x, y)) in numbers.chunks(32).zip(back.chunks(32)).enumerate() {
                let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let far = x.iter().zip(y).fold(0.0f32, |most, (x, y)| most.max((x - y).abs()));
                assert!(far <= bound * largest, "{kind} block {block}: {far:e} of {largest}");
            }
            for odd in [f32::NAN, f32::INFINITY] {
                let mut back = numbers.clone();
                back[40] = odd;
                Stored::new(kernels, kind, &mut back);
                assert!(!back[40].is_finite(), "{kind}: {odd} became {}", back[40]);
                assert!(back[..32].iter().chain(&back[64..]).all(|x| x.is_finite()), "{kind}: {odd} spread");
            }
        }
    });
}

#[test]
#[should_panic(expected = "heads of 80 numbers are no whole blocks of q8_0")]
fn heads_that_are_no_whole_blocks_are_refused() {
    let kernels = crate::active();
    // Five tokens of 80 numbers are whole blocks; one is not.
    let cached = Cached::new(kernels, 8, 80, 1.0, [Q8_0, Q8_0]);
    attend(kernels, &shape(80), &waves(80, 1.0), 1, 7, &cached);
}

#[test]
fn parts_merged_in_order_are_the_whole() {
    each_tier(|kernels| {
        for (d, group, types) in [(64, 3, F16), (80, 7, F32), (128, 6, [Q8_0, Q8_0]), (96, 1, [Q5_1, Q4_0])] {
            for position in [0, 255, 256, 599, 1300] {
                for window in [None, Some(300)] {
                    let shape = AttentionShape { window, ..shape(d) };
                    let queries = waves(group * d, 2.0);
                    let cached = Cached::new(kernels, position + 1, d, 2.0, types);
                    let (mut scratch, mut out) = (AttentionScratch::default(), vec![f32::NAN; group * d]);
                    let length = part_values(d, group);
                    let mut parts = vec![f32::NAN; shape.parts(position).len() * length];
                    // Last part first: none needs another.
                    let rows = shape.parts(position).zip(parts.chunks_exact_mut(length)).rev();
                    for (part, to) in rows {
                        kernels.attend_part(&shape, &queries, position, part, &cached, &mut scratch, to);
                    }
                    kernels.merge_parts(d, &parts, &mut out, None);
                    let whole = attend(kernels, &shape, &queries, 1, position, &cached);
                    let same = out.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "D={d} at {position}, window {window:?}");
                    let found = nmse(&whole, &oracle(&shape, &queries, group, position, &cached));
                    assert!(found <= 1.0e-10, "D={d} at {position}: {found:e}");
                }
            }
        }
    });
}

#[test]
fn rows_that_see_nothing_are_zero_and_change_nothing() {
    each_tier(|kernels| {
        let (d, group, position) = (64, 3, 40);
        let shape = shape(d);
        let queries = waves(group * d, 2.0);
        let cached = Cached::new(kernels, position + 1, d, 2.0, F16);
        let (mut scratch, length) = (AttentionScratch::default(), part_values(d, group));
        let mut parts = vec![f32::NAN; 2 * length];
        // Part 3 begins behind the token.
        kernels.attend_part(&shape, &queries, position, 3, &cached, &mut scratch, &mut parts[length..]);
        let (mut out, mut saved) = (vec![f32::NAN; group * d], vec![f32::NAN; group]);
        kernels.merge_parts(d, &parts[length..], &mut out, Some(&mut saved));
        assert!(out.iter().all(|x| *x == 0.0) && saved.iter().all(|x| *x == f32::NEG_INFINITY), "{out:?} {saved:?}");
        kernels.attend_part(&shape, &queries, position, 0, &cached, &mut scratch, &mut parts[..length]);
        kernels.merge_parts(d, &parts, &mut out, None);
        assert_eq!(out, attend(kernels, &shape, &queries, 1, position, &cached));
    });
}

#[test]
fn every_number_of_keys_up_to_600_is_right_for_one_token() {
    each_tier(|kernels| {
        for keys in 1..=600 {
            let (d, group) = ([64, 80, 96, 128, 256][keys % 5], [1, 3, 4, 6, 8][keys % 5]);
            let types = if d % 32 == 0 && keys % 3 == 0 { BLOCK_TYPES[keys % 4] } else { TYPES[keys % 4] };
            let queries = waves(group * d, 2.0);
            let mut cached = Cached::new(kernels, keys, d, 2.0, types);
            cached.page_tokens = 8 << (keys % 4);
            let got = attend(kernels, &shape(d), &queries, 1, keys - 1, &cached);
            let found = nmse(&got, &oracle(&shape(d), &queries, group, keys - 1, &cached));
            assert!(found <= 1.0e-10, "{keys} keys, D={d} G={group} {types:?}: {found:e}");
        }
    });
}

#[test]
fn saved_sums_and_masses_are_their_definitions() {
    each_tier(|kernels| {
        let (d, group) = (64, 3);
        for (tokens, first) in [(1, 0), (1, 700), (3, 300), (20, 130)] {
            for (soft_cap, window) in [(None, None), (Some(5.0), Some(70))] {
                let shape = AttentionShape { soft_cap, window, ..shape(d) };
                let queries = waves(tokens * group * d, 2.0);
                let cached = Cached::new(kernels, first + tokens, d, 2.0, F16);
                let mut scratch = AttentionScratch::default();
                let (mut out, mut saved) = (vec![0.0; queries.len()], vec![f32::NAN; tokens * group]);
                kernels.attend_saving(&shape, &queries, tokens, first, &cached, &mut scratch, &mut out, &mut saved);
                assert_eq!(out, attend(kernels, &shape, &queries, tokens, first, &cached));
                let mut mass = vec![0.0; first + tokens];
                kernels.add_attention_mass(&shape, &queries, tokens, first, &saved, &cached, &mut scratch, &mut mass);
                let mut want = vec![0.0; first + tokens];
                for (row, query) in queries.chunks(d).enumerate() {
                    let position = first + row / group;
                    let start = window.map_or(0, |window| (position + 1).saturating_sub(window));
                    let scores: Vec<f64> = (start..=position).map(|s| score(&shape, query, &cached, s)).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
                    let far = (f64::from(saved[row]) - sum).abs();
                    assert!(far <= 2.0e-5, "row {row} of {tokens} at {first}: {} for {sum}", saved[row]);
                    for (want, score) in want[start..].iter_mut().zip(scores) {
                        *want += (score - sum).exp();
                    }
                }
                for (s, (mass, want)) in mass.iter().zip(want).enumerate() {
                    assert!((f64::from(*mass) - want).abs() <= 1.0e-4, "key {s} of {first}: {mass} for {want}");
                }
            }
        }
    });
}

#[test]
fn naive_attention_is_its_definition_and_takes_memory_for_every_score() {
    each_tier(|kernels| {
        for (d, types) in [(64, F16), (80, F32), (96, [Q8_0, Q8_0]), (256, F16)] {
            for (tokens, first) in [(1, 0), (1, 300), (3, 63), (13, 60), (70, 130)] {
                for (soft_cap, window) in [(None, None), (Some(5.0), None), (None, Some(70))] {
                    let (group, shape) = (3, AttentionShape { soft_cap, window, ..shape(d) });
                    let queries = waves(tokens * group * d, 2.0);
                    let cached = Cached::new(kernels, first + tokens, d, 2.0, types);
                    let (mut scratch, mut out) = (AttentionScratch::default(), vec![f32::NAN; queries.len()]);
                    kernels.attend_naively(&shape, &queries, tokens, first, &cached, &mut scratch, &mut out);
                    let found = nmse(&out, &oracle(&shape, &queries, group, first, &cached));
                    assert!(found <= 1.0e-10, "D={d} T={tokens} at {first}: {found:e}");
                }
            }
        }
    });
}

#[test]
fn memory_is_that_of_the_tokens_and_not_of_the_scores() {
    let kernels = crate::active();
    let (d, group) = (64, 3);
    let bytes = |tokens: usize, first: usize, naive: bool| {
        let queries = waves(tokens * group * d, 1.0);
        let cached = Cached::new(kernels, first + tokens, d, 1.0, F16);
        let (mut scratch, mut out) = (AttentionScratch::default(), vec![0.0; queries.len()]);
        let run = if naive { Kernels::attend_naively } else { Kernels::attend };
        run(kernels, &shape(d), &queries, tokens, first, &cached, &mut scratch, &mut out);
        scratch.bytes()
    };
    let row = (d + d + KEY_TILE + 2) * group * size_of::<f32>();
    let tiles = 3 * d * KEY_TILE * size_of::<f32>();
    // However many keys there are, so much for each query token and no more.
    for first in [0, 4000] {
        let found = bytes(64, first, false);
        assert!(found <= 64 * row + tiles, "{found} bytes for 64 tokens at {first}");
    }
    assert_eq!(bytes(64, 1000, false), bytes(64, 4000, false));
    // One token: the sums of each part of its context.
    let parts = 4000 / KEY_PART + 1;
    let found = bytes(1, 4000, false);
    assert!(found <= row + tiles + KEY_TILE * 4 + parts * part_values(d, group) * 4, "{found} bytes for one token");
    let (short, long) = (bytes(64, 1000, true), bytes(64, 4000, true));
    assert!(long - short >= 3000 * 64 * group * size_of::<f32>(), "naive: {short} and {long} bytes");
}
