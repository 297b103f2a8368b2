//! Golden values: scipy 1.17.1, numpy; each test names the call it was made by.
use super::*;

const X: [f64; 5] = [101.2, 99.7, 100.4, 103.1, 98.8];
const BASELINE: [f64; 5] = [100.0, 102.0, 98.0, 101.0, 99.0];
const CANDIDATE: [f64; 5] = [91.0, 92.5, 90.0, 93.0, 88.5];

#[track_caller]
fn close(got: f64, want: f64, bound: f64) {
    assert!((got - want).abs() <= bound, "got {got}, want {want} within {bound}");
}

fn pairs() -> Vec<(f64, f64)> {
    BASELINE.into_iter().zip(CANDIDATE).collect()
}

/// Normal deviates by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[test]
fn descriptive_statistics_are_numpys() {
    // x.mean(), x.std(ddof=1), numpy.median(x), numpy.quantile(x, p)
    close(mean(&X).unwrap(), 100.64, 1e-12);
    close(sample_sd(&X).unwrap().unwrap(), 1.634_931_191_212_643_9, 1e-12);
    close(median(&X).unwrap(), 100.4, 1e-12);
    close(quantile(&X, 0.9).unwrap(), 102.34, 1e-12);
    close(quantile(&X, 0.25).unwrap(), 99.7, 1e-12);
    close(quantile(&X, 0.0).unwrap(), 98.8, 0.0);
    close(quantile(&X, 1.0).unwrap(), 103.1, 0.0);
    close(median(&[1.0, 2.0, 3.0, 10.0]).unwrap(), 2.5, 0.0);
}

#[test]
fn mean_interval_is_scipys() {
    // stats.t.interval(.95, 4, loc=x.mean(), scale=stats.sem(x))
    let interval = mean_interval(&X, 0.95).unwrap().unwrap();
    close(interval.low, 98.609_964_800_330_87, 1e-8);
    close(interval.high, 102.670_035_199_669_13, 1e-8);
    assert_eq!(mean_interval(&[3.0], 0.95), Ok(None));
}

#[test]
fn paired_change_is_scipys_t_on_log_ratios() {
    // l = log(c / b); expm1 of stats.t.interval(.95, 4, loc=l.mean(), scale=stats.sem(l))
    let ratio = paired_log_ratio(&pairs(), 0.95).unwrap();
    close(ratio.change, -0.090_057_797_911_878_08, 1e-12);
    let interval = ratio.interval.unwrap();
    close(interval.low, -0.103_231_186_165_958_26, 1e-9);
    close(interval.high, -0.076_690_894_723_496_4, 1e-9);
    assert_eq!((ratio.n, ratio.method), (5, IntervalMethod::PairedT));
}

#[test]
fn unpaired_change_is_scipys_welch_on_logs() {
    // stats.ttest_ind(log(c), log(b), equal_var=False).confidence_interval(.95), expm1
    let mut baseline = BASELINE.to_vec();
    baseline.push(103.0);
    let ratio = welch_log_ratio(&baseline, &CANDIDATE, 0.95).unwrap();
    close(ratio.change, -0.094_544_667_719_913_86, 1e-12);
    let interval = ratio.interval.unwrap();
    close(interval.low, -0.118_727_283_499_209_87, 1e-8);
    close(interval.high, -0.069_698_467_450_845_99, 1e-8);
    assert_eq!((ratio.n, ratio.method), (5, IntervalMethod::Welch));
}

#[test]
fn twenty_pairs_and_more_are_bootstrapped_like_scipys_bca() {
    // stats.bootstrap((l,), np.mean, n_resamples=10000, method="BCa", random_state=s) over s in
    // 0..20: low 0.011233 (sd 0.000036), high 0.022560 (sd 0.000170); t would say 0.0094, 0.0201.
    let l: [f64; 24] = [
        0.010, 0.012, 0.008, 0.011, 0.009, 0.013, 0.007, 0.010, 0.012, 0.011, 0.009, 0.014, 0.060, 0.008, 0.010, 0.045,
        0.011, 0.012, 0.009, 0.031, 0.010, 0.008, 0.013, 0.011,
    ];
    let pairs: Vec<(f64, f64)> = l.iter().map(|l| (50.0, 50.0 * l.exp())).collect();
    let ratio = paired_log_ratio(&pairs, 0.95).unwrap();
    assert_eq!(ratio.method, IntervalMethod::PairedBca);
    close(ratio.change.ln_1p(), 0.014_75, 1e-12);
    let interval = ratio.interval.unwrap();
    close(interval.low.ln_1p(), 0.011_233, 4.0 * 0.000_036);
    close(interval.high.ln_1p(), 0.022_560, 4.0 * 0.000_170);
    assert_eq!(ratio, paired_log_ratio(&pairs, 0.95).unwrap(), "the seed is fixed");
}

#[test]
fn t_interval_covers_the_truth_as_often_as_it_says() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for n in [3, 5, 10] {
        let hits = (0..4000)
            .filter(|_| {
                let pairs: Vec<(f64, f64)> = (0..n)
                    .map(|_| {
                        let (a, b) = (normal(&mut rng), normal(&mut rng));
                        (100.0 * (0.02 * a).exp(), 110.0 * (0.02 * b).exp())
                    })
                    .collect();
                let interval = paired_log_ratio(&pairs, 0.95).unwrap().interval.unwrap();
                interval.low <= 0.1 && 0.1 <= interval.high
            })
            .count();
        close(hits as f64 / 4000.0, 0.95, 0.015);
    }
}

#[test]
fn bootstrap_covers_the_truth_about_as_often_as_it_says() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let hits = (0..400)
        .filter(|_| {
            let pairs: Vec<(f64, f64)> = (0..24).map(|_| (1.0, (0.02 * normal(&mut rng)).exp())).collect();
            let interval = paired_log_ratio(&pairs, 0.95).unwrap().interval.unwrap();
            interval.low <= 0.0 && 0.0 <= interval.high
        })
        .count();
    close(hits as f64 / 400.0, 0.94, 0.03);
}

#[test]
fn swapping_the_sides_inverts_the_ratio() {
    let there = paired_log_ratio(&pairs(), 0.95).unwrap();
    let swapped: Vec<(f64, f64)> = pairs().into_iter().map(|(b, c)| (c, b)).collect();
    let back = paired_log_ratio(&swapped, 0.95).unwrap();
    close((1.0 + there.change) * (1.0 + back.change), 1.0, 1e-12);
    close((1.0 + there.interval.unwrap().low) * (1.0 + back.interval.unwrap().high), 1.0, 1e-12);
}

#[test]
fn one_pair_has_a_change_and_no_interval() {
    let ratio = paired_log_ratio(&[(100.0, 110.0)], 0.95).unwrap();
    close(ratio.change, 0.1, 1e-12);
    assert_eq!(ratio.interval, None);
    assert_eq!(welch_log_ratio(&[1.0, 2.0], &[1.5], 0.95).unwrap().interval, None);
}

#[test]
fn equal_pairs_have_an_interval_of_no_width() {
    for n in [5, 30] {
        let ratio = paired_log_ratio(&vec![(100.0, 50.0); n], 0.95).unwrap();
        let interval = ratio.interval.unwrap();
        close(interval.low, -0.5, 1e-12);
        close(interval.high, -0.5, 1e-12);
    }
    let same = welch_log_ratio(&[2.0, 2.0], &[2.0, 2.0], 0.95).unwrap();
    assert_eq!(same.interval, Some(Interval { low: 0.0, high: 0.0 }));
}

#[test]
fn what_has_no_logarithm_is_an_error() {
    assert_eq!(paired_log_ratio(&[(1.0, 0.0)], 0.95), Err(StatsError::NotPositive(0.0)));
    assert_eq!(paired_log_ratio(&[(-1.0, 1.0)], 0.95), Err(StatsError::NotPositive(-1.0)));
    assert_eq!(welch_log_ratio(&[1.0], &[f64::INFINITY], 0.95), Err(StatsError::NotFinite(f64::INFINITY)));
    assert_eq!(paired_log_ratio(&[], 0.95), Err(StatsError::Empty));
    for confidence in [0.0, 1.0, f64::NAN] {
        assert!(matches!(paired_log_ratio(&pairs(), confidence), Err(StatsError::NotProbability(_))));
    }
}

#[test]
fn nan_is_an_error_everywhere() {
    let bad = [1.0, f64::NAN, 2.0];
    assert!(mean(&bad).is_err());
    assert!(median(&bad).is_err());
    assert!(sample_sd(&bad).is_err());
    assert!(mean_interval(&bad, 0.95).is_err());
    assert!(quantile(&[1.0], f64::NAN).is_err());
    assert!(paired_log_ratio(&[(1.0, 1.0), (1.0, f64::NAN)], 0.95).is_err());
    assert!(welch_log_ratio(&bad, &X, 0.95).is_err());
}
