//! Normalisation of rows.
use crate::norm::NormKernels;

pub(crate) const KERNELS: NormKernels = NormKernels { rms_norm, add_rms_norm, layer_norm };

/// Returns what a row of that mean square is multiplied by.
pub(crate) fn inverse_root(mean_square: f64, eps: f32) -> f32 {
    (mean_square + f64::from(eps)).sqrt().recip() as f32
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let factor = inverse_root(squares / width as f64, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

fn add_rms_norm(stream: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (stream, delta) in stream.iter_mut().zip(delta) {
        *stream += delta;
    }
    rms_norm(stream, weight, eps, out);
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
        let square = |x: &f32| (f64::from(*x) - mean) * (f64::from(*x) - mean);
        let factor = inverse_root(x.iter().map(square).sum::<f64>() / width as f64, eps);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (f64::from(*x) - mean) as f32 * factor * weight + bias;
        }
    }
}
