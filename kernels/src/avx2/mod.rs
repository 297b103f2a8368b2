//! AVX2 + FMA + F16C kernels.
#![expect(clippy::needless_range_loop, reason = "the loops are unrolled over registers, which have numbers")]
mod activation;
pub(crate) mod ahead;
pub(crate) mod attention;
mod blocks;
mod byte_gemm;
mod codes;
pub(crate) mod float;
mod gemm;
pub(crate) mod gemv;
mod half;
mod lanes;
pub(crate) mod matmul;
pub(crate) mod nearest;
mod norm;
pub(crate) mod panel;
pub(crate) mod part;
mod probe;
mod rope;
pub(crate) mod soften;
pub(crate) mod softmax;
pub(crate) mod tiles;
pub(crate) mod vectors;

use crate::dispatch::{Kernels, Tier};

pub(crate) static KERNELS: Kernels = Kernels {
    tier: Tier::Avx2,
    // SAFETY: this table is private and leaves only through `detect`, which has seen the features.
    norm: norm::KERNELS,
    rope: rope::KERNELS,
    activation: activation::KERNELS,
    softmax: softmax::KERNELS,
    half: half::KERNELS,
    nearest: nearest::KERNELS,
    attention: attention::KERNELS,
    // SAFETY: as above.
    quantize_codes: |x, largest_code, codes, blocks| unsafe { codes::quantize_codes(x, largest_code, codes, blocks) },
    // SAFETY: as above.
    matmul: |weights, activations, tile| unsafe { matmul::matmul(weights, activations, tile) },
    // SAFETY: as above.
    read: |bytes| unsafe { probe::read(bytes) },
    // SAFETY: as above.
    multiply_adds: |rounds| unsafe { probe::multiply_adds(rounds) },
    // SAFETY: as above.
    multiply_add_pairs: |rounds| unsafe { probe::multiply_add_pairs(rounds) },
};

pub(crate) fn detect() -> Option<&'static Kernels> {
    let has = std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c");
    has.then_some(&KERNELS)
}
