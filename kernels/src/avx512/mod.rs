//! AVX-512 kernels with 16-bit dot products (VNNI): what gains by them, the rest is AVX2's.
#![expect(clippy::needless_range_loop, reason = "the loops are unrolled over registers, which have numbers")]
mod attention;
mod byte_gemm;
mod byte_kernel;
mod bytes;
mod float;
mod gemm;
mod gemv;
mod matmul;
mod micro_kernel;
mod nearest;
mod numbers;
mod part;
mod probe;
mod soften;
mod softmax;
mod sums;
mod tiles;

use crate::{
    avx2,
    dispatch::{Kernels, Tier},
};

static KERNELS: Kernels = Kernels {
    tier: Tier::Avx512,
    // SAFETY: this table is private and leaves only through `detect`, which has seen the features.
    matmul: |weights, activations, tile| unsafe { matmul::matmul(weights, activations, tile) },
    attention: attention::KERNELS,
    nearest: nearest::KERNELS,
    // SAFETY: as above.
    multiply_adds: |rounds| unsafe { probe::multiply_adds(rounds) },
    // SAFETY: as above.
    multiply_add_pairs: |rounds| unsafe { probe::multiply_add_pairs(rounds) },
    softmax: softmax::KERNELS,
    ..avx2::KERNELS
};

pub(crate) fn detect() -> Option<&'static Kernels> {
    let has = avx2::detect().is_some()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vnni");
    has.then_some(&KERNELS)
}
