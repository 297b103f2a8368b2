//! Bits that differ, counted, and products of 16-bit numbers.
use crate::nearest::{DISTANCES_A_MASK, NearestKernels};

pub(crate) const KERNELS: NearestKernels = NearestKernels { distances, within, dots };

fn distances([first, second]: [&[u64]; 2], to: [u64; 2], out: &mut [u8]) {
    for ((first, second), out) in first.iter().zip(second).zip(out) {
        *out = ((first ^ to[0]).count_ones() + (second ^ to[1]).count_ones()) as u8;
    }
}

fn within(distances: &[u8], limit: u8, masks: &mut [u64]) {
    for (distances, mask) in distances.chunks(DISTANCES_A_MASK).zip(masks) {
        *mask = (0..).zip(distances).fold(0, |mask, (at, distance)| mask | u64::from(*distance <= limit) << at);
    }
}

fn dots(rows: &[i16], places: &[u32], vector: &[i16], out: &mut [i32]) {
    for (place, out) in places.iter().zip(out) {
        *out = dot(row(rows, *place, vector.len()), vector);
    }
}

/// Returns the row at a place.
pub(crate) fn row(rows: &[i16], place: u32, width: usize) -> &[i16] {
    &rows[place as usize * width..][..width]
}

/// Returns `Σ x y`, which wraps.
pub(crate) fn dot(x: &[i16], y: &[i16]) -> i32 {
    x.iter().zip(y).map(|(x, y)| i32::from(*x) * i32::from(*y)).fold(0, i32::wrapping_add)
}
