//! Where factors are pulled to.
use super::block::{Factors, Shape, dot};
use crate::adapt::ewc::solve::solve;

/// A proximal step in a product, one factor at a time.
pub(super) struct Pulls {
    pub(super) shape: Shape,
    pub(super) terms: Vec<(Vec<f64>, Factors)>,
    pub(super) is_outer: bool,
    /// η λ s².
    pub(super) factor: f64,
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
    pub(super) fn rows(&self, now: &mut Factors) {
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
    pub(super) fn columns(&self, now: &mut Factors) {
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
