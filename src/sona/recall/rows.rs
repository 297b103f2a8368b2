//! Vectors rounded to bfloat16, and their products.
const LANES: usize = 16;

/// Returns the square of a vector's length.
pub(super) fn square(vector: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (vectors, tail) = vector.as_chunks::<LANES>();
    for vector in vectors {
        sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value * value);
    }
    sums.iter().sum::<f32>() + tail.iter().map(|value| value * value).sum::<f32>()
}

pub(super) fn dot(row: &[u16], vector: &[f32]) -> f32 {
    let [dot] = dots([row], vector);
    dot
}

/// Returns a number in bfloat16, to the nearest, of two as near the even one.
pub(super) fn narrowed(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub(super) fn widened(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// Returns the products of held rows with a vector, each as it is alone.
pub(super) fn dots<const N: usize>(rows: [&[u16]; N], vector: &[f32]) -> [f32; N] {
    let mut sums = [[0.0f32; LANES]; N];
    let (vectors, tail) = vector.as_chunks::<LANES>();
    let parts = rows.map(|row| row.as_chunks::<LANES>());
    for (at, vector) in vectors.iter().enumerate() {
        for (sums, (row, _)) in sums.iter_mut().zip(&parts) {
            sums.iter_mut().zip(row[at].iter().zip(vector)).for_each(|(sum, (a, b))| *sum += widened(*a) * b);
        }
    }
    let mut at = 0;
    sums.map(|mut lanes| {
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            let (low, high) = lanes.split_at_mut(width);
            low.iter_mut().zip(&*high).for_each(|(low, high)| *low += high);
        }
        let rest = parts[at].1.iter().zip(tail).map(|(a, b)| widened(*a) * b).sum::<f32>();
        at += 1;
        lanes[0] + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_multiplied_as_they_are_rounded_whatever_their_length() {
        for width in [1, 15, 16, 48, 83] {
            let value = |at: usize| ((at * 37 + width) as f32 * 0.7).sin();
            let rows: [Vec<u16>; 3] =
                [0, 1, 2].map(|row| (0..width).map(|at| narrowed(value(at + 100 * row))).collect());
            let vector: Vec<f32> = (0..width).map(|at| value(at + 7)).collect();
            let found = dots([0, 1, 2].map(|row: usize| rows[row].as_slice()), &vector);
            for (row, found) in rows.iter().zip(found) {
                let right: f64 = row.iter().zip(&vector).map(|(a, b)| f64::from(widened(*a)) * f64::from(*b)).sum();
                assert!((f64::from(found) - right).abs() <= 1e-5, "{width}");
                assert_eq!(dot(row, &vector).to_bits(), found.to_bits());
            }
            let right: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert!((f64::from(square(&vector)) - right).abs() <= 1e-5);
        }
        for (value, near) in
            [(1.0, 1.0), (1.0 + 1.0 / 256.0, 1.0), (1.0 + 3.0 / 256.0, 1.015_625), (-0.3, -0.300_781_25)]
        {
            assert_eq!(widened(narrowed(value)).to_bits(), f32::to_bits(near));
        }
    }
}
