//! Softmax of rows, and its online form.
use crate::softmax::SoftmaxKernels;

pub(crate) const KERNELS: SoftmaxKernels = SoftmaxKernels {
    largest: |x| x.iter().copied().fold(f32::NEG_INFINITY, f32::max),
    exponentials,
    exponential_sum,
    scale: super::activation::KERNELS.scale,
};

fn exponentials(x: &mut [f32], largest: f32) -> f32 {
    let mut sum = 0.0f64;
    for x in x {
        *x = (*x - largest).exp();
        sum += f64::from(*x);
    }
    sum as f32
}

pub(crate) fn exponential_sum(x: &[f32], largest: f32) -> f64 {
    x.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).sum()
}
