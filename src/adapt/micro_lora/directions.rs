//! The directions in which the head's inputs vary most.
use super::RANK;

/// Rounds of subspace iteration, and of conjugate gradients, at most.
const ROUNDS: usize = 64;

/// λ by the mean square of an input.
const RIDGE: f64 = 0.1;

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
            let mean_square = rows.clone().map(|row| product(vector, row).powi(2)).sum::<f64>() / count;
            let scale = if mean_square > 0.0 { mean_square.sqrt().recip() } else { 0.0 };
            values.extend(vector.iter().map(|value| (value * scale) as f32));
        }
        Some(Self { width, values })
    }

    /// Returns what [`Self::principal`] does, but for the first direction, which is the one whose products with all
    /// inputs are most nearly 1: along it an addition acts as a bias on the logits, the same at every position.
    ///
    /// # Numerics
    ///
    /// `v = (X Xᵀ + λ N I)⁻¹ X 1` in f64 by conjugate gradients, λ a tenth of the mean square of an input, so that few
    /// inputs do not decide what others are made of.
    #[must_use]
    pub fn even(inputs: &[f32], width: usize) -> Option<Self> {
        let mut all = Self::principal(inputs, width)?;
        let rows = inputs.chunks_exact(width);
        let count = rows.len() as f64;
        let ridge = RIDGE * inputs.iter().map(|x| f64::from(x * x)).sum::<f64>() / width as f64;
        let mut residual = vec![0.0; width];
        rows.clone().for_each(|row| add(&mut residual, 1.0, row));
        let (mut found, mut along) = (vec![0.0; width], residual.clone());
        let mut left = dot(&residual, &residual);
        let enough = 1e-16 * left;
        for _ in 0..ROUNDS {
            if left <= enough {
                break;
            }
            let mut image: Vec<f64> = along.iter().map(|x| ridge * x).collect();
            rows.clone().for_each(|row| add(&mut image, product(&along, row), row));
            let step = left / dot(&along, &image);
            found.iter_mut().zip(&along).for_each(|(found, along)| *found += step * along);
            residual.iter_mut().zip(&image).for_each(|(residual, image)| *residual -= step * image);
            let before = std::mem::replace(&mut left, dot(&residual, &residual));
            along.iter_mut().zip(&residual).for_each(|(along, residual)| *along = residual + left / before * *along);
        }
        let mean_square = rows.map(|row| product(&found, row).powi(2)).sum::<f64>() / count;
        // Inputs without a mean have no such direction.
        if mean_square > 0.0 {
            let scale = mean_square.sqrt().recip();
            all.values.iter_mut().zip(&found).for_each(|(value, found)| *value = (found * scale) as f32);
        }
        Some(all)
    }
}

fn product(vector: &[f64], row: &[f32]) -> f64 {
    vector.iter().zip(row).map(|(v, x)| v * f64::from(*x)).sum()
}

fn add(to: &mut [f64], factor: f64, row: &[f32]) {
    to.iter_mut().zip(row).for_each(|(to, x)| *to += factor * f64::from(*x));
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
    fn an_even_direction_says_the_same_of_every_input() {
        let width = 40;
        let input = |i: usize, at: usize| {
            let noise = ((i * 31 + at * 17) as f32 * 0.37).sin();
            if at.is_multiple_of(8) { 0.5 + 0.2 * noise } else { noise }
        };
        let rows = |range: std::ops::Range<usize>| -> Vec<f32> {
            range.flat_map(|i| (0..width).map(move |at| input(i, at))).collect()
        };
        let spread = |directions: &Directions, rows: &[f32]| {
            let of =
                |row: &[f32]| directions.values[..width].iter().zip(row).map(|(a, x)| f64::from(a * x)).sum::<f64>();
            let products: Vec<f64> = rows.chunks_exact(width).map(of).collect();
            let mean = products.iter().sum::<f64>() / products.len() as f64;
            let deviation = products.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / products.len() as f64;
            (mean, deviation.sqrt())
        };
        let (seen, others) = (rows(0..200), rows(200..260));
        let [even, principal] =
            [Directions::even(&seen, width), Directions::principal(&seen, width)].map(Option::unwrap);
        for inputs in [&seen, &others] {
            let (mean, deviation) = spread(&even, inputs);
            assert!((mean - 1.0).abs() <= 0.1 && deviation <= 0.25, "{mean} {deviation}");
            assert!(deviation < 0.8 * spread(&principal, inputs).1);
        }
        assert!(even.values[width..] == principal.values[width..]);
        assert!(Directions::even(&[0.0; 8], 4).is_none());
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
