//! Elementwise functions, and the gates of feed-forward layers.
use crate::activation::ActivationKernels;

pub(crate) const KERNELS: ActivationKernels = ActivationKernels {
    exp: |x| map(x, f32::exp),
    silu: |x| map(x, silu),
    gelu: |x| map(x, gelu),
    gelu_tanh: |x| map(x, gelu_tanh),
    silu_gate: |gate, up| combine(gate, up, |gate, up| silu(gate) * up),
    gelu_gate: |gate, up| combine(gate, up, |gate, up| gelu(gate) * up),
    gelu_tanh_gate: |gate, up| combine(gate, up, |gate, up| gelu_tanh(gate) * up),
    soft_cap: |x, cap| map(x, |x| cap * (x / cap).tanh()),
    add: |x, y| combine(x, y, |x, y| x + y),
    scale: |x, factor| map(x, |x| x * factor),
    fetch: |_| {},
};

fn map(x: &mut [f32], function: impl Fn(f32) -> f32) {
    for x in x {
        *x = function(*x);
    }
}

fn combine(x: &mut [f32], y: &[f32], function: impl Fn(f32, f32) -> f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = function(*x, *y);
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// 2 √(2/π), and the same times 0.044715: the tanh form is `x / (1 + exp(−2u))`, which needs no tanh.
pub(crate) const GELU_LINEAR: f32 = 1.595_769;
pub(crate) const GELU_CUBIC: f32 = 0.071_354_82;

fn gelu_tanh(x: f32) -> f32 {
    x / (1.0 + (-x * (GELU_LINEAR + GELU_CUBIC * x * x)).exp())
}

/// A fit of `ln(erfc(z) · exp(z²) / t)` in powers of `t = 1 / (1 + z/2)`, z ≥ 0, highest first; the
/// relative error of erfc is below 1.2e-7 everywhere (Press et al., Numerical Recipes, section 6.2).
pub(crate) const ERFC: [f32; 10] = [
    0.170_872_77,
    -0.822_152_23,
    1.488_515_9,
    -1.135_204,
    0.278_868_07,
    -0.186_288_06,
    0.096_784_18,
    0.374_091_96,
    1.000_023_7,
    -1.265_512_2,
];

/// Φ(x) = erfc(−x/√2) / 2; for x > 0 by 1 − Φ(−x), so that erfc is only taken of z ≥ 0.
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = ERFC.iter().fold(0.0, |sum: f32, coefficient| sum * t + coefficient);
    let tail = 0.5 * t * (fit - z * z).exp();
    x * if x > 0.0 { 1.0 - tail } else { tail }
}
