//! Small dense matrices in f64, and their QR and singular value decompositions.

/// A matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[rows, columns]`.
    pub values: Vec<f64>,
}

impl Dense {
    /// Returns a matrix of zeros.
    #[must_use]
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: vec![0.0; rows * columns] }
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..][..self.columns]
    }

    pub(super) fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|x| *x as f32).collect()
    }

    /// Returns the transpose.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        for row in 0..self.rows {
            for (column, value) in self.row(row).iter().enumerate() {
                out.values[column * self.rows + row] = *value;
            }
        }
        out
    }

    /// Returns the product with another matrix.
    ///
    /// # Panics
    ///
    /// If that has not as many rows as this has columns.
    #[must_use]
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows, "{}x{} times {}x{}", self.rows, self.columns, other.rows, other.columns);
        let mut out = Self::zeros(self.rows, other.columns);
        if other.columns == 0 {
            return out;
        }
        for (row, out) in out.values.chunks_exact_mut(other.columns).enumerate() {
            for (factor, other) in self.row(row).iter().zip(other.values.chunks_exact(other.columns)) {
                out.iter_mut().zip(other).for_each(|(out, other)| *out += factor * other);
            }
        }
        out
    }

    /// Returns the first columns.
    pub(super) fn first_columns(&self, count: usize) -> Self {
        let values = (0..self.rows).flat_map(|row| self.row(row)[..count].iter().copied()).collect();
        Self { rows: self.rows, columns: count, values }
    }

    /// Multiplies each column by a factor.
    pub(super) fn scale_columns(&mut self, factors: impl Fn(usize) -> f64) {
        let columns = self.columns;
        self.values.iter_mut().enumerate().for_each(|(at, value)| *value *= factors(at % columns));
    }

    /// Returns `sqrt(Σ x²)`.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.values.iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns Q and R of `matrix = Q R`, Q with `min(rows, columns)` orthonormal columns.
///
/// # Numerics
///
/// Gram–Schmidt, each column made orthogonal twice, which is enough (Giraud et al. 2005). A column that is
/// one of those before it, but for rounding, leaves zeros in Q and R.
#[must_use]
pub fn qr(matrix: &Dense) -> (Dense, Dense) {
    let (m, n) = (matrix.rows, matrix.columns);
    let k = m.min(n);
    // Columns as rows: they lie together.
    let columns = matrix.transposed();
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(k);
    let mut r = Dense::zeros(k, n);
    for column in 0..n {
        let mut rest = columns.row(column).to_vec();
        let size = dot(&rest, &rest).sqrt();
        for _ in 0..2 {
            for (at, direction) in basis.iter().enumerate() {
                let part = dot(direction, &rest);
                r.values[at * n + column] += part;
                rest.iter_mut().zip(direction).for_each(|(rest, direction)| *rest -= part * direction);
            }
        }
        if column < k {
            let left = dot(&rest, &rest).sqrt();
            let counts = left > 1e-14 * size;
            r.values[column * n + column] = if counts { left } else { 0.0 };
            rest.iter_mut().for_each(|x| *x = if counts { *x / left } else { 0.0 });
            basis.push(rest);
        }
    }
    let q = Dense { rows: k, columns: m, values: basis.concat() };
    (q.transposed(), r)
}

/// A singular value decomposition `U diag(s) Vᵀ`, largest values first.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left vectors as columns, `[rows, k]`.
    pub u: Dense,
    /// k values, descending.
    pub s: Vec<f64>,
    /// Right vectors as columns, `[columns, k]`.
    pub v: Dense,
}

/// Sweeps after which rotations of any matrix have long converged.
const SWEEPS: usize = 60;

/// Returns the decomposition of a matrix, with `k = min(rows, columns)`.
///
/// # Numerics
///
/// One-sided Jacobi rotations (Hestenes 1958): accurate to a few ulp of the largest value. Vectors of
/// values that are zero are zeros.
#[must_use]
pub fn svd(matrix: &Dense) -> Svd {
    if matrix.rows < matrix.columns {
        let Svd { u, s, v } = svd(&matrix.transposed());
        return Svd { u: v, s, v: u };
    }
    let n = matrix.columns;
    let mut w: Vec<Vec<f64>> = {
        let columns = matrix.transposed();
        (0..n).map(|column| columns.row(column).to_vec()).collect()
    };
    let mut v: Vec<Vec<f64>> = (0..n).map(|at| (0..n).map(|i| f64::from(u8::from(i == at))).collect()).collect();
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (alpha, beta, gamma) = (dot(&w[p], &w[p]), dot(&w[q], &w[q]), dot(&w[p], &w[q]));
                if gamma.abs() <= 1e-15 * (alpha * beta).sqrt() || gamma == 0.0 {
                    continue;
                }
                rotated = true;
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(&mut w, p, q, c, c * t);
                rotate(&mut v, p, q, c, c * t);
            }
        }
        if !rotated {
            break;
        }
    }
    let mut found: Vec<(f64, usize)> = w.iter().map(|w| dot(w, w).sqrt()).zip(0..).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut columns = (Vec::new(), Vec::new());
    for (s, at) in &found {
        columns.0.extend(w[*at].iter().map(|x| if *s > 0.0 { x / s } else { 0.0 }));
        columns.1.extend_from_slice(&v[*at]);
    }
    Svd {
        u: Dense { rows: n, columns: matrix.rows, values: columns.0 }.transposed(),
        s: found.into_iter().map(|(s, _)| s).collect(),
        v: Dense { rows: n, columns: n, values: columns.1 }.transposed(),
    }
}

/// Turns two vectors by an angle.
fn rotate(vectors: &mut [Vec<f64>], p: usize, q: usize, c: f64, s: f64) {
    let (before, after) = vectors.split_at_mut(q);
    for (x, y) in before[p].iter_mut().zip(&mut after[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in super::super) fn example(rows: usize, columns: usize, seed: f64) -> Dense {
        let value = |at: usize| (at as f64 + 1.0).mul_add(12.9898, seed * 78.233).sin() * 43_758.545_3 % 1.0;
        Dense { rows, columns, values: (0..rows * columns).map(value).collect() }
    }

    fn off(a: &Dense, b: &Dense) -> f64 {
        assert_eq!((a.rows, a.columns), (b.rows, b.columns));
        a.values.iter().zip(&b.values).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() / b.norm().max(1e-300)
    }

    fn is_orthonormal(q: &Dense) -> bool {
        let gram = q.transposed().times(q);
        let right = |at: usize| f64::from(u8::from(at / gram.columns == at % gram.columns));
        gram.values.iter().enumerate().all(|(at, x)| (x - right(at)).abs() <= 1e-12)
    }

    #[test]
    fn factors_give_the_matrix_back() {
        for (rows, columns) in [(9, 4), (4, 9), (6, 6), (30, 1), (1, 5)] {
            let matrix = example(rows, columns, 0.7);
            let (q, r) = qr(&matrix);
            assert!(off(&q.times(&r), &matrix) <= 1e-13 && is_orthonormal(&q), "{rows} x {columns}");
            let Svd { mut u, s, v } = svd(&matrix);
            assert!(is_orthonormal(&u) && is_orthonormal(&v), "{rows} x {columns}");
            assert!(s.windows(2).all(|pair| pair[0] >= pair[1]));
            u.scale_columns(|at| s[at]);
            assert!(off(&u.times(&v.transposed()), &matrix) <= 1e-13, "{rows} x {columns}");
        }
    }

    /// A matrix of known singular values, some of them equal and some zero.
    #[test]
    fn values_are_the_singular_ones() {
        let (left, right) = (qr(&example(8, 5, 0.3)).0, qr(&example(6, 5, 0.9)).0);
        let known = [7.0, 2.0, 2.0, 1e-3, 0.0];
        let mut scaled = left.clone();
        scaled.scale_columns(|at| known[at]);
        let found = svd(&scaled.times(&right.transposed()));
        for (at, s) in found.s.iter().enumerate() {
            let right = known.get(at).copied().unwrap_or(0.0);
            assert!((s - right).abs() <= 1e-13, "{:?}", found.s);
        }
    }

    #[test]
    fn dependent_columns_and_zeros_are_no_trouble() {
        let mut matrix = example(7, 3, 0.2);
        for row in 0..7 {
            matrix.values[row * 3 + 2] = 2.0 * matrix.values[row * 3];
        }
        let (q, r) = qr(&matrix);
        assert!(off(&q.times(&r), &matrix) <= 1e-13);
        assert!(svd(&matrix).s[2] <= 1e-13);
        let zeros = Dense::zeros(4, 3);
        assert!(qr(&zeros).0.norm() == 0.0 && svd(&zeros).s.iter().all(|s| *s == 0.0));
    }
}
