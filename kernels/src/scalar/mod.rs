//! Portable kernels, and the meaning of every other table.
pub(crate) mod codes;
mod log_sum_exp;
pub(crate) mod matmul;
pub(crate) mod part;
mod probe;

use crate::dispatch::{Kernels, Tier};

pub(crate) static KERNELS: Kernels = Kernels {
    tier: Tier::Scalar,
    log_sum_exp_f32: log_sum_exp::log_sum_exp_f32,
    quantize_codes: codes::quantize_codes,
    matmul: matmul::matmul,
    read: probe::read,
    multiply_adds: probe::multiply_adds,
};

pub(crate) use log_sum_exp::{Largest, exp_sum};
