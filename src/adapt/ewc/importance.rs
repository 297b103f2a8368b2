//! Importances brought to one size, and what is known of them.
use super::{super::optim::Real, Space};

/// What importances were before they were brought to a mean of 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

/// Divides importances by their mean, so that λ means the same to all kinds of Fisher information and
/// all models, and returns what they were. Importances that are all 0, or no numbers, are left alone.
pub fn normalize<T: Real>(space: &Space, importance: &mut [T]) -> Statistics {
    let (sum, least, most) = space.extent(importance);
    let mean = sum / space.coordinates().max(1) as f64;
    if mean > 0.0 && mean.is_finite() {
        space.scale(importance, 1.0 / mean);
    }
    Statistics { mean, least, most }
}
