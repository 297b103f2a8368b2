//! Statistics on launches. The replicate is a process launch, so every function here takes one value
//! a launch. NaN and infinities are errors, never data.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The confidence of every interval ruvlab shows.
pub const CONFIDENCE: f64 = 0.95;

/// From this many pairs on, the interval of a paired change is bootstrapped. Below, a percentile or
/// `BCa` bootstrap covers too little (84 % instead of 95 % with five pairs) and Student's t does not.
pub const BOOTSTRAP_FROM: usize = 20;

const RESAMPLES: usize = 10_000;
const BOOTSTRAP_SEED: u64 = 0x7275_766c_6162;

/// Why a statistic cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum StatsError {
    /// Nothing to compute from.
    #[error("no values")]
    Empty,
    /// A value is NaN or infinite.
    #[error("value {0} is not finite")]
    NotFinite(f64),
    /// A ratio needs positive values.
    #[error("value {0} is not positive, so it has no logarithm")]
    NotPositive(f64),
    /// A probability is out of its range.
    #[error("{0} is not a probability between 0 and 1")]
    NotProbability(f64),
}

/// A confidence interval, both ends inside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Returns half its width.
    #[must_use]
    pub fn half_width(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// Returns its middle.
    #[must_use]
    pub fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }
}

/// How an interval was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// Student's t on the mean of the paired log ratios.
    PairedT,
    /// Bias-corrected and accelerated bootstrap of the mean of the paired log ratios.
    PairedBca,
    /// Welch's t on the difference of the mean logarithms of two independent samples.
    Welch,
    /// No interval: the values do not vary between launches.
    Exact,
}

/// A relative change from baseline to candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Candidate / baseline − 1, by the geometric mean: `exp(mean(ln c − ln b)) − 1`.
    pub change: f64,
    /// Its confidence interval; absent below two pairs (two values on each side when unpaired).
    pub interval: Option<Interval>,
    /// Pairs, or the smaller of the two samples when unpaired.
    pub n: usize,
    /// How the interval was computed.
    pub method: IntervalMethod,
}

fn finite(values: &[f64]) -> Result<(), StatsError> {
    if values.is_empty() {
        return Err(StatsError::Empty);
    }
    values.iter().find(|value| !value.is_finite()).map_or(Ok(()), |&value| Err(StatsError::NotFinite(value)))
}

/// Returns the arithmetic mean.
///
/// # Errors
///
/// If there are no values or one is not finite.
pub fn mean(values: &[f64]) -> Result<f64, StatsError> {
    finite(values)?;
    Ok(mean_of(values))
}

fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the sample standard deviation (divisor n − 1), or nothing for a single value.
///
/// # Errors
///
/// If there are no values or one is not finite.
pub fn sample_sd(values: &[f64]) -> Result<Option<f64>, StatsError> {
    finite(values)?;
    Ok((values.len() > 1).then(|| variance_of(values).sqrt()))
}

fn variance_of(values: &[f64]) -> f64 {
    let mean = mean_of(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// Returns the quantile `p` by linear interpolation between order statistics: position `p·(n − 1)`
/// from 0, Hyndman and Fan's type 7, which is numpy's and R's default.
///
/// # Errors
///
/// If there are no values, one is not finite, or `p` is outside 0 to 1.
pub fn quantile(values: &[f64], p: f64) -> Result<f64, StatsError> {
    finite(values)?;
    if !(0.0..=1.0).contains(&p) {
        return Err(StatsError::NotProbability(p));
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(quantile_of_sorted(&sorted, p))
}

fn quantile_of_sorted(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let (below, share) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

/// Returns the median.
///
/// # Errors
///
/// If there are no values or one is not finite.
pub fn median(values: &[f64]) -> Result<f64, StatsError> {
    quantile(values, 0.5)
}

/// Returns Student's t interval of the mean, or nothing for a single value.
///
/// # Errors
///
/// If there are no values, one is not finite, or `confidence` is not between 0 and 1.
pub fn mean_interval(values: &[f64], confidence: f64) -> Result<Option<Interval>, StatsError> {
    finite(values)?;
    probability(confidence)?;
    Ok(t_interval(values, confidence))
}

fn probability(confidence: f64) -> Result<(), StatsError> {
    if confidence > 0.0 && confidence < 1.0 { Ok(()) } else { Err(StatsError::NotProbability(confidence)) }
}

fn t_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let half = t_quantile((values.len() - 1) as f64, confidence)? * (variance_of(values) / values.len() as f64).sqrt();
    let mean = mean_of(values);
    Some(Interval { low: mean - half, high: mean + half })
}

/// Returns the two-sided critical value of Student's t.
fn t_quantile(degrees_of_freedom: f64, confidence: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok()?;
    Some(t.inverse_cdf(0.5 + confidence / 2.0))
}

fn logs(values: impl Iterator<Item = f64>) -> Result<Vec<f64>, StatsError> {
    values
        .map(|value| match value {
            value if !value.is_finite() => Err(StatsError::NotFinite(value)),
            value if value <= 0.0 => Err(StatsError::NotPositive(value)),
            value => Ok(value.ln()),
        })
        .collect()
}

fn as_change(interval: Interval) -> Interval {
    Interval { low: interval.low.exp_m1(), high: interval.high.exp_m1() }
}

/// Returns the relative change over pairs of (baseline, candidate): the mean of the log ratios, with
/// Student's t interval under [`BOOTSTRAP_FROM`] pairs and a `BCa` bootstrap (Efron 1987; 10,000
/// resamples, fixed seed) from there on. Equal pairs give equal results on every machine and run.
///
/// # Errors
///
/// If there are no pairs, a value is not finite or not positive, or `confidence` is not between 0
/// and 1.
pub fn paired_log_ratio(pairs: &[(f64, f64)], confidence: f64) -> Result<Ratio, StatsError> {
    probability(confidence)?;
    let baseline = logs(pairs.iter().map(|pair| pair.0))?;
    let candidate = logs(pairs.iter().map(|pair| pair.1))?;
    let ratios: Vec<f64> = candidate.iter().zip(&baseline).map(|(c, b)| c - b).collect();
    finite(&ratios)?;
    let bootstrapped = if ratios.len() < BOOTSTRAP_FROM { None } else { bca_interval(&ratios, confidence) };
    let (interval, method) = match bootstrapped {
        Some(interval) => (Some(interval), IntervalMethod::PairedBca),
        None => (t_interval(&ratios, confidence), IntervalMethod::PairedT),
    };
    Ok(Ratio { change: mean_of(&ratios).exp_m1(), interval: interval.map(as_change), n: ratios.len(), method })
}

/// Returns the relative change between two samples that are not paired, by Welch's t interval on
/// the difference of their mean logarithms.
///
/// # Errors
///
/// If a side has no values, a value is not finite or not positive, or `confidence` is not between 0
/// and 1.
pub fn welch_log_ratio(baseline: &[f64], candidate: &[f64], confidence: f64) -> Result<Ratio, StatsError> {
    probability(confidence)?;
    let (baseline, candidate) = (logs(baseline.iter().copied())?, logs(candidate.iter().copied())?);
    finite(&baseline)?;
    finite(&candidate)?;
    let difference = mean_of(&candidate) - mean_of(&baseline);
    let n = baseline.len().min(candidate.len());
    let interval = (n > 1).then(|| welch_half_width(&baseline, &candidate, confidence)).flatten();
    let interval = interval.map(|half| as_change(Interval { low: difference - half, high: difference + half }));
    Ok(Ratio { change: difference.exp_m1(), interval, n, method: IntervalMethod::Welch })
}

fn welch_half_width(a: &[f64], b: &[f64], confidence: f64) -> Option<f64> {
    let (share_a, share_b) = (variance_of(a) / a.len() as f64, variance_of(b) / b.len() as f64);
    let squared = share_a + share_b;
    if squared <= 0.0 {
        return Some(0.0);
    }
    // Welch and Satterthwaite.
    let freedom = squared.powi(2) / (share_a.powi(2) / (a.len() - 1) as f64 + share_b.powi(2) / (b.len() - 1) as f64);
    Some(t_quantile(freedom, confidence)? * squared.sqrt())
}

/// Returns the `BCa` interval of the mean, or nothing where its corrections are not finite.
fn bca_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let n = values.len();
    let estimate = mean_of(values);
    let deviations = || values.iter().map(|value| estimate - value);
    let squares: f64 = deviations().map(|d| d.powi(2)).sum();
    if squares <= 0.0 {
        return Some(Interval { low: estimate, high: estimate });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(BOOTSTRAP_SEED);
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let below = means.partition_point(|&mean| mean < estimate);
    let equal = means.partition_point(|&mean| mean <= estimate) - below;
    let normal = Normal::new(0.0, 1.0).ok()?;
    let bias = normal.inverse_cdf((below as f64 + 0.5 * equal as f64) / RESAMPLES as f64);
    // The jackknife's leave-one-out means differ from the mean by (mean − x) / (n − 1); the factor
    // cancels but for its sign.
    let cubes: f64 = deviations().map(|d| d.powi(3)).sum();
    let acceleration = -cubes / (6.0 * squares.powf(1.5));
    let end = |z: f64| {
        let shifted = bias + (bias + z) / (1.0 - acceleration * (bias + z));
        let p = normal.cdf(shifted);
        p.is_finite().then(|| quantile_of_sorted(&means, p))
    };
    let z = normal.inverse_cdf(0.5 + confidence / 2.0);
    Some(Interval { low: end(-z)?, high: end(z)? })
}

#[cfg(test)]
mod tests;
