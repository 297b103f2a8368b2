//! AVX2 + FMA + F16C kernels.
mod activation;
mod attention;
mod half;
mod lanes;
mod log_sum_exp;
mod norm;
mod rope;
mod softmax;

use crate::{
    dispatch::{Kernels, Tier},
    scalar,
};

static KERNELS: Kernels = Kernels {
    tier: Tier::Avx2,
    // SAFETY: this table is private and leaves only through `detect`, which has seen both features.
    log_sum_exp_f32: |logits| unsafe { log_sum_exp::log_sum_exp_f32(logits) },
    norm: norm::KERNELS,
    rope: rope::KERNELS,
    activation: activation::KERNELS,
    softmax: softmax::KERNELS,
    half: half::KERNELS,
    attention: attention::KERNELS,
    quantize_codes: scalar::codes::quantize_codes,
    matmul: scalar::matmul::matmul,
};

pub(crate) fn detect() -> Option<&'static Kernels> {
    let all = std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c");
    all.then_some(&KERNELS)
}
