//! Pruning of changes, and the election of signs.
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::dense::Dense;

/// How the sign of an entry is elected; a tie elects plus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Majority {
    /// By the sum of the changes, without their weights.
    #[default]
    Total,
    /// By how many changes have it.
    Frequency,
}

/// Sets all entries to zero but the `⌊density · count⌋` largest; of equals, the first stay.
pub(super) fn keep_largest(change: &mut Dense, density: f64) {
    let count = change.values.len();
    let kept = ((density * count as f64) as usize).min(count);
    if kept == count {
        return;
    }
    let mut order: Vec<usize> = (0..count).collect();
    let size = |at: usize| change.values[at].abs();
    order.select_nth_unstable_by(kept, |a, b| size(*b).total_cmp(&size(*a)).then(a.cmp(b)));
    order[kept..].iter().for_each(|at| change.values[*at] = 0.0);
}

/// Keeps each entry with a probability, enlarged by its inverse.
pub(super) fn drop_at_random(change: &mut Dense, density: f64, random: &mut ChaCha8Rng) {
    for value in &mut change.values {
        *value = if random.random_bool(density) { *value / density } else { 0.0 };
    }
}

/// Returns `Σ w ΔW`.
pub(super) fn sum(changes: &[(f64, Dense)]) -> Dense {
    let mut out =
        changes.first().map_or_else(|| Dense::zeros(0, 0), |(_, first)| Dense::zeros(first.rows, first.columns));
    for (weight, change) in changes {
        out.values.iter_mut().zip(&change.values).for_each(|(out, x)| *out += weight * x);
    }
    out
}

/// Returns, entry by entry, `Σ w ΔW / count` over those changes that have the elected sign.
pub(super) fn merge(changes: &[(f64, Dense)], majority: Majority) -> Dense {
    let mut out = sum(&[]);
    if let Some((_, first)) = changes.first() {
        out = Dense::zeros(first.rows, first.columns);
    }
    let sign = |x: f64| {
        if x > 0.0 {
            1.0
        } else if x < 0.0 {
            -1.0
        } else {
            0.0
        }
    };
    for (at, out) in out.values.iter_mut().enumerate() {
        let entries = || changes.iter().map(|(weight, change)| (*weight, change.values[at]));
        let vote: f64 = match majority {
            Majority::Total => entries().map(|(_, x)| x).sum(),
            Majority::Frequency => entries().map(|(_, x)| sign(x)).sum(),
        };
        let elected = if vote >= 0.0 { 1.0 } else { -1.0 };
        let (mut total, mut count) = (0.0, 0.0);
        for (weight, x) in entries().filter(|(_, x)| sign(*x) == elected) {
            total += weight * x;
            count += 1.0;
        }
        *out = if count > 0.0 { total / count } else { 0.0 };
    }
    out
}
