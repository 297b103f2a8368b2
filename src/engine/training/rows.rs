//! What is computed row by row, and back.
use ruvlab_kernels::Kernels;

use super::{
    TopLogits,
    workers::{ROWS, Workers},
};
use crate::model::{rope::RopeLayout, spec::Activation};

impl Workers {
    /// Returns `x / sqrt(mean(x²) + eps) * weight`, row by row.
    pub(super) fn norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        let size = ROWS * weight.len();
        self.each(out.chunks_mut(size).zip(x.chunks(size)), |(out, x)| self.kernels.rms_norm(x, weight, eps, out));
        out
    }

    /// Replaces the gradient of a norm's output by that of its input.
    pub(super) fn norm_back(&self, x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32]) {
        let size = ROWS * weight.len();
        self.each(grad.chunks_mut(size).zip(x.chunks(size)), |(grad, x)| {
            for (grad, x) in grad.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
                norm_row_back(x, weight, eps, grad);
            }
        });
    }

    /// Applies `work` to all rows of `out`, with their numbers.
    pub(super) fn rows(&self, out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        self.each(out.chunks_mut(ROWS * width).enumerate(), |(part, rows)| {
            for (at, row) in rows.chunks_exact_mut(width).enumerate() {
                work(part * ROWS + at, row);
            }
        });
    }
}

/// Replaces the gradient of one row's norm.
pub(super) fn norm_row_back(x: &[f32], weight: &[f32], eps: f32, grad: &mut [f32]) {
    let squares: f32 = lanes(x.iter().map(|x| x * x));
    let factor = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    grad.iter_mut().zip(weight).for_each(|(g, w)| *g *= w);
    let dot = lanes(x.iter().zip(&*grad).map(|(x, g)| x * g));
    let pull = dot * factor * factor * factor / x.len() as f32;
    grad.iter_mut().zip(x).for_each(|(g, x)| *g = *g * factor - x * pull);
}

/// Returns a sum, in an order that compilers turn into vectors.
fn lanes(mut values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut sums = [0.0f32; 16];
    for _ in 0..values.len() / sums.len() {
        for sum in &mut sums {
            *sum += values.next().unwrap_or(0.0);
        }
    }
    values.sum::<f32>() + sums.iter().sum::<f32>()
}

/// A rotation of heads to the positions of their rows.
pub(super) struct Turn {
    /// `[N, R / 2]` each.
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
    /// R / 2.
    pub(super) pairs: usize,
    pub(super) layout: RopeLayout,
}

impl Turn {
    /// Rotates the heads of one row, or back when `sign` is negative.
    pub(super) fn rotate(&self, row: usize, heads: &mut [f32], head_dim: usize, sign: f32) {
        let at = row * self.pairs..(row + 1) * self.pairs;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        for head in heads.chunks_exact_mut(head_dim) {
            match self.layout {
                RopeLayout::Halves => {
                    let (low, high) = head.split_at_mut(self.pairs);
                    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                        let sin = sign * sin;
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
                RopeLayout::Interleaved => {
                    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                        let ([a, b], sin) = (*pair, sign * sin);
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                }
            }
        }
    }
}

/// Returns `activation(gate) * up` of a row of both.
pub(super) fn gate(kernels: &Kernels, activation: Activation, both: &[f32], out: &mut [f32]) {
    let (gate, up) = both.split_at(out.len());
    out.copy_from_slice(gate);
    match activation {
        Activation::Silu => kernels.silu_gate(out, up),
        Activation::GeluTanh => kernels.gelu_tanh_gate(out, up),
    }
}

/// Replaces a row of both by their gradients, given that of the output. `room` is as long as the gate.
pub(super) fn gate_back(kernels: &Kernels, activation: Activation, both: &mut [f32], grad: &[f32], room: &mut [f32]) {
    let (gate, up) = both.split_at_mut(grad.len());
    let root = (2.0 / std::f32::consts::PI).sqrt();
    for (room, x) in room.iter_mut().zip(&*gate) {
        *room = match activation {
            Activation::Silu => -x,
            // 2 σ(2 z) - 1 is tanh(z).
            Activation::GeluTanh => -2.0 * root * (x + 0.044_715 * x * x * x),
        };
    }
    kernels.exp(room);
    for (((gate, up), grad), power) in gate.iter_mut().zip(up).zip(grad).zip(room) {
        let (x, share) = (*gate, 1.0 / (1.0 + *power));
        let (activated, slope) = match activation {
            Activation::Silu => (x * share, share * (1.0 + x * (1.0 - share))),
            Activation::GeluTanh => {
                let bent = 2.0 * share - 1.0;
                let slope = root * (1.0 + 3.0 * 0.044_715 * x * x);
                (0.5 * x * (1.0 + bent), 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent * bent) * slope)
            }
        };
        (*gate, *up) = (grad * *up * slope, grad * activated);
    }
}

/// Returns a token drawn as the model holds it likely; `share`, from 0 to 1, says which.
pub(super) fn drawn(kernels: &Kernels, logits: &[f32], cap: Option<f32>, share: f64) -> usize {
    let mut likely = logits.to_vec();
    if let Some(cap) = cap {
        kernels.soft_cap(&mut likely, cap);
    }
    let width = likely.len();
    kernels.softmax(&mut likely, width);
    let mut left = share * likely.iter().map(|p| f64::from(*p)).sum::<f64>();
    for (token, p) in likely.iter().enumerate() {
        left -= f64::from(*p);
        if left < 0.0 {
            return token;
        }
    }
    width - 1
}

/// Returns the mean square of how far logits are from kept ones and leaves its gradient, times `weight`, in
/// their place. Logits are bent to below `cap`.
pub(super) fn distance(kernels: &Kernels, logits: &mut [f32], kept: &TopLogits, cap: Option<f32>, weight: f32) -> f64 {
    if let Some(cap) = cap {
        kernels.soft_cap(logits, cap);
    }
    let count = kept.tokens.len().max(1) as f32;
    let (mut loss, mut slopes) = (0.0, Vec::with_capacity(kept.tokens.len()));
    for (token, before) in kept.tokens.iter().zip(&kept.values) {
        let now = logits[*token as usize];
        let bent = cap.map_or(1.0, |cap| 1.0 - (now / cap) * (now / cap));
        loss += f64::from(now - before).powi(2) / f64::from(count);
        slopes.push(2.0 * weight * bent * (now - before) / count);
    }
    logits.fill(0.0);
    kept.tokens.iter().zip(slopes).for_each(|(token, slope)| logits[*token as usize] = slope);
    loss
}

/// Returns the negative log-likelihood of a token and leaves its gradient, times `weight`, in place of
/// the logits. Logits are bent to below `cap`.
pub(super) fn likelihood(kernels: &Kernels, logits: &mut [f32], target: usize, cap: Option<f32>, weight: f32) -> f64 {
    let slopes = cap.map(|cap| {
        kernels.soft_cap(logits, cap);
        logits.iter().map(|x| 1.0 - (x / cap) * (x / cap)).collect::<Vec<f32>>()
    });
    let loss = kernels.log_sum_exp_f32(logits) - f64::from(logits[target]);
    kernels.softmax(logits, logits.len());
    logits[target] -= 1.0;
    if let Some(slopes) = slopes {
        logits.iter_mut().zip(slopes).for_each(|(grad, slope)| *grad *= slope);
    }
    kernels.scale(logits, weight);
    loss
}
