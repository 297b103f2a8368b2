//! The directions in which the head's inputs vary most.
use super::RANK;

/// Rounds of subspace iteration at most.
const ROUNDS: usize = 64;

/// Directions, the rows of A.
///
/// # Shapes
///
/// `values` is `[rank, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Directions {
    /// E, the width of the head's input.
    pub width: usize,
    /// The rows.
    pub values: Vec<f32>,
}

impl Directions {
    /// Returns the first two right singular vectors of inputs `[N, width]`, each scaled so that its
    /// products with them have a root mean square of 1; nothing where there are no inputs, or all are zero.
    ///
    /// Inputs are taken as they are, not less their mean: what they have in common becomes the first
    /// direction, along which an addition acts as a bias on the logits.
    ///
    /// # Numerics
    ///
    /// Subspace iteration in f64 from a fixed start, until the directions stand still to 1e-6 or 64
    /// rounds have passed: where two singular values are close, any two vectors of their plane serve.
    #[must_use]
    pub fn principal(inputs: &[f32], width: usize) -> Option<Self> {
        if width == 0 || inputs.len() < width || !inputs.iter().all(|value| value.is_finite()) {
            return None;
        }
        let rows = inputs.chunks_exact(width);
        let count = rows.len() as f64;
        let wave = |at: usize, row: usize| ((at * (2 * row + 3)) as f64 * 0.754_877_666 + 0.3).sin();
        let mut basis: [Vec<f64>; RANK] = std::array::from_fn(|row| (0..width).map(|at| wave(at, row)).collect());
        normalise(&mut basis)?;
        for _ in 0..ROUNDS {
            let mut next: [Vec<f64>; RANK] = std::array::from_fn(|_| vec![0.0; width]);
            for row in rows.clone() {
                for (vector, next) in basis.iter().zip(&mut next) {
                    let product: f64 = vector.iter().zip(row).map(|(v, x)| v * f64::from(*x)).sum();
                    next.iter_mut().zip(row).for_each(|(next, x)| *next += product * f64::from(*x));
                }
            }
            normalise(&mut next)?;
            let moved = basis.iter().zip(&next).map(|(a, b)| 1.0 - dot(a, b).abs()).fold(0.0, f64::max);
            basis = next;
            if moved <= 1e-12 {
                break;
            }
        }
        let mut values = Vec::with_capacity(RANK * width);
        for vector in &basis {
            let product = |row: &[f32]| vector.iter().zip(row).map(|(v, x)| v * f64::from(*x)).sum::<f64>();
            let mean_square = rows.clone().map(|row| product(row).powi(2)).sum::<f64>() / count;
            let scale = if mean_square > 0.0 { mean_square.sqrt().recip() } else { 0.0 };
            values.extend(vector.iter().map(|value| (value * scale) as f32));
        }
        Some(Self { width, values })
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Makes vectors orthonormal (Gram-Schmidt), one that depends on the others zero; nothing where the first
/// is zero.
fn normalise(basis: &mut [Vec<f64>; RANK]) -> Option<()> {
    let before: Vec<f64> = basis.iter().map(|vector| dot(vector, vector)).collect();
    let [first, second] = basis;
    let norm = before[0].sqrt();
    if norm <= 0.0 || !norm.is_finite() {
        return None;
    }
    first.iter_mut().for_each(|value| *value /= norm);
    let along = dot(first, second);
    second.iter_mut().zip(&*first).for_each(|(value, first)| *value -= along * first);
    let left = dot(second, second);
    let factor = if left > 1e-20 * before[1] { left.sqrt().recip() } else { 0.0 };
    second.iter_mut().for_each(|value| *value *= factor);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_singular_vectors_at_unit_size() {
        let width = 24;
        let unit = |at: usize| (0..width).map(|i| f64::from(u8::from(i == at))).collect::<Vec<f64>>();
        let (u, v) = (unit(3), unit(17));
        let rows: Vec<f32> = (0..50)
            .flat_map(|i| {
                let (x, y) = (5.0 + f64::from(i % 5), (f64::from(i) * 1.3).sin());
                (0..width).map(move |at| (at, x, y)).collect::<Vec<_>>()
            })
            .map(|(at, x, y)| (x * u[at] + y * v[at] + 1e-3 * (at as f64).cos()) as f32)
            .collect();
        let Directions { values, .. } = Directions::principal(&rows, width).unwrap();
        for (row, main) in values.chunks_exact(width).zip([3, 17]) {
            let norm: f32 = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!(row[main].abs() >= 0.99 * norm, "{row:?}");
            let square = |input: &[f32]| row.iter().zip(input).map(|(a, x)| a * x).sum::<f32>().powi(2);
            let mean = rows.chunks_exact(width).map(square).sum::<f32>() / 50.0;
            assert!((mean - 1.0).abs() <= 1e-4, "{mean}");
        }
    }

    #[test]
    fn inputs_along_one_line_have_one_direction_and_none_have_none() {
        let one: Vec<f32> = (0..40).map(|i| if i % 4 == 1 { 2.0 } else { 0.0 }).collect();
        let found = Directions::principal(&one, 4).unwrap();
        assert!((found.values[1].abs() - 0.5).abs() <= 1e-6 && found.values[4..].iter().all(|x| x.abs() <= 1e-6));
        assert!(Directions::principal(&[0.0; 8], 4).is_none());
        assert!(Directions::principal(&[1.0, f32::NAN], 2).is_none());
        assert!(Directions::principal(&[], 4).is_none());
    }
}
