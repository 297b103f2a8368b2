//! Operations with a backward pass of their own: candle's fused ones have none, and its product would
//! also give a gradient to the frozen matrix, which costs as much as the one that is wanted.
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType,
    backend::BackendStorage, bail,
};

use super::super::linear::Linear;
use crate::model::{rope::RopeLayout, spec::Activation};

/// Returns `exp(x)` within 2 units in the last place, in a form compilers turn into vectors; what is
/// below -87 counts as -87.
fn exp(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let power = rounded - ROUNDER;
    // ln 2 in two parts, the first of which has few bits (Cody and Waite).
    let rest = power.mul_add(2.121_944_4e-4, power.mul_add(-0.693_359_4, x));
    let series = COEFFICIENTS.iter().fold(0.0f32, |sum, c| sum.mul_add(rest, *c));
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    (series * rest).mul_add(rest, rest + 1.0) * f32::from_bits(exponent)
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&f32::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("values must lie side by side"),
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Returns `x Wᵀ` of `[N, I]` and `[O, I]`.
fn product(x: (&CpuStorage, &Layout), w: (&CpuStorage, &Layout)) -> Result<(CpuStorage, Shape)> {
    let ((n, i), (o, _)) = (x.1.shape().dims2()?, w.1.shape().dims2()?);
    Ok((x.0.matmul(w.0, (1, n, o, i), x.1, &w.1.transpose(0, 1)?)?, Shape::from((n, o))))
}

/// A product with a matrix that does not learn: `x Wᵀ`.
pub(super) struct Frozen(pub(super) Linear);

impl Frozen {
    fn forward(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let matrix = self.0.dense()?;
        let (storage, matrix_layout) = matrix.storage_and_layout();
        match &*storage {
            Storage::Cpu(matrix) => product((x, layout), (matrix, matrix_layout)),
            _ => bail!("training runs on the CPU"),
        }
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(x, layout)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.matmul(&self.0.dense()?).map(Some)
    }
}

/// A product with a matrix that does not learn, and a low-rank change that does: `x Wᵀ + s (x Aᵀ) Bᵀ`.
pub(super) struct Adapted {
    pub(super) frozen: Frozen,
    pub(super) scale: f64,
    /// Whether anything below learns.
    pub(super) wants_input: bool,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (base, shape) = self.frozen.forward(x, x_layout)?;
        let (narrow, narrow_shape) = product((x, x_layout), (a, a_layout))?;
        let (change, _) = product((&narrow, &Layout::contiguous(narrow_shape)), (b, b_layout))?;
        let (CpuStorage::F32(mut base), CpuStorage::F32(change)) = (base, change) else {
            bail!("training runs in f32")
        };
        let scale = self.scale as f32;
        base.iter_mut().zip(&change).for_each(|(sum, change)| *sum = change.mul_add(scale, *sum));
        Ok((CpuStorage::F32(base), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let narrow = x.matmul(&a.t()?)?;
        let b_grad = (grad.t()?.matmul(&narrow)? * self.scale)?;
        let narrow_grad = (grad.matmul(b)? * self.scale)?;
        let a_grad = narrow_grad.t()?.matmul(x)?;
        let x_grad = if self.wants_input {
            Some((grad.matmul(&self.frozen.0.dense()?)? + narrow_grad.matmul(a)?)?)
        } else {
            None
        };
        Ok((x_grad, Some(a_grad), Some(b_grad)))
    }
}

/// `x / sqrt(mean(x²) + eps) * weight` along the last dimension.
pub(super) struct RmsNorm {
    pub(super) weight: Tensor,
    pub(super) eps: f32,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, layout)?, values(&self.weight)?);
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            let factor = inverse_root(row, self.eps);
            out.extend(row.iter().zip(&weight).map(|(x, w)| x * factor * w));
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let weight = values(&self.weight)?;
        let (inputs, grads, width) = (values(x)?, values(grad)?, weight.len());
        let mut out = Vec::with_capacity(inputs.len());
        for (row, grad) in inputs.chunks_exact(width).zip(grads.chunks_exact(width)) {
            let factor = inverse_root(row, self.eps);
            let dot: f32 = row.iter().zip(grad).zip(&weight).map(|((x, g), w)| x * g * w).sum();
            let pull = dot * factor * factor * factor / width as f32;
            out.extend(row.iter().zip(grad).zip(&weight).map(|((x, g), w)| g * w * factor - x * pull));
        }
        Tensor::from_vec(out, x.shape(), x.device()).map(Some)
    }
}

fn inverse_root(row: &[f32], eps: f32) -> f32 {
    1.0 / (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + eps).sqrt()
}

/// Heads `[N, H, D]` with their first values rotated, each row to its own position.
#[derive(Clone)]
pub(super) struct Turn {
    /// `[N, R / 2]` each.
    pub(super) cos: Arc<Vec<f32>>,
    pub(super) sin: Arc<Vec<f32>>,
    /// R / 2.
    pub(super) pairs: usize,
    pub(super) layout: RopeLayout,
}

impl Turn {
    /// Rotates by the angles, or back when `sign` is negative.
    fn rotate(&self, (_, heads, width): (usize, usize, usize), x: &[f32], sign: f32) -> Vec<f32> {
        let mut out = x.to_vec();
        for (row, head) in out.chunks_exact_mut(width).enumerate() {
            let at = row / heads * self.pairs;
            let angles = self.cos[at..at + self.pairs].iter().zip(&self.sin[at..at + self.pairs]);
            for (pair, (cos, sin)) in angles.enumerate() {
                let (i, j) = match self.layout {
                    RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
                    RopeLayout::Halves => (pair, pair + self.pairs),
                };
                let (a, b, sin) = (head[i], head[j], sign * sin);
                (head[i], head[j]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
        out
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.rotate(layout.shape().dims3()?, slice(x, layout)?, 1.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let out = self.rotate(x.dims3()?, &values(grad)?, -1.0);
        Tensor::from_vec(out, x.shape(), x.device()).map(Some)
    }
}

/// The softmax of each row of scores over the tokens its position sees.
///
/// # Shapes
///
/// The last dimension is the keys of a sequence of as many tokens; the r-th row is of position
/// r modulo that.
pub(super) struct Weigh {
    pub(super) window: Option<usize>,
}

impl CustomOp1 for Weigh {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let t = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0.0; x.len()];
        for (r, (row, out)) in x.chunks_exact(t).zip(out.chunks_exact_mut(t)).enumerate() {
            let position = r % t;
            let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let (row, out) = (&row[first..=position], &mut out[first..=position]);
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.iter_mut().zip(row).for_each(|(out, x)| *out = exp(x - most));
            let sum: f32 = out.iter().sum();
            out.iter_mut().for_each(|out| *out /= sum);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (mut weights, grads, t) = (values(result)?, values(grad)?, x.dims().last().copied().unwrap_or(1));
        for (weights, grads) in weights.chunks_exact_mut(t).zip(grads.chunks_exact(t)) {
            let mean: f32 = weights.iter().zip(grads).map(|(w, g)| w * g).sum();
            weights.iter_mut().zip(grads).for_each(|(w, g)| *w *= g - mean);
        }
        Tensor::from_vec(weights, x.shape(), x.device()).map(Some)
    }
}

/// `activation(gate) * up`.
pub(super) struct Gate(pub(super) Activation);

impl Gate {
    /// Returns the activation and its slope.
    fn at(&self, x: f32) -> (f32, f32) {
        match self.0 {
            Activation::Silu => {
                let share = 1.0 / (1.0 + exp(-x));
                (x * share, share * (1.0 + x * (1.0 - share)))
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f32::consts::PI).sqrt();
                // 2 σ(2 z) - 1 is tanh(z).
                let bent = 2.0 / (1.0 + exp(-2.0 * root * (x + 0.044_715 * x * x * x))) - 1.0;
                let slope = root * (1.0 + 3.0 * 0.044_715 * x * x);
                (0.5 * x * (1.0 + bent), 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent * bent) * slope)
            }
        }
    }
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let out = gate.iter().zip(up).map(|(gate, up)| self.at(*gate).0 * up).collect();
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut gates, mut ups, grads) = (values(gate)?, values(up)?, values(grad)?);
        for ((gate, up), grad) in gates.iter_mut().zip(&mut ups).zip(&grads) {
            let (activated, slope) = self.at(*gate);
            (*gate, *up) = (grad * *up * slope, grad * activated);
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(gates)?), Some(tensor(ups)?)))
    }
}

/// Returns the negative log-likelihood of a token and leaves its gradient in place of the logits.
pub(super) fn likelihood(logits: &mut [f32], target: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let logit = f64::from(logits[target]) - f64::from(most);
    logits.iter_mut().for_each(|x| *x = exp(*x - most));
    // In pieces, so that f32 sums stay exact enough to be fast.
    let sum: f64 = logits.chunks(256).map(|part| f64::from(part.iter().sum::<f32>())).sum();
    let inverse = (1.0 / sum) as f32;
    logits.iter_mut().for_each(|x| *x *= inverse);
    logits[target] -= 1.0;
    sum.ln() - logit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_two_units() {
        let mut worst = 0.0f64;
        for step in -870_000..870_000 {
            let x = step as f32 * 1.0e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst <= 2.5e-7, "{worst}");
    }
}
