//! Bits that differ, counted.
use crate::nearest::{DISTANCES_A_MASK, NearestKernels};

pub(crate) const KERNELS: NearestKernels = NearestKernels { distances, within };

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
