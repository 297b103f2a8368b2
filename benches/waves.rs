//! Numbers to compute with.

/// Returns a deterministic sequence that repeats nothing, a little above one at most.
pub(crate) fn waves(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as f32) * 0.737).sin() + ((i % 8191) as f32 * 0.013).cos() * 0.3).collect()
}
