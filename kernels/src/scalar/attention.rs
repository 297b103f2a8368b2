//! The products inside a tile of attention.
use crate::attention::{AttentionKernels, KEY_TILE, Operand, Product, TileKernels, widen_blocks};

pub(crate) const KERNELS: AttentionKernels = AttentionKernels {
    f32: TileKernels {
        transpose: |keys, d, out| transpose(keys, d, out, |x| x),
        widen: |x, out| out.copy_from_slice(x),
        scores: |queries, keys, d, out, _| scores(queries, keys, d, out, |x| x),
        combine: |weights, values, d, sums, _| combine(weights, values, d, sums, |x| x),
    },
    f16: TileKernels {
        transpose: |keys, d, out| transpose(keys, d, out, super::half::widen),
        widen: super::half::KERNELS.widen,
        scores: |queries, keys, d, out, _| scores(queries, keys, d, out, super::half::widen),
        combine: |weights, values, d, sums, _| combine(weights, values, d, sums, super::half::widen),
    },
    blocks: None,
    soften: None,
    widen_blocks,
    multiply,
};

pub(crate) fn transpose<T: Copy>(keys: &[T], d: usize, out: &mut [f32], widen: impl Fn(T) -> f32) {
    for (t, key) in keys.chunks_exact(d).enumerate() {
        for (i, x) in key.iter().enumerate() {
            out[i * KEY_TILE + t] = widen(*x);
        }
    }
}

fn scores<T: Copy>(queries: &[f32], keys: &[T], d: usize, out: &mut [f32], widen: impl Fn(T) -> f32) {
    for (query, out) in queries.chunks_exact(d).zip(out.chunks_exact_mut(KEY_TILE)) {
        for (out, key) in out.iter_mut().zip(keys.chunks_exact(d)) {
            *out = query.iter().zip(key).map(|(q, k)| q * widen(*k)).sum();
        }
    }
}

fn combine<T: Copy>(weights: &[f32], values: &[T], d: usize, sums: &mut [f32], widen: impl Fn(T) -> f32) {
    for (weights, sums) in weights.chunks_exact(KEY_TILE).zip(sums.chunks_exact_mut(d)) {
        for (weight, value) in weights.iter().zip(values.chunks_exact(d)) {
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum += weight * widen(*value);
            }
        }
    }
}

fn multiply(a: Operand<'_>, b: Operand<'_>, c: &mut [f32], product: Product) {
    let Product { m, n, k, stride, accumulate } = product;
    for row in 0..m {
        let c = &mut c[row * stride..][..n];
        if !accumulate {
            c.fill(0.0);
        }
        for (a, b) in a.values[row * a.stride..][..k].iter().zip(b.values.chunks(b.stride)) {
            for (c, b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
}
