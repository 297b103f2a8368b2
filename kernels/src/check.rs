//! One suite, run once per tier.
mod activation;
mod attention;
mod half;
mod matmul;
mod nearest;
mod norm;
pub(crate) mod random;
mod rope;

use crate::dispatch::{Kernels, Tier, TierError, for_tier, select};

/// Runs a test on every tier this processor has.
fn each_tier(test: impl Fn(&Kernels)) {
    for kernels in Tier::ALL.into_iter().filter_map(for_tier) {
        println!("{}", kernels.tier().name());
        test(kernels);
    }
}

/// NaN-strict, like every comparison here; equal infinities are equal.
#[track_caller]
fn within(got: f32, want: f64, bound: f64, what: &dyn std::fmt::Debug) {
    let got = f64::from(got);
    let same = got == want || (got.is_nan() && want.is_nan());
    assert!(same || (got - want).abs() <= bound, "{what:?}: got {got:e}, want {want:e} ± {bound:e}");
}

/// Every length up to four lanes and one more, at every offset from a lane's start.
fn lengths_and_offsets() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..=33).flat_map(|length| (0..8).map(move |start| start..start + length))
}

/// The definition, in the plainest words, two f64 passes.
fn oracle(logits: &[f32]) -> f64 {
    let largest = logits.iter().map(|x| f64::from(*x)).fold(f64::NEG_INFINITY, f64::max);
    largest + logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum::<f64>().ln()
}

/// NaN-strict: a NaN difference never passes.
fn close(kernels: &Kernels, logits: &[f32]) {
    let (got, want) = (kernels.log_sum_exp_f32(logits), oracle(logits));
    let bound = 1.0e-6;
    assert!((got - want).abs() <= bound, "{:?}, n={}: got {got}, want {want} ± {bound}", kernels.tier(), logits.len());
}

/// A deterministic sequence in (-1, 1) that repeats nothing.
fn waves(n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32) * 0.737).sin() * scale + ((i * i) as f32 * 0.013).cos()).collect()
}

macro_rules! kernel_tests {
    ($module:ident, $tier:expr) => {
        mod $module {
            use super::*;

            fn kernels() -> Option<&'static Kernels> {
                for_tier($tier)
            }

            #[test]
            fn log_sum_exp_every_length_and_offset() {
                let Some(kernels) = kernels() else { return };
                for scale in [0.01, 1.0, 30.0, 1.0e4] {
                    let data = waves(208, scale);
                    for start in 0..8 {
                        for length in (1..=48).chain([63, 64, 65, 127, 128, 200]) {
                            close(kernels, &data[start..start + length]);
                        }
                    }
                }
                close(kernels, &waves(49_152, 12.0));
                // Rounding of one difference, all in one direction.
                let mut same = vec![0.123_456_7; 100_000];
                same[0] = 10.1;
                close(kernels, &same);
            }

            #[test]
            fn log_sum_exp_at_the_edges() {
                let Some(kernels) = kernels() else { return };
                let lse = |x: &[f32]| kernels.log_sum_exp_f32(x);
                assert_eq!(lse(&[]), f64::NEG_INFINITY);
                for (length, at) in (0..17).map(|at| (17, at)).chain((0..150).map(|at| (150, at))) {
                    let mut x = waves(length, 1.0);
                    x[at] = f32::NAN;
                    assert!(lse(&x).is_nan(), "NaN at {at} is lost");
                    x[at] = f32::INFINITY;
                    assert_eq!(lse(&x), f64::INFINITY, "infinity at {at}");
                    x[at] = f32::NEG_INFINITY;
                    close(kernels, &x);
                    x[at] = f32::MIN_POSITIVE / 2.0;
                    close(kernels, &x);
                    // One logit far above: the sum is that logit, whatever lane or tail it is in.
                    x[at] = 3.0e38;
                    close(kernels, &x);
                }
                assert_eq!(lse(&[f32::NEG_INFINITY; 9]), f64::NEG_INFINITY);
                close(kernels, &[f32::MIN, f32::MAX, 0.0, -0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            }

            #[test]
            fn log_sum_exp_of_equal_logits_is_the_logarithm_of_their_number() {
                let Some(kernels) = kernels() else { return };
                for n in [1usize, 7, 8, 9, 1000] {
                    let got = kernels.log_sum_exp_f32(&vec![-5.25; n]);
                    assert!((got - ((n as f64).ln() - 5.25)).abs() <= 1.0e-6, "n={n}: {got}");
                }
            }
        }
    };
}

kernel_tests!(scalar, Tier::Scalar);
kernel_tests!(avx2, Tier::Avx2);
kernel_tests!(avx512, Tier::Avx512);
kernel_tests!(neon, Tier::Neon);

#[test]
fn a_setting_is_followed_or_refused() {
    assert_eq!(select(Some("scalar")).unwrap().tier(), Tier::Scalar);
    let unknown = select(Some("sclar")).unwrap_err();
    assert_eq!(unknown.to_string(), "RUVLAB_KERNELS names no tier: \"sclar\" (there are scalar, avx2, avx512, neon)");
    assert!(matches!(select(Some("")), Err(TierError::Unknown { .. })));
    for tier in Tier::ALL {
        match for_tier(tier) {
            Some(_) => assert_eq!(select(Some(tier.name())).unwrap().tier(), tier),
            None => {
                let error = select(Some(tier.name())).unwrap_err();
                assert_eq!(error, TierError::Unavailable { tier });
                let text = error.to_string();
                assert!(text.contains(tier.name()) && text.contains("this processor runs scalar"), "{text}");
            }
        }
    }
    // NEON is part of 64-bit ARM, so that there its suite never passes by not running.
    assert_eq!(for_tier(Tier::Neon).is_some(), cfg!(target_arch = "aarch64"));
}
