//! Elementwise functions, and the gates of feed-forward layers.
use std::arch::x86_64::*;

use super::lanes;
use crate::{
    activation::ActivationKernels,
    matmul::CACHE_LINE,
    scalar::{ERFC, GELU_CUBIC, GELU_LINEAR},
};

/// Wraps functions that need the tier's features.
macro_rules! table {
    ($($field:ident: |$($argument:ident),+| $body:expr,)+) => {
        pub(super) const KERNELS: ActivationKernels = ActivationKernels {
            $($field: |$($argument),+| {
                #[target_feature(enable = "avx2,fma")]
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
    silu_gate: |x, y| lanes::combine(x, y, |x, y| _mm256_mul_ps(silu(x), y)),
    gelu_gate: |x, y| lanes::combine(x, y, |x, y| _mm256_mul_ps(gelu(x), y)),
    gelu_tanh_gate: |x, y| lanes::combine(x, y, |x, y| _mm256_mul_ps(gelu_tanh(x), y)),
    soft_cap: |x, factor| lanes::map(x, |x| soft_cap(x, factor)),
    add: |x, y| lanes::combine(x, y, |x, y| _mm256_add_ps(x, y)),
    scale: |x, factor| lanes::map(x, |x| _mm256_mul_ps(x, _mm256_set1_ps(factor))),
    fetch: |y| y.chunks(CACHE_LINE / size_of::<f32>()).for_each(|line| _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast())),
}

#[target_feature(enable = "avx2")]
fn negative(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

/// Returns `x / (1 + exp(exponent))`.
#[target_feature(enable = "avx2,fma")]
fn gate(x: __m256, exponent: __m256) -> __m256 {
    _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0), lanes::exp(exponent)))
}

#[target_feature(enable = "avx2,fma")]
fn silu(x: __m256) -> __m256 {
    gate(x, negative(x))
}

#[target_feature(enable = "avx2,fma")]
fn gelu_tanh(x: __m256) -> __m256 {
    let square = _mm256_mul_ps(x, x);
    let slope = _mm256_fmadd_ps(square, _mm256_set1_ps(GELU_CUBIC), _mm256_set1_ps(GELU_LINEAR));
    gate(x, _mm256_mul_ps(negative(x), slope))
}

#[target_feature(enable = "avx2,fma")]
fn gelu(x: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let z = _mm256_mul_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), x), _mm256_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
    let t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.5), one));
    let fit =
        ERFC.iter().fold(_mm256_setzero_ps(), |sum, coefficient| _mm256_fmadd_ps(sum, t, _mm256_set1_ps(*coefficient)));
    let exponential = lanes::exp(_mm256_fnmadd_ps(z, z, fit));
    let tail = _mm256_mul_ps(_mm256_mul_ps(t, _mm256_set1_ps(0.5)), exponential);
    let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps());
    _mm256_mul_ps(x, _mm256_blendv_ps(tail, _mm256_sub_ps(one, tail), positive))
}

/// `cap · tanh(u) = cap · (1 − 2 / (exp(2u) + 1))`. Near 0, where the difference would cancel, the
/// series `u − u³/3 + 2u⁵/15`.
#[target_feature(enable = "avx2,fma")]
fn soft_cap(x: __m256, cap: f32) -> __m256 {
    let (one, two) = (_mm256_set1_ps(1.0), _mm256_set1_ps(2.0));
    let u = _mm256_div_ps(x, _mm256_set1_ps(cap));
    let exponential = lanes::exp(_mm256_mul_ps(u, two));
    let tanh = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(exponential, one)));
    let square = _mm256_mul_ps(u, u);
    let series = _mm256_fmadd_ps(square, _mm256_set1_ps(2.0 / 15.0), _mm256_set1_ps(-1.0 / 3.0));
    let series = _mm256_fmadd_ps(_mm256_mul_ps(series, square), u, u);
    let near = _mm256_cmp_ps::<_CMP_LT_OQ>(square, _mm256_set1_ps(1.0e-3));
    _mm256_mul_ps(_mm256_blendv_ps(tanh, series, near), _mm256_set1_ps(cap))
}
