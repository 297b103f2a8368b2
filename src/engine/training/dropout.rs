//! Dropout of what changes read (Srivastava et al. 2014): of x in `W x + s B A x`, where A reads it, as
//! PEFT does it.
//!
//! Masks are computed from a key and never kept: the way back, and a layer that is computed again, find
//! the same.
use super::workers::{ROWS, Workers};
use crate::engine::Place;

/// Which inputs of changes are dropped: each with the same probability, on its own in every change. What is
/// left is enlarged, so that the mean stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rate: f64,
    key: u64,
}

/// 2⁶⁴ over the golden ratio: the steps of SplitMix64 (Steele, Lea and Flood 2014).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns SplitMix64's mix of a number.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Dropout {
    /// Returns a dropout at a rate from 0 up to, not including, 1. Of other numbers are other masks: a
    /// seed, say, with the numbers of a step and a micro-batch.
    #[must_use]
    pub fn new(rate: f64, numbers: &[u64]) -> Self {
        let key = numbers.iter().fold(0, |key, number| mix(key ^ number).wrapping_add(STEP));
        Self { rate, key }
    }

    /// Multiplies rows of width `width` by the mask of a place; the first is row `first` of all.
    pub(super) fn mask(self, workers: &Workers, place: Place, first: usize, values: &mut [f32], width: usize) {
        let key = [place.layer as u64, place.target as u64].iter().fold(self.key, |key, part| mix(key ^ part));
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        // Of 32 bits.
        let dropped = (self.rate * 2f64.powi(32)) as u64;
        workers.each(values.chunks_mut(ROWS * width).enumerate(), |(part, rows)| {
            for (at, row) in rows.chunks_exact_mut(width).enumerate() {
                let mut state = mix(key ^ (first + part * ROWS + at) as u64);
                for value in row {
                    state = state.wrapping_add(STEP);
                    *value *= if mix(state) >> 32 < dropped { 0.0 } else { kept };
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Target;

    #[test]
    fn masks_keep_the_mean_and_differ_where_they_should() {
        let workers = Workers::new(None, None).unwrap();
        let place = Place { layer: 3, target: Target::Down };
        let (rows, width) = (64, 512);
        let of = |dropout: Dropout, place: Place, first: usize| {
            let mut values = vec![1.0; rows * width];
            dropout.mask(&workers, place, first, &mut values, width);
            values
        };
        let dropout = Dropout::new(0.25, &[1, 2]);
        let mask = of(dropout, place, 0);
        assert!(mask.iter().all(|x| *x == 0.0 || *x == 4.0 / 3.0));
        // Within four standard errors.
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let error = |n: usize| 4.0 * (0.25f32 / 0.75 / n as f32).sqrt();
        assert!((mean(&mask) - 1.0).abs() <= error(mask.len()), "{}", mean(&mask));
        for column in 0..width {
            let column: Vec<f32> = mask.iter().skip(column).step_by(width).copied().collect();
            assert!((mean(&column) - 1.0).abs() <= 1.5 * error(rows), "{}", mean(&column));
        }
        assert_eq!(mask, of(dropout, place, 0));
        assert_eq!(mask[width..], of(dropout, place, 1)[..(rows - 1) * width]);
        let others = [
            of(Dropout::new(0.25, &[1, 3]), place, 0),
            of(Dropout::new(0.25, &[2, 2]), place, 0),
            of(dropout, Place { layer: 2, ..place }, 0),
            of(dropout, Place { target: Target::Up, ..place }, 0),
        ];
        for other in others {
            let same = mask.iter().zip(&other).filter(|(a, b)| a == b).count() as f32 / mask.len() as f32;
            // Both kept or both dropped: 0.75² + 0.25².
            assert!((same - 0.625).abs() < 0.02, "{same}");
        }
    }
}
