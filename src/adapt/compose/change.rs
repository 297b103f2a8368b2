//! What an adapter changes, ΔW = scale · B A, and low-rank factors of it.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dense::{Dense, Svd, qr, svd};
use crate::engine::LowRank;

/// Factors of a matrix: `left · rightᵀ`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `[rows, k]`.
    pub left: Dense,
    /// `[columns, k]`.
    pub right: Dense,
}

impl Factors {
    /// Returns `Σ weight · ΔW` of several changes of one matrix, exactly: their factors side by side.
    pub(super) fn sum(parts: &[(f64, &LowRank)]) -> Self {
        let rank: usize = parts.iter().map(|(_, part)| part.rank).sum();
        let (outputs, inputs) = parts.first().map_or((0, 0), |(_, part)| shape(part));
        let (mut left, mut right) = (Dense::zeros(outputs, rank), Dense::zeros(inputs, rank));
        let mut start = 0;
        for (weight, LowRank { rank: own, scale, a, b, .. }) in parts {
            let factor = weight * f64::from(*scale);
            for (row, b) in b.chunks_exact(*own).enumerate() {
                let out = &mut left.values[row * rank + start..][..*own];
                out.iter_mut().zip(b).for_each(|(out, b)| *out = factor * f64::from(*b));
            }
            for (column, a) in a.chunks_exact(inputs.max(1)).enumerate() {
                a.iter().enumerate().for_each(|(row, a)| right.values[row * rank + start + column] = f64::from(*a));
            }
            start += own;
        }
        Self { left, right }
    }

    /// Returns the singular value decomposition of the product, of as many values as there are factors:
    /// `[left] = Q R`, `[right] = P S`, and `R Sᵀ` is small.
    #[must_use]
    pub fn svd(&self) -> Svd {
        let ((q, r), (p, s)) = (qr(&self.left), qr(&self.right));
        let small = svd(&r.times(&s.transposed()));
        Svd { u: q.times(&small.u), s: small.s, v: p.times(&small.v) }
    }

    /// Returns the product.
    #[must_use]
    pub fn product(&self) -> Dense {
        self.left.times(&self.right.transposed())
    }
}

/// Returns the rows and columns of the matrix that is changed.
pub(super) fn shape(part: &LowRank) -> (usize, usize) {
    (part.b.len() / part.rank, part.a.len() / part.rank)
}

/// Returns ΔW.
#[must_use]
pub fn change(part: &LowRank) -> Dense {
    Factors::sum(&[(1.0, part)]).product()
}

/// Returns the singular values of ΔW, largest first, as many as its rank.
#[must_use]
pub fn singular_values(part: &LowRank) -> Vec<f64> {
    Factors::sum(&[(1.0, part)]).svd().s
}

/// Returns how many directions a change really has: the exponential of the entropy of the singular values
/// as shares of their sum (Roy and Vetterli 2007). Of no change, 0.
#[must_use]
pub fn effective_rank(singular_values: &[f64]) -> f64 {
    let total: f64 = singular_values.iter().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let entropy: f64 =
        singular_values.iter().map(|s| s / total).filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum();
    entropy.exp()
}

/// Returns the addition of rank `rank` that is nearest to a decomposed matrix; both factors take the
/// root of each value, so that neither is small where the other is large.
pub(super) fn truncated(Svd { u, s, v }: &Svd, rank: usize) -> LowRank {
    let rank = rank.clamp(1, s.len().max(1));
    let root = |at: usize| s.get(at).copied().unwrap_or(0.0).sqrt();
    let (mut left, mut right) = (u.first_columns(rank.min(u.columns)), v.first_columns(rank.min(v.columns)));
    left.scale_columns(root);
    right.scale_columns(root);
    LowRank { rank, scale: 1.0, a: right.transposed().to_f32(), b: left.to_f32(), magnitude: None }
}

/// Below so many rows or columns a dense matrix is decomposed as a whole.
const WHOLE: usize = 48;
/// Directions drawn beyond those asked for, and rounds that sharpen them.
const BEYOND: usize = 16;
const ROUNDS: usize = 4;

/// Returns the first singular values and vectors of a dense matrix.
///
/// # Numerics
///
/// Of a large matrix, by iterating a subspace that is drawn from a fixed seed (Halko, Martinsson, Tropp
/// 2011, algorithm 4.4): with four rounds the error is that of the best approximation to a few percent
/// even where the values fall slowly.
pub(super) fn leading(matrix: &Dense, rank: usize) -> Svd {
    let (m, n) = (matrix.rows, matrix.columns);
    if m.min(n) <= WHOLE.max(rank + BEYOND) {
        return svd(matrix);
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let count = rank + BEYOND;
    let drawn =
        Dense { rows: n, columns: count, values: (0..n * count).map(|_| random.random_range(-1.0..1.0)).collect() };
    let transposed = matrix.transposed();
    let mut basis = qr(&matrix.times(&drawn)).0;
    for _ in 0..ROUNDS {
        basis = qr(&matrix.times(&qr(&transposed.times(&basis)).0)).0;
    }
    // `Bᵀ = Wᵀ Q` is `[n, count]`.
    let (p, r) = qr(&transposed.times(&basis));
    let small = svd(&r.transposed());
    Svd { u: basis.times(&small.u), s: small.s, v: p.times(&small.v) }
}
