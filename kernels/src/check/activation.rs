//! Elementwise functions against their definitions in f64.
use super::{each_tier, lengths_and_offsets, waves, within};
use crate::Kernels;

/// The error function: its series up to 3, beyond by its continued fraction (Abramowitz and Stegun,
/// 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let scale = 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp();
    if x < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - scale * sum;
    }
    let fraction = (1..=60).rev().fold(0.0, |rest, n| f64::from(n) / 2.0 / (x + rest));
    scale / 2.0 / (x + fraction)
}

fn gelu(x: f64) -> f64 {
    x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

fn gelu_tanh(x: f64) -> f64 {
    x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Values of every size, with both signs.
fn values() -> Vec<f32> {
    let mut values =
        vec![0.0, -0.0, f32::MIN_POSITIVE / 4.0, -1.0e-30, 1.0e-8, 88.9, -88.9, 104.5, -104.5, 3.0e38, -3.0e38];
    values.extend((-2000..2000).map(|i| i as f32 * 0.0517));
    values.extend((-400..400).map(|i| i as f32 * 0.000_71));
    values
}

type Bound = fn(f64) -> f64;

#[test]
fn functions_are_their_definitions() {
    let relative: Bound = |want| 4.0e-7 * want.abs() + 3.0e-37;
    each_tier(|kernels| {
        let check =
            |name: &str, run: &dyn Fn(&mut [f32]), oracle: &dyn Fn(f64) -> f64, bound: &dyn Fn(f64, f64) -> f64| {
                let x = values();
                let mut got = x.clone();
                run(&mut got);
                let mut worst: f64 = 0.0;
                for (x, got) in x.iter().map(|x| f64::from(*x)).zip(got) {
                    let want = oracle(x);
                    within(got, want, bound(x, want), &(name, x));
                    let ratio = (f64::from(got) - want).abs() / bound(x, want);
                    worst = if ratio <= worst || ratio.is_nan() { worst } else { ratio };
                }
                println!("  {name}: {worst:.2} of the bound");
            };
        // Two units in the last place, or of the smallest subnormal.
        let exp_bound = |_: f64, want: f64| 2.4e-7 * want.abs() + 2.9e-45;
        let to_f32 = |x: f64| if x > f64::from(f32::MAX) { f64::INFINITY } else { x };
        check("exp", &|x| kernels.exp(x), &|x| to_f32(x.exp()), &exp_bound);
        check("silu", &|x| kernels.silu(x), &silu, &|_, want| relative(want));
        check("gelu", &|x| kernels.gelu(x), &gelu, &|x, _| 4.0e-7 * x.abs().max(1.0));
        check("gelu_tanh", &|x| kernels.gelu_tanh(x), &gelu_tanh, &|x, _| 1.0e-6 * x.abs().max(1.0));
        for cap in [1.0f32, 30.0, 50.0] {
            let wide = f64::from(cap);
            let tanh = |x: f64| wide * (x / wide).tanh();
            check("soft_cap", &|x| kernels.soft_cap(x, cap), &tanh, &|_, _| 4.0e-7 * wide);
        }
        check("scale", &|x| kernels.scale(x, 0.3), &|x| x * f64::from(0.3f32), &|_, want| relative(want));
    });
}

type Unary = fn(&Kernels, &mut [f32]);
type Gate = fn(&Kernels, &mut [f32], &[f32]);

const UNARY: [(&str, Unary); 6] = [
    ("exp", |k, x| k.exp(x)),
    ("silu", |k, x| k.silu(x)),
    ("gelu", |k, x| k.gelu(x)),
    ("gelu_tanh", |k, x| k.gelu_tanh(x)),
    ("soft_cap", |k, x| k.soft_cap(x, 2.0)),
    ("scale", |k, x| k.scale(x, 1.5)),
];

const GATES: [(&str, Gate, Unary); 4] = [
    ("silu_gate", |k, x, y| k.silu_gate(x, y), |k, x| k.silu(x)),
    ("gelu_gate", |k, x, y| k.gelu_gate(x, y), |k, x| k.gelu(x)),
    ("gelu_tanh_gate", |k, x, y| k.gelu_tanh_gate(x, y), |k, x| k.gelu_tanh(x)),
    ("add", |k, x, y| k.add(x, y), |_, _| {}),
];

#[test]
fn a_value_does_not_depend_on_where_it_stands_and_its_neighbours_stay() {
    let data = waves(48, 3.0);
    each_tier(|kernels| {
        for (name, run) in UNARY {
            for range in lengths_and_offsets() {
                let mut all = data.clone();
                run(kernels, &mut all[range.clone()]);
                for (i, x) in data.iter().enumerate() {
                    let mut alone = [*x];
                    if range.contains(&i) {
                        run(kernels, &mut alone);
                    }
                    assert!(all[i].to_bits() == alone[0].to_bits(), "{name} {range:?} at {i}");
                }
            }
        }
    });
}

#[test]
fn a_gate_is_its_function_times_the_other() {
    let (data, up) = (waves(48, 3.0), waves(61, 1.7));
    each_tier(|kernels| {
        for (name, gate, function) in GATES {
            for range in lengths_and_offsets() {
                let up = &up[13..13 + range.len()];
                let mut all = data.clone();
                gate(kernels, &mut all[range.clone()], up);
                let mut want = data.clone();
                function(kernels, &mut want[range.clone()]);
                for (want, up) in want[range.clone()].iter_mut().zip(up) {
                    *want = if name == "add" { *want + up } else { *want * up };
                }
                assert!(all == want, "{name} {range:?}");
            }
        }
    });
}

#[test]
fn what_is_no_number_stays_so_and_infinities_are_the_formulas() {
    each_tier(|kernels| {
        for at in 0..17 {
            for (name, run) in UNARY {
                let mut x = waves(17, 1.0);
                x[at] = f32::NAN;
                run(kernels, &mut x);
                assert_eq!(x.iter().filter(|x| x.is_nan()).count(), 1, "{name}");
                assert!(x[at].is_nan(), "{name} at {at}");
            }
        }
        let at = |run: Unary, x: f32| {
            let mut x = [x];
            run(kernels, &mut x);
            x[0]
        };
        let [exp, silu, gelu, gelu_tanh, soft_cap, _] = UNARY.map(|(_, run)| run);
        assert_eq!([at(exp, f32::INFINITY), at(exp, f32::NEG_INFINITY)], [f32::INFINITY, 0.0]);
        for run in [silu, gelu, gelu_tanh] {
            assert_eq!(at(run, f32::INFINITY), f32::INFINITY);
            assert!(at(run, f32::NEG_INFINITY).is_nan());
            assert_eq!([at(run, 0.0), at(run, -200.0).abs()], [0.0, 0.0]);
        }
        assert_eq!([at(soft_cap, f32::INFINITY), at(soft_cap, f32::NEG_INFINITY)], [2.0, -2.0]);
    });
}

#[test]
fn softmax_is_its_definition_and_rows_do_not_meet() {
    each_tier(|kernels| {
        for width in (1..=33).chain([500]) {
            for scale in [0.1, 30.0] {
                let x = waves(3 * width, scale);
                let mut got = x.clone();
                kernels.softmax(&mut got, width);
                for (x, got) in x.chunks(width).zip(got.chunks(width)) {
                    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let terms: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).collect();
                    let total: f64 = terms.iter().sum();
                    for (term, got) in terms.iter().zip(got) {
                        // The rounding of the difference is part of the exponent.
                        within(*got, term / total, (1.0e-6 + 6.0e-8 * f64::from(scale)) * term / total, &width);
                    }
                }
            }
        }
        let mut edges = [1.0, f32::NAN, 0.0, 3.0e38, -3.0e38, 0.0, 0.0, f32::NEG_INFINITY, 0.0];
        kernels.softmax(&mut edges, 3);
        assert!(edges[..3].iter().all(|x| x.is_nan()));
        assert_eq!(edges[3..], [1.0, 0.0, 0.0, 0.5, 0.0, 0.5]);
        let mut nothing = [f32::NEG_INFINITY; 9];
        kernels.softmax(&mut nothing, 9);
        assert!(nothing.iter().all(|x| x.is_nan()));
    });
}
