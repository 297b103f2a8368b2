//! Parameters that are measured together: number by number, or in the product they are factors of.
use super::pulls::Pulls;
use crate::adapt::optim::Real;

/// One list of parameters that are measured together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Block {
    /// Number by number: D = θ - θ*.
    Plain {
        /// Numbers.
        count: usize,
    },
    /// In the product: D = s (B A - B* A*), with an importance for each of its elements. The parameters
    /// are A `[rank, inputs]`, then B `[outputs, rank]`, row-major. Unlike in `Plain`, a penalty is the same
    /// for all factors of one product.
    Product {
        /// m.
        outputs: usize,
        /// n.
        inputs: usize,
        /// r.
        rank: usize,
        /// s.
        scale: f64,
    },
    /// As `Product`, with importances of rank 1: `F_ij = d_i a_j`, kept as d, then a. All costs O((m + n) r²).
    Outer {
        /// m.
        outputs: usize,
        /// n.
        inputs: usize,
        /// r.
        rank: usize,
        /// s.
        scale: f64,
    },
}

/// The numbers of one factor pair, widened.
pub(super) struct Factors {
    pub(super) a: Vec<f64>,
    pub(super) b: Vec<f64>,
}

/// Shapes of a factor pair.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) r: usize,
    pub(super) s: f64,
}

impl Shape {
    pub(super) fn factors<T: Real>(self, parameters: &[T]) -> Factors {
        let (a, b) = parameters.split_at(self.r * self.n);
        let widen = |values: &[T]| values.iter().map(|value| value.widen()).collect();
        Factors { a: widen(a), b: widen(b) }
    }

    /// Writes row `i` of `s B A` into `row`, or subtracts it.
    pub(super) fn row(self, factors: &Factors, i: usize, sign: f64, row: &mut [f64]) {
        for k in 0..self.r {
            let b = sign * self.s * factors.b[i * self.r + k];
            let a = &factors.a[k * self.n..(k + 1) * self.n];
            row.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
    }

    /// Returns `Xᵀ diag(w) Y` of `[m, r]` each.
    pub(super) fn tall(self, x: &[f64], w: &[f64], y: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.r * self.r];
        for (i, w) in w.iter().enumerate() {
            let (x, y) = (&x[i * self.r..], &y[i * self.r..]);
            for k in 0..self.r {
                (0..self.r).for_each(|l| out[k * self.r + l] += x[k] * w * y[l]);
            }
        }
        out
    }

    /// Returns `X diag(w) Yᵀ` of `[r, n]` each.
    pub(super) fn wide(self, x: &[f64], w: &[f64], y: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.r * self.r];
        for k in 0..self.r {
            for l in 0..self.r {
                let (x, y) = (&x[k * self.n..(k + 1) * self.n], &y[l * self.n..]);
                out[k * self.r + l] = x.iter().zip(w).zip(y).map(|((x, w), y)| x * w * y).sum();
            }
        }
        out
    }
}

pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

pub(super) fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.widen()).collect()
}

impl Block {
    pub(super) fn shape(self) -> Option<Shape> {
        match self {
            Self::Plain { .. } => None,
            Self::Product { outputs: m, inputs: n, rank: r, scale: s }
            | Self::Outer { outputs: m, inputs: n, rank: r, scale: s } => Some(Shape { m, n, r, s }),
        }
    }

    /// Returns how many parameters it has.
    #[must_use]
    pub fn parameters(self) -> usize {
        match (self, self.shape()) {
            (Self::Plain { count }, _) => count,
            (_, Some(Shape { m, n, r, .. })) => r * (m + n),
            (_, None) => 0,
        }
    }

    /// Returns how many numbers its importances are.
    #[must_use]
    pub fn importances(self) -> usize {
        match self {
            Self::Plain { count } => count,
            Self::Product { outputs, inputs, .. } => outputs * inputs,
            Self::Outer { outputs, inputs, .. } => outputs + inputs,
        }
    }

    /// Returns how many deviations are weighted.
    #[must_use]
    pub fn coordinates(self) -> usize {
        match self {
            Self::Plain { count } => count,
            Self::Product { outputs, inputs, .. } | Self::Outer { outputs, inputs, .. } => outputs * inputs,
        }
    }

    pub(super) fn half_square<T: Real>(self, importance: &[T], anchor: &[T], parameters: &[T]) -> f64 {
        let Some(shape) = self.shape() else {
            let squares = importance.iter().zip(anchor).zip(parameters);
            return 0.5 * squares.map(|((f, a), p)| f.widen() * (p.widen() - a.widen()).powi(2)).sum::<f64>();
        };
        let (now, then) = (shape.factors(parameters), shape.factors(anchor));
        if let Self::Outer { .. } = self {
            let importance = widened(importance);
            let (d, a) = importance.split_at(shape.m);
            let term = |x: &Factors, y: &Factors| dot(&shape.tall(&x.b, d, &y.b), &shape.wide(&x.a, a, &y.a));
            let sum = term(&now, &now) - 2.0 * term(&now, &then) + term(&then, &then);
            return 0.5 * shape.s * shape.s * sum.max(0.0);
        }
        let mut row = vec![0.0; shape.n];
        let mut sum = 0.0;
        for (i, importance) in importance.chunks_exact(shape.n).enumerate() {
            row.fill(0.0);
            shape.row(&now, i, 1.0, &mut row);
            shape.row(&then, i, -1.0, &mut row);
            sum += row.iter().zip(importance).map(|(d, f)| f.widen() * d * d).sum::<f64>();
        }
        0.5 * sum
    }

    pub(super) fn add_gradient<T: Real>(
        self,
        weight: f64,
        importance: &[T],
        anchor: &[T],
        parameters: &[T],
        gradient: &mut [T],
    ) {
        let Some(shape) = self.shape() else {
            for (((gradient, f), a), p) in gradient.iter_mut().zip(importance).zip(anchor).zip(parameters) {
                *gradient = T::narrow(gradient.widen() + weight * f.widen() * (p.widen() - a.widen()));
            }
            return;
        };
        let Shape { m, n, r, s } = shape;
        let (now, then) = (shape.factors(parameters), shape.factors(anchor));
        let (mut a_grad, mut b_grad) = (vec![0.0; r * n], vec![0.0; m * r]);
        if let Self::Outer { .. } = self {
            let importance = widened(importance);
            let (d, a) = importance.split_at(m);
            let (inner, crossed) = (shape.wide(&now.a, a, &now.a), shape.wide(&now.a, a, &then.a));
            for i in 0..m {
                for k in 0..r {
                    let with = |b: &[f64], square: &[f64]| dot(&b[i * r..(i + 1) * r], &square[k * r..(k + 1) * r]);
                    b_grad[i * r + k] = s * s * d[i] * (with(&now.b, &inner) - with(&then.b, &crossed));
                }
            }
            let (inner, crossed) = (shape.tall(&now.b, d, &now.b), shape.tall(&now.b, d, &then.b));
            for k in 0..r {
                let row = &mut a_grad[k * n..(k + 1) * n];
                for l in 0..r {
                    let (own, other) = (inner[k * r + l], crossed[k * r + l]);
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum += own * now.a[l * n + j] - other * then.a[l * n + j];
                    }
                }
                row.iter_mut().zip(a).for_each(|(sum, a)| *sum *= s * s * a);
            }
        } else {
            let mut row = vec![0.0; n];
            for (i, importance) in importance.chunks_exact(n).enumerate() {
                row.fill(0.0);
                shape.row(&now, i, 1.0, &mut row);
                shape.row(&then, i, -1.0, &mut row);
                row.iter_mut().zip(importance).for_each(|(d, f)| *d *= s * f.widen());
                for k in 0..r {
                    b_grad[i * r + k] = dot(&row, &now.a[k * n..(k + 1) * n]);
                    let b = now.b[i * r + k];
                    a_grad[k * n..(k + 1) * n].iter_mut().zip(&row).for_each(|(sum, d)| *sum += b * d);
                }
            }
        }
        for (gradient, more) in gradient.iter_mut().zip(a_grad.iter().chain(&b_grad)) {
            *gradient = T::narrow(gradient.widen() + weight * more);
        }
    }

    /// `terms` are the importances and anchors of this block.
    pub(super) fn pull<T: Real>(self, weight: f64, terms: &[(&[T], &[T])], parameters: &mut [T]) {
        let Some(shape) = self.shape() else {
            for (i, parameter) in parameters.iter_mut().enumerate() {
                let (mut own, mut pulled) = (1.0, parameter.widen());
                for (importance, anchor) in terms {
                    let f = weight * importance[i].widen();
                    own += f;
                    pulled += f * anchor[i].widen();
                }
                *parameter = T::narrow(pulled / own);
            }
            return;
        };
        let mut now = shape.factors(parameters);
        let terms = terms.iter().map(|(importance, anchor)| (widened(importance), shape.factors(anchor))).collect();
        let pulls =
            Pulls { shape, terms, is_outer: matches!(self, Self::Outer { .. }), factor: weight * shape.s * shape.s };
        pulls.rows(&mut now);
        pulls.columns(&mut now);
        for (parameter, value) in parameters.iter_mut().zip(now.a.iter().chain(&now.b)) {
            *parameter = T::narrow(*value);
        }
    }
}
