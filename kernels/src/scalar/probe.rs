//! Reads, and multiply-adds, and nothing else.

pub(super) fn read(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word))
}

pub(super) fn multiply_adds(rounds: usize) -> f32 {
    let mut chains = [[1.0f32; 8]; 12];
    let factor = std::hint::black_box(0.999_9f32);
    for _ in 0..rounds {
        for lane in chains.as_flattened_mut() {
            *lane = lane.mul_add(factor, factor);
        }
    }
    chains.as_flattened().iter().sum()
}

pub(super) fn multiply_add_pairs(rounds: usize) -> i32 {
    let mut chains = [[1i32; 8]; 12];
    let factor = std::hint::black_box(3i16);
    for _ in 0..rounds {
        for lane in chains.as_flattened_mut() {
            *lane = lane.wrapping_add(i32::from(*lane as i16) * i32::from(factor));
        }
    }
    chains.as_flattened().iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
