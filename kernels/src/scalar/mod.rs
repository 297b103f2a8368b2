//! Portable kernels, and the meaning of every other table.
mod activation;
mod attention;
pub(crate) mod codes;
mod half;
pub(crate) mod matmul;
mod nearest;
mod norm;
pub(crate) mod part;
mod probe;
mod rope;
mod softmax;

use crate::dispatch::{Kernels, Tier};

pub(crate) static KERNELS: Kernels = Kernels {
    tier: Tier::Scalar,
    norm: norm::KERNELS,
    rope: rope::KERNELS,
    activation: activation::KERNELS,
    softmax: softmax::KERNELS,
    half: half::KERNELS,
    nearest: nearest::KERNELS,
    attention: attention::KERNELS,
    quantize_codes: codes::quantize_codes,
    matmul: matmul::matmul,
    read: probe::read,
    multiply_adds: probe::multiply_adds,
    multiply_add_pairs: probe::multiply_add_pairs,
};

// What the other tiers share: tails, constants, the arithmetic of a whole row.
#[cfg(target_arch = "x86_64")]
pub(crate) use nearest::{dot, row};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use {
    activation::{ERFC, GELU_CUBIC, GELU_LINEAR},
    attention::transpose as transpose_keys,
    half::{KERNELS as HALF, widen as widen_half},
    nearest::KERNELS as NEAREST,
    norm::inverse_root,
    rope::rotate_pair,
    softmax::exponential_sum,
};
