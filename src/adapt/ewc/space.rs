//! Where deviations are measured.
use super::{super::optim::Real, Term, solve::solve};

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
struct Factors {
    a: Vec<f64>,
    b: Vec<f64>,
}

/// Shapes of a factor pair.
#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    r: usize,
    s: f64,
}

impl Shape {
    fn factors<T: Real>(self, parameters: &[T]) -> Factors {
        let (a, b) = parameters.split_at(self.r * self.n);
        let widen = |values: &[T]| values.iter().map(|value| value.widen()).collect();
        Factors { a: widen(a), b: widen(b) }
    }

    /// Writes row `i` of `s B A` into `row`, or subtracts it.
    fn row(self, factors: &Factors, i: usize, sign: f64, row: &mut [f64]) {
        for k in 0..self.r {
            let b = sign * self.s * factors.b[i * self.r + k];
            let a = &factors.a[k * self.n..(k + 1) * self.n];
            row.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
    }

    /// Returns `Xᵀ diag(w) Y` of `[m, r]` each.
    fn tall(self, x: &[f64], w: &[f64], y: &[f64]) -> Vec<f64> {
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
    fn wide(self, x: &[f64], w: &[f64], y: &[f64]) -> Vec<f64> {
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

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.widen()).collect()
}

impl Block {
    fn shape(self) -> Option<Shape> {
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

    fn half_square<T: Real>(self, importance: &[T], anchor: &[T], parameters: &[T]) -> f64 {
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

    fn add_gradient<T: Real>(self, weight: f64, importance: &[T], anchor: &[T], parameters: &[T], gradient: &mut [T]) {
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
    fn pull<T: Real>(self, weight: f64, terms: &[(&[T], &[T])], parameters: &mut [T]) {
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
        let terms: Vec<(Vec<f64>, Factors)> =
            terms.iter().map(|(importance, anchor)| (widened(importance), shape.factors(anchor))).collect();
        let pulls =
            Pulls { shape, terms, is_outer: matches!(self, Self::Outer { .. }), factor: weight * shape.s * shape.s };
        pulls.rows(&mut now);
        pulls.columns(&mut now);
        for (parameter, value) in parameters.iter_mut().zip(now.a.iter().chain(&now.b)) {
            *parameter = T::narrow(*value);
        }
    }
}

/// A proximal step in a product, one factor at a time.
struct Pulls {
    shape: Shape,
    terms: Vec<(Vec<f64>, Factors)>,
    is_outer: bool,
    /// η λ s².
    factor: f64,
}

/// The squares a factor is weighed with: of the other factor with itself, and with the anchor's.
type Squares = [Vec<f64>; 2];

impl Pulls {
    /// Returns the identity, in the place of what was there.
    fn reset(&self, matrix: &mut Vec<f64>) {
        let r = self.shape.r;
        matrix.clear();
        matrix.resize(r * r, 0.0);
        (0..r).for_each(|k| matrix[k * r + k] = 1.0);
    }

    /// Returns the squares of all terms; nothing where every row has its own.
    fn shared(&self, of: impl Fn(&(Vec<f64>, Factors)) -> Squares) -> Vec<Squares> {
        if self.is_outer { self.terms.iter().map(of).collect() } else { Vec::new() }
    }

    /// B, row by row: `(1 + w s² Σ A F_i Aᵀ) b = b₀ + w s² Σ A F_i A*ᵀ b*`.
    fn rows(&self, now: &mut Factors) {
        let Shape { m, n, r, .. } = self.shape;
        let Factors { a, b } = now;
        let squares = |f: &[f64], then: &Factors| [self.shape.wide(a, f, a), self.shape.wide(a, f, &then.a)];
        let shared = self.shared(|(f, then)| squares(&f[m..], then));
        let (mut matrix, mut y) = (Vec::new(), vec![0.0; r]);
        for i in 0..m {
            let part = i * r..(i + 1) * r;
            self.reset(&mut matrix);
            y.copy_from_slice(&b[part.clone()]);
            for (t, (f, then)) in self.terms.iter().enumerate() {
                let own;
                let ([square, crossed], weight) = if let Some(shared) = shared.get(t) {
                    (shared, self.factor * f[i])
                } else {
                    own = squares(&f[i * n..(i + 1) * n], then);
                    (&own, self.factor)
                };
                matrix.iter_mut().zip(square).for_each(|(sum, x)| *sum += weight * x);
                for (k, y) in y.iter_mut().enumerate() {
                    *y += weight * dot(&crossed[k * r..(k + 1) * r], &then.b[part.clone()]);
                }
            }
            if solve(&mut matrix, &mut y) {
                b[part].copy_from_slice(&y);
            }
        }
    }

    /// A, column by column, likewise.
    fn columns(&self, now: &mut Factors) {
        let Shape { m, n, r, .. } = self.shape;
        let Factors { a, b } = now;
        let squares = |f: &[f64], then: &Factors| [self.shape.tall(b, f, b), self.shape.tall(b, f, &then.b)];
        let shared = self.shared(|(f, then)| squares(&f[..m], then));
        let (mut matrix, mut y, mut column) = (Vec::new(), vec![0.0; r], vec![0.0; m]);
        for j in 0..n {
            self.reset(&mut matrix);
            y.iter_mut().enumerate().for_each(|(k, y)| *y = a[k * n + j]);
            for (t, (f, then)) in self.terms.iter().enumerate() {
                let own;
                let ([square, crossed], weight) = if let Some(shared) = shared.get(t) {
                    (shared, self.factor * f[m + j])
                } else {
                    column.iter_mut().enumerate().for_each(|(i, value)| *value = f[i * n + j]);
                    own = squares(&column, then);
                    (&own, self.factor)
                };
                matrix.iter_mut().zip(square).for_each(|(sum, x)| *sum += weight * x);
                for (k, y) in y.iter_mut().enumerate() {
                    *y += weight * (0..r).map(|l| crossed[k * r + l] * then.a[l * n + j]).sum::<f64>();
                }
            }
            if solve(&mut matrix, &mut y) {
                y.iter().enumerate().for_each(|(k, y)| a[k * n + j] = *y);
            }
        }
    }
}

/// Blocks side by side: how a whole list of parameters is measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Space {
    /// The blocks, in the order of the parameters.
    pub blocks: Vec<Block>,
}

/// Where a block's parameters and importances begin.
struct Part {
    block: Block,
    parameters: std::ops::Range<usize>,
    importances: std::ops::Range<usize>,
}

impl Space {
    /// Returns a space of single numbers.
    #[must_use]
    pub fn plain(count: usize) -> Self {
        Self { blocks: vec![Block::Plain { count }] }
    }

    /// Returns how many parameters there are.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.blocks.iter().map(|block| block.parameters()).sum()
    }

    /// Returns how many numbers importances are.
    #[must_use]
    pub fn importances(&self) -> usize {
        self.blocks.iter().map(|block| block.importances()).sum()
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.blocks.iter().scan((0, 0), |(parameter, importance), block| {
            let (parameters, importances) = (block.parameters(), block.importances());
            let part = Part {
                block: *block,
                parameters: *parameter..*parameter + parameters,
                importances: *importance..*importance + importances,
            };
            (*parameter, *importance) = (part.parameters.end, part.importances.end);
            Some(part)
        })
    }

    /// Returns `½ Σ F D²`.
    #[must_use]
    pub fn half_square<T: Real>(&self, importance: &[T], anchor: &[T], parameters: &[T]) -> f64 {
        let of = |Part { block, parameters: p, importances }: Part| {
            block.half_square(&importance[importances], &anchor[p.clone()], &parameters[p])
        };
        self.parts().map(of).sum()
    }

    /// Adds `weight` times the gradient of `½ Σ F D²`.
    pub fn add_gradient<T: Real>(
        &self,
        weight: f64,
        importance: &[T],
        anchor: &[T],
        parameters: &[T],
        gradient: &mut [T],
    ) {
        for Part { block, parameters: p, importances } in self.parts() {
            let (importance, anchor) = (&importance[importances], &anchor[p.clone()]);
            block.add_gradient(weight, importance, anchor, &parameters[p.clone()], &mut gradient[p]);
        }
    }

    /// Moves parameters to where `½ |θ - θ'|² + weight Σ_terms ½ Σ F D²` is least, factors in turn.
    pub fn pull<T: Real>(&self, weight: f64, terms: &[Term<T>], parameters: &mut [T]) {
        if terms.is_empty() {
            return;
        }
        for Part { block, parameters: p, importances } in self.parts() {
            let of = |term: &'_ Term<T>| -> (Vec<T>, Vec<T>) {
                (term.importance[importances.clone()].to_vec(), term.anchor[p.clone()].to_vec())
            };
            let owned: Vec<_> = terms.iter().map(of).collect();
            let terms: Vec<(&[T], &[T])> = owned.iter().map(|(f, a)| (f.as_slice(), a.as_slice())).collect();
            block.pull(weight, &terms, &mut parameters[p]);
        }
    }

    /// Returns where parameters are in the coordinates importances weigh: themselves, or the products.
    #[must_use]
    pub fn positions<T: Real>(&self, parameters: &[T]) -> Vec<T> {
        let mut out = Vec::new();
        for Part { block, parameters: p, .. } in self.parts() {
            let Some(shape) = block.shape() else {
                out.extend_from_slice(&parameters[p]);
                continue;
            };
            let factors = shape.factors(&parameters[p]);
            let mut row = vec![0.0; shape.n];
            for i in 0..shape.m {
                row.fill(0.0);
                shape.row(&factors, i, 1.0, &mut row);
                out.extend(row.iter().map(|value| T::narrow(*value)));
            }
        }
        out
    }

    /// Returns the sum of all importances, least and greatest among them.
    pub(super) fn extent<T: Real>(&self, importance: &[T]) -> (f64, f64, f64) {
        let (mut sum, mut least, mut most) = (0.0, f64::INFINITY, 0.0f64);
        for Part { block, importances, .. } in self.parts() {
            let values = widened(&importance[importances]);
            let ends = |values: &[f64]| {
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                (values.iter().sum::<f64>(), low, values.iter().copied().fold(0.0, f64::max))
            };
            let (s, l, m) = match block {
                Block::Plain { .. } | Block::Product { .. } => ends(&values),
                Block::Outer { outputs, .. } => {
                    let (d, a) = (ends(&values[..outputs]), ends(&values[outputs..]));
                    (d.0 * a.0, d.1 * a.1, d.2 * a.2)
                }
            };
            (sum, least, most) = (sum + s, least.min(l), most.max(m));
        }
        (sum, least, most)
    }

    /// Returns how many deviations are weighted.
    #[must_use]
    pub fn coordinates(&self) -> usize {
        self.blocks.iter().map(|block| block.coordinates()).sum()
    }

    /// Multiplies importances: of a rank-1 block only d, since `F = d aᵀ`.
    pub(super) fn scale<T: Real>(&self, importance: &mut [T], factor: f64) {
        for Part { block, importances, .. } in self.parts() {
            let values = &mut importance[importances];
            let count = if let Block::Outer { outputs, .. } = block { outputs } else { values.len() };
            values[..count].iter_mut().for_each(|value| *value = T::narrow(value.widen() * factor));
        }
    }
}
