//! Elementwise functions, and the gates of feed-forward layers.
use std::arch::aarch64::*;

use super::lanes;
use crate::{
    activation::ActivationKernels,
    scalar::{ERFC, GELU_CUBIC, GELU_LINEAR},
};

/// Wraps functions that need the tier's features.
macro_rules! table {
    ($($field:ident: |$($argument:ident),+| $body:expr,)+) => {
        pub(super) const KERNELS: ActivationKernels = ActivationKernels {
            $($field: |$($argument),+| {
                #[target_feature(enable = "neon")]
                fn run($($argument: kind!($argument)),+) {
                    $body
                }
                // SAFETY: this leaves only inside the table, which `detect` gives out.
                unsafe { run($($argument),+) }
            },)+
        };
    };
}

macro_rules! kind {
    (x) => {
        &mut [f32]
    };
    (y) => {
        &[f32]
    };
    (factor) => {
        f32
    };
}

table! {
    exp: |x| lanes::map(x, |x| lanes::exp(x)),
    silu: |x| lanes::map(x, |x| silu(x)),
    gelu: |x| lanes::map(x, |x| gelu(x)),
    gelu_tanh: |x| lanes::map(x, |x| gelu_tanh(x)),
    silu_gate: |x, y| lanes::combine(x, y, |x, y| vmulq_f32(silu(x), y)),
    gelu_gate: |x, y| lanes::combine(x, y, |x, y| vmulq_f32(gelu(x), y)),
    gelu_tanh_gate: |x, y| lanes::combine(x, y, |x, y| vmulq_f32(gelu_tanh(x), y)),
    soft_cap: |x, factor| lanes::map(x, |x| soft_cap(x, factor)),
    add: |x, y| lanes::combine(x, y, |x, y| vaddq_f32(x, y)),
    scale: |x, factor| lanes::map(x, |x| vmulq_n_f32(x, factor)),
    fetch: |y| _ = y,
}

/// Returns `x / (1 + exp(exponent))`.
#[target_feature(enable = "neon")]
fn gate(x: float32x4_t, exponent: float32x4_t) -> float32x4_t {
    vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0), lanes::exp(exponent)))
}

#[target_feature(enable = "neon")]
fn silu(x: float32x4_t) -> float32x4_t {
    gate(x, vnegq_f32(x))
}

#[target_feature(enable = "neon")]
fn gelu_tanh(x: float32x4_t) -> float32x4_t {
    let slope = vfmaq_f32(vdupq_n_f32(GELU_LINEAR), vmulq_f32(x, x), vdupq_n_f32(GELU_CUBIC));
    gate(x, vmulq_f32(vnegq_f32(x), slope))
}

#[target_feature(enable = "neon")]
fn gelu(x: float32x4_t) -> float32x4_t {
    let one = vdupq_n_f32(1.0);
    let z = vmulq_n_f32(vabsq_f32(x), std::f32::consts::FRAC_1_SQRT_2);
    let t = vdivq_f32(one, vfmaq_f32(one, z, vdupq_n_f32(0.5)));
    let fit = ERFC.iter().fold(vdupq_n_f32(0.0), |sum, coefficient| vfmaq_f32(vdupq_n_f32(*coefficient), sum, t));
    let exponential = lanes::exp(vfmsq_f32(fit, z, z));
    let tail = vmulq_f32(vmulq_n_f32(t, 0.5), exponential);
    vmulq_f32(x, vbslq_f32(vcgtzq_f32(x), vsubq_f32(one, tail), tail))
}

/// `cap · tanh(u) = cap · (1 − 2 / (exp(2u) + 1))`. Near 0, where the difference would cancel, the
/// series `u − u³/3 + 2u⁵/15`.
#[target_feature(enable = "neon")]
fn soft_cap(x: float32x4_t, cap: f32) -> float32x4_t {
    let (one, two) = (vdupq_n_f32(1.0), vdupq_n_f32(2.0));
    let u = vdivq_f32(x, vdupq_n_f32(cap));
    let tanh = vsubq_f32(one, vdivq_f32(two, vaddq_f32(lanes::exp(vmulq_f32(u, two)), one)));
    let square = vmulq_f32(u, u);
    let series = vfmaq_f32(vdupq_n_f32(-1.0 / 3.0), square, vdupq_n_f32(2.0 / 15.0));
    let series = vfmaq_f32(u, vmulq_f32(series, square), u);
    let near = vcltq_f32(square, vdupq_n_f32(1.0e-3));
    vmulq_n_f32(vbslq_f32(near, series, tanh), cap)
}
