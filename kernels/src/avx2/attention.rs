//! The products inside a tile of attention; those of few queries are in `tiles`.
use std::arch::x86_64::*;

use super::lanes;
use crate::attention::{AttentionKernels, Operand, PANEL, Product};

pub(crate) const KERNELS: AttentionKernels = AttentionKernels {
    f32: super::tiles::SINGLE,
    f16: super::tiles::HALF,
    blocks: None,
    // SAFETY: these leave only inside the table, which `detect` gives out.
    soften: Some(|scores, count, states, ahead| unsafe { super::soften::soften(scores, count, states, ahead) }),
    widen_blocks: super::blocks::widen,
    // SAFETY: as above.
    multiply: |a, b, c, product| unsafe { multiply(a, b, c, product) },
};

/// Rows of a product that stay in registers together, beside two loads and a broadcast.
const ROWS: usize = 6;

#[target_feature(enable = "avx2,fma")]
fn multiply(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    for row in (0..product.m).step_by(ROWS) {
        let (a, c) = (Operand { values: &a.values[row * a.stride..], ..a }, &mut c[row * product.stride..]);
        for column in (0..product.n).step_by(PANEL) {
            let (b, c) = (Operand { values: &b.values[column..], ..b }, &mut c[column..]);
            match product.m - row {
                1 => block::<1>(a, b, c, product),
                2 => block::<2>(a, b, c, product),
                3 => block::<3>(a, b, c, product),
                4 => block::<4>(a, b, c, product),
                5 => block::<5>(a, b, c, product),
                _ => block::<ROWS>(a, b, c, product),
            }
        }
    }
}

/// Computes M rows and 16 columns.
#[target_feature(enable = "avx2,fma")]
fn block<const M: usize>(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let rows: [&[f32]; M] = std::array::from_fn(|row| &a.values[row * a.stride..][..product.k]);
    let mut held = [[_mm256_setzero_ps(); 2]; M];
    if product.accumulate {
        for (row, held) in held.iter_mut().enumerate() {
            if let ([left, right], _) = c[row * product.stride..][..PANEL].as_chunks() {
                *held = [lanes::load(left), lanes::load(right)];
            }
        }
    }
    for (i, b) in (0..product.k).zip(b.values.chunks(b.stride)) {
        let ([left, right], _) = b[..PANEL].as_chunks() else { continue };
        let (left, right) = (lanes::load(left), lanes::load(right));
        for (held, row) in held.iter_mut().zip(rows) {
            let x = _mm256_set1_ps(row[i]);
            *held = [_mm256_fmadd_ps(x, left, held[0]), _mm256_fmadd_ps(x, right, held[1])];
        }
    }
    for (row, [first, second]) in held.into_iter().enumerate() {
        if let ([left, right], _) = c[row * product.stride..][..PANEL].as_chunks_mut() {
            lanes::store(left, first);
            lanes::store(right, second);
        }
    }
}
