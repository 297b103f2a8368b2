//! Every shape, number of tokens and number of keys against the definition.
use super::{BLOCK_TYPES, Cached, F16, F32, Q8_0, TYPES, attend, each_tier, nmse, oracle, score, shape, waves};
use crate::{AttentionScratch, AttentionShape};

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
