//! What no result may depend on, what must not be lost, and what it may cost.
use super::{Cached, F16, F32, attend, each_tier, shape, waves};
use crate::{AttentionScratch, AttentionShape, ContextPart, KEY_PART, KEY_TILE, Kernels, part_values};

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
fn rows_that_see_nothing_are_zero_and_change_nothing() {
    each_tier(|kernels| {
        let (d, group, position) = (64, 3, 40);
        let shape = shape(d);
        let queries = waves(group * d, 2.0);
        let cached = Cached::new(kernels, position + 1, d, 2.0, F16);
        let (mut scratch, length) = (AttentionScratch::default(), part_values(d, group));
        let mut parts = vec![f32::NAN; 2 * length];
        // Part 3 begins behind the token.
        let part = |index| ContextPart { cached: &cached, position, index };
        kernels.attend_part(&shape, &queries, part(3), None, &mut scratch, &mut parts[length..]);
        let (mut out, mut saved) = (vec![f32::NAN; group * d], vec![f32::NAN; group]);
        kernels.merge_parts(d, &parts[length..], &mut out, Some(&mut saved));
        assert!(out.iter().all(|x| *x == 0.0) && saved.iter().all(|x| *x == f32::NEG_INFINITY), "{out:?} {saved:?}");
        kernels.attend_part(&shape, &queries, part(0), Some(part(3)), &mut scratch, &mut parts[..length]);
        kernels.merge_parts(d, &parts, &mut out, None);
        assert_eq!(out, attend(kernels, &shape, &queries, 1, position, &cached));
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
