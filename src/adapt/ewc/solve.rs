//! Small symmetric systems.

/// Solves `M x = y` in place for a symmetric positive definite M `[r, r]`, row-major, by Cholesky's
/// factorisation; M is overwritten. Returns whether M was positive definite; if not, y is left alone.
pub(super) fn solve(matrix: &mut [f64], y: &mut [f64]) -> bool {
    let r = y.len();
    for i in 0..r {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| matrix[i * r + k] * matrix[j * r + k]).sum();
            let rest = matrix[i * r + j] - known;
            if i != j {
                matrix[i * r + j] = rest / matrix[j * r + j];
            } else if rest > 0.0 && rest.is_finite() {
                matrix[i * r + i] = rest.sqrt();
            } else {
                return false;
            }
        }
    }
    for i in 0..r {
        let known: f64 = (0..i).map(|k| matrix[i * r + k] * y[k]).sum();
        y[i] = (y[i] - known) / matrix[i * r + i];
    }
    for i in (0..r).rev() {
        let known: f64 = (i + 1..r).map(|k| matrix[k * r + i] * y[k]).sum();
        y[i] = (y[i] - known) / matrix[i * r + i];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved_and_an_indefinite_one_refused() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 5.0, 1.0, 0.6, 1.0, 3.0];
        let x = [1.0, -2.0, 0.5];
        let mut y: Vec<f64> = matrix.chunks(3).map(|row| row.iter().zip(x).map(|(m, x)| m * x).sum()).collect();
        assert!(solve(&mut matrix.clone(), &mut y));
        assert!(y.iter().zip(x).all(|(y, x)| (y - x).abs() <= 1.0e-12), "{y:?}");
        assert!(!solve(&mut [1.0, 2.0, 2.0, 1.0], &mut [1.0, 1.0]));
        assert!(!solve(&mut [f64::NAN], &mut [1.0]));
    }
}
