//! CPU kernels of ruvlab: slices in, slices out; what is used again and again is allocated once.
//!
//! Weights lie in an [`Arena`] as [`Matrix`], rows interleaved for the registers; the inputs of a
//! product are coded once ([`Activations`]) for all matrices that read them; [`Kernels::matmul`]
//! multiplies some rows for all tokens and writes a [`Tile`] of an [`Output`], so that the threads of
//! a [`Pool`] can work on one product, or on several in one phase, without waiting for each other.
//!
//! Each operation has a portable meaning in `scalar` and faster versions in the other tiers, under
//! the same file names. One table of functions is picked when the first kernel is called: the best
//! tier this processor runs, or the one `RUVLAB_KERNELS` names. A plain `cargo build` is fast.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "only vector tiers use all of it")
)]
#![deny(unsafe_code)]
mod activation;
mod activations;
#[expect(unsafe_code, reason = "memory that threads share is settled here, and used safely everywhere else")]
mod arena;
mod attention;
mod dispatch;
mod format;
mod half;
mod matmul;
mod matrix;
mod nearest;
mod norm;
mod output;
mod pool;
mod probe;
mod quant;
mod rope;
mod scalar;
mod softmax;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod avx512;
#[cfg(test)]
mod check;
#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod neon;

pub use activations::{ActivationClass, Activations, Precision, SharedRows};
pub use arena::{Arena, ArenaError, CacheBuffer, CacheMemory, Claims};
pub use attention::{
    AttentionScratch, AttentionShape, CacheType, Cached, CachedMut, ContextPart, KEY_PART, KEY_TILE, KeyValuePage,
    KeyValuePages, SMALLEST_PAGE, part_values,
};
pub use dispatch::{Kernels, Tier, TierError, active, for_tier, select, setting};
pub use format::Format;
pub use matmul::{Ahead, matmul_pooled};
pub use matrix::{Matrix, PackError, RowBytes};
pub use nearest::DISTANCES_A_MASK;
pub use output::{Output, Tile};
pub use pool::{Chunks, Pool};
pub use probe::{MULTIPLY_ADDS_A_ROUND, ROUNDS_AT_ONCE};
pub use quant::{QuantizeError, dequantize_row, quantize_row};
pub use rope::RopePairs;

/// Returns `ln Σ exp(logits[i])`, the normaliser of a softmax.
///
/// # Numerics
///
/// Terms are computed relative to the largest logit and summed in f64; the absolute error is at
/// most 1e-6 in every tier (differences of logits are rounded to f32 in the vector ones). NaN anywhere gives NaN; the largest logit infinite gives that infinity;
/// no logits give negative infinity.
///
/// # Examples
///
/// ```
/// let normaliser = ruvlab_kernels::log_sum_exp_f32(&[0.0, 0.0]);
/// assert!((normaliser - 2.0f64.ln()).abs() <= 1.0e-6);
/// ```
#[must_use]
pub fn log_sum_exp_f32(logits: &[f32]) -> f64 {
    active().log_sum_exp_f32(logits)
}
