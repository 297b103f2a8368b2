//! NEON kernels, with products of bytes where the processor has them (`dotprod`).
//!
//! `q2_k` and `q3_k` weights, whose scales do not fit in bytes with their codes, are unpacked by their
//! portable meaning and multiplied as 16-bit numbers.
#![expect(clippy::needless_range_loop, reason = "the loops are unrolled over registers, which have numbers")]
mod activation;
mod attention;
mod bytes;
mod codes;
mod dot;
mod float;
mod gemm;
mod gemv;
mod half;
mod lanes;
mod matmul;
mod norm;
mod panel;
mod part;
mod probe;
mod rope;
mod softmax;
mod vectors;

use std::arch::is_aarch64_feature_detected;

use crate::{
    dispatch::{Kernels, Tier},
    matmul::MatmulKernel,
    scalar,
};

static KERNELS: Kernels = with(
    // SAFETY: this table is private and leaves only through `detect`, which has seen the feature.
    |weights, activations, tile| unsafe { matmul::by_words(weights, activations, tile) },
    // SAFETY: as above.
    |rounds| unsafe { probe::multiply_add_words(rounds) },
);

static BYTE_KERNELS: Kernels = with(
    // SAFETY: as above, and `detect` has seen `dotprod`.
    |weights, activations, tile| unsafe { matmul::by_bytes(weights, activations, tile) },
    // SAFETY: as above.
    |rounds| unsafe { probe::multiply_add_bytes(rounds) },
);

/// Returns the table with one of the products, and the probe of its instruction.
const fn with(matmul: MatmulKernel, multiply_add_pairs: fn(usize) -> i32) -> Kernels {
    Kernels {
        tier: Tier::Neon,
        // SAFETY: the tables made of this leave only through `detect`, which has seen the feature.
        norm: norm::KERNELS,
        rope: rope::KERNELS,
        activation: activation::KERNELS,
        softmax: softmax::KERNELS,
        half: half::KERNELS,
        // NEON counts bits, and the compiler sees that.
        nearest: scalar::NEAREST,
        attention: attention::KERNELS,
        // SAFETY: as above.
        quantize_codes: |x, largest_code, codes, blocks| unsafe {
            codes::quantize_codes(x, largest_code, codes, blocks)
        },
        matmul,
        // SAFETY: as above.
        read: |bytes| unsafe { probe::read(bytes) },
        // SAFETY: as above.
        multiply_adds: |rounds| unsafe { probe::multiply_adds(rounds) },
        multiply_add_pairs,
    }
}

pub(crate) fn detect() -> Option<&'static Kernels> {
    let kernels = if is_aarch64_feature_detected!("dotprod") { &BYTE_KERNELS } else { &KERNELS };
    is_aarch64_feature_detected!("neon").then_some(kernels)
}
