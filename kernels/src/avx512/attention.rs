//! The products inside a tile of attention, on twice the columns; those of few queries are in `tiles`.
use std::arch::x86_64::*;

use crate::{
    attention::{AttentionKernels, Operand, PANEL, Product},
    avx2,
};

pub(super) const KERNELS: AttentionKernels = AttentionKernels {
    // SAFETY: this leaves only inside the table, which `detect` gives out.
    multiply: |a, b, c, product| unsafe { multiply(a, b, c, product) },
    f32: super::tiles::SINGLE,
    f16: super::tiles::HALF,
    blocks: Some(super::tiles::BLOCKS),
    // SAFETY: as above.
    soften: Some(|scores, count, states, ahead| unsafe { super::soften::soften(scores, count, states, ahead) }),
    ..avx2::attention::KERNELS
};

/// Rows of a product that stay in registers together, two vectors each.
const ROWS: usize = 8;

#[target_feature(enable = "avx512f")]
fn load(x: &[f32; PANEL]) -> __m512 {
    // SAFETY: `x` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(x: &mut [f32; PANEL], value: __m512) {
    // SAFETY: `x` is 64 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), value) }
}

#[target_feature(enable = "avx512f")]
fn multiply(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let mut column = 0;
    while column < product.n {
        let b = Operand { values: &b.values[column..], ..b };
        if product.n - column >= 2 * PANEL {
            columns::<2>(a, b, &mut c[column..], product);
            column += 2 * PANEL;
        } else {
            columns::<1>(a, b, &mut c[column..], product);
            column += PANEL;
        }
    }
}

/// Computes all rows of V vectors of columns.
#[target_feature(enable = "avx512f")]
fn columns<const V: usize>(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    for row in (0..product.m).step_by(ROWS) {
        let (a, c) = (Operand { values: &a.values[row * a.stride..], ..a }, &mut c[row * product.stride..]);
        match product.m - row {
            1 => block::<1, V>(a, b, c, product),
            2 => block::<2, V>(a, b, c, product),
            3 => block::<3, V>(a, b, c, product),
            4 => block::<4, V>(a, b, c, product),
            5 => block::<5, V>(a, b, c, product),
            6 => block::<6, V>(a, b, c, product),
            7 => block::<7, V>(a, b, c, product),
            _ => block::<ROWS, V>(a, b, c, product),
        }
    }
}

/// Computes M rows of V vectors. Every element is summed up from the first term to the last, as in the
/// other tiers.
#[target_feature(enable = "avx512f")]
fn block<const M: usize, const V: usize>(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let rows: [&[f32]; M] = std::array::from_fn(|row| &a.values[row * a.stride..][..product.k]);
    let mut held = [[_mm512_setzero_ps(); V]; M];
    if product.accumulate {
        for (row, held) in held.iter_mut().enumerate() {
            let (panels, _) = c[row * product.stride..][..V * PANEL].as_chunks();
            for (held, panel) in held.iter_mut().zip(panels) {
                *held = load(panel);
            }
        }
    }
    for (i, b) in (0..product.k).zip(b.values.chunks(b.stride)) {
        let (panels, _) = b[..V * PANEL].as_chunks();
        let columns: [__m512; V] = std::array::from_fn(|v| load(&panels[v]));
        for (held, row) in held.iter_mut().zip(rows) {
            let x = _mm512_set1_ps(row[i]);
            for (held, column) in held.iter_mut().zip(columns) {
                *held = _mm512_fmadd_ps(x, column, *held);
            }
        }
    }
    for (row, held) in held.into_iter().enumerate() {
        let (panels, _) = c[row * product.stride..][..V * PANEL].as_chunks_mut();
        for (held, panel) in held.into_iter().zip(panels) {
            store(panel, held);
        }
    }
}
