//! Rotation against complex multiplication in f64.
use super::{each_tier, waves, within};
use crate::RopePairs;

#[test]
fn pairs_turn_by_their_angles_and_what_does_not_rotate_stays() {
    each_tier(|kernels| {
        for head_dim in [2, 7, 8, 16, 30, 64, 80, 96] {
            for rotating in (0..=head_dim).step_by(2) {
                let half = rotating / 2;
                let angles: Vec<f64> =
                    (0..half).map(|i| 777.0 * 10_000f64.powf(-2.0 * i as f64 / head_dim as f64)).collect();
                let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
                let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
                for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
                    let heads = waves(3 * head_dim, 2.0);
                    let mut got = heads.clone();
                    kernels.rotate(&mut got, head_dim, &cos, &sin, pairs);
                    for (head, got) in heads.chunks(head_dim).zip(got.chunks(head_dim)) {
                        assert_eq!(head[rotating..], got[rotating..]);
                        for i in 0..half {
                            let (a, b) = match pairs {
                                RopePairs::Interleaved => (2 * i, 2 * i + 1),
                                RopePairs::Halves => (i, i + half),
                            };
                            let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                            let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                            let what = (head_dim, rotating, pairs, i);
                            within(got[a], x * c - y * s, 5.0e-7, &what);
                            within(got[b], x * s + y * c, 5.0e-7, &what);
                        }
                    }
                }
            }
        }
    });
}
