//! Vectors of length 1 as whole numbers, and their products.
const LANES: usize = 16;

/// The length of what is held: a product of two such vectors fits 32 bits.
const UNIT: f32 = 32_767.0;

/// Adding this leaves of a number what is whole, to the nearest, of two as near the even one, in its lowest bits.
const ROUNDED: f32 = 12_582_912.0;

/// Returns the square of a vector's length.
pub(super) fn square(vector: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (vectors, tail) = vector.as_chunks::<LANES>();
    for vector in vectors {
        sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value * value);
    }
    sums.iter().sum::<f32>() + tail.iter().map(|value| value * value).sum::<f32>()
}

/// Returns a number between −1 and 1 as it is held.
pub(super) fn narrowed(value: f32) -> i16 {
    (value * UNIT + ROUNDED).to_bits() as i16
}

pub(super) fn widened(value: i16) -> f32 {
    f32::from(value) / UNIT
}

/// Returns the cosine of two vectors whose product, as they are held, is this.
pub(super) fn cosine(product: i32) -> f32 {
    product as f32 / (UNIT * UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_multiplied_as_they_are_held_whatever_their_length() {
        for width in [1, 15, 16, 48, 83] {
            let value = |at: usize| ((at * 37 + width) as f32 * 0.7).sin() / (width as f32).sqrt();
            let [x, vector]: [Vec<f32>; 2] = [0, 7].map(|first| (first..first + width).map(value).collect());
            let [held, other] = [&x, &vector].map(|x| x.iter().copied().map(narrowed).collect::<Vec<i16>>());
            let right: f64 = held.iter().zip(&vector).map(|(a, b)| f64::from(widened(*a)) * f64::from(*b)).sum();
            let mut products = [0];
            ruvlab_kernels::active().dots_i16(&held, &[0], &other, &mut products);
            assert!((f64::from(cosine(products[0])) - right).abs() <= 1e-4, "{width}");
            let right: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert!((f64::from(square(&vector)) - right).abs() <= 1e-5);
        }
    }

    #[test]
    fn what_is_held_is_the_nearest_and_stays_itself() {
        for (value, held) in
            [(1.0, 32_767), (-1.0, -32_767), (0.0, 0), (1.5 / UNIT, 2), (2.5 / UNIT, 2), (-0.6 / UNIT, -1)]
        {
            assert_eq!(narrowed(value), held, "{value}");
        }
        assert!((-32_767..=32_767).all(|held| narrowed(widened(held)) == held));
    }
}
