//! AVX2 + FMA kernels.
mod lanes;
mod log_sum_exp;

use crate::{
    dispatch::{Kernels, Tier},
    scalar,
};

static KERNELS: Kernels = Kernels {
    tier: Tier::Avx2,
    // SAFETY: this table is private and leaves only through `detect`, which has seen both features.
    log_sum_exp_f32: |logits| unsafe { log_sum_exp::log_sum_exp_f32(logits) },
    quantize_codes: scalar::codes::quantize_codes,
    matmul: scalar::matmul::matmul,
};

pub(crate) fn detect() -> Option<&'static Kernels> {
    (std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")).then_some(&KERNELS)
}
