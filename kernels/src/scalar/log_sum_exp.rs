//! `ln Σ exp(x)`, stable for any finite input.

/// What the largest logit decides.
pub(crate) enum Largest {
    /// Terms are relative to this finite value.
    Finite(f32),
    /// The result is known already: NaN or an infinity.
    Result(f64),
}

impl Largest {
    pub(crate) fn of(largest: f32, any_nan: bool) -> Self {
        if any_nan {
            Self::Result(f64::NAN)
        } else if largest.is_finite() {
            Self::Finite(largest)
        } else {
            Self::Result(f64::from(largest))
        }
    }
}

pub(crate) fn log_sum_exp_f32(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match Largest::of(largest, logits.iter().any(|x| x.is_nan())) {
        Largest::Result(result) => result,
        Largest::Finite(largest) => f64::from(largest) + exp_sum(logits, largest).ln(),
    }
}

/// Returns `Σ exp(x - largest)` in f64.
pub(crate) fn exp_sum(logits: &[f32], largest: f32) -> f64 {
    logits.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).sum()
}
