//! Where a stream without labels becomes another one, told by its losses.
//!
//! A self-starting CUSUM (Hawkins, "Self-starting CUSUM charts for location and scale", 1987): each loss is
//! held against the mean and deviation of those before it. With normal losses of any mean and deviation
//! `T_n = (x_n - mean_{n-1}) / sd_{n-1} sqrt((n-1)/n)` has Student's t distribution with n - 2 degrees of
//! freedom, so what it is as a normal quantile are independent standard normal numbers `U_n`, and
//! `S = max(0, S + U - k)` crosses h about once in as many steps as was asked for where nothing changes.
//!
//! Losses also fall, where something is learned, and values from before they fell would make what comes after
//! look steady. A second sum of the same kind sees that: it begins anew with what it is held against.

use crate::adapt::data::Example;

/// Losses before the first is judged.
const WARM_UP: u64 = 8;

/// What a loss says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Nothing speaks for a change: if there is one later, it is after this.
    None,
    /// It may have changed.
    Possible,
    /// The mean has risen since the last [`Shift::None`].
    Found,
}

/// A test for a rise of the mean, after every value.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanShift {
    /// k: half the rise that is looked for, in deviations.
    slack: f64,
    /// h.
    threshold: f64,
    count: u64,
    mean: f64,
    /// Σ (x - mean)².
    squares: f64,
    /// S.
    sum: f64,
    /// The same of falls.
    fallen: f64,
}

impl MeanShift {
    /// Returns a test that looks for rises of so many deviations and, where there is none, takes normal noise
    /// for one about once in `run_length` values.
    ///
    /// # Numerics
    ///
    /// The threshold solves Siegmund's approximation of the mean time to a false alarm,
    /// `(exp(2kb) - 2kb - 1) / (2k²)` with `b = h + 1.166` ("Sequential Analysis", 1985).
    #[must_use]
    pub fn new(rise: f64, run_length: f64) -> Self {
        let slack = (rise / 2.0).max(1.0e-3);
        let run = |h: f64| {
            let x = 2.0 * slack * (h + 1.166);
            (x.exp() - x - 1.0) / (2.0 * slack * slack)
        };
        let (mut low, mut high) = (0.0, 1.0);
        while run(high) < run_length {
            high *= 2.0;
        }
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if run(middle) < run_length { low = middle } else { high = middle }
        }
        Self { slack, threshold: high, count: 0, mean: 0.0, squares: 0.0, sum: 0.0, fallen: 0.0 }
    }

    /// Forgets all it has seen.
    pub fn reset(&mut self) {
        let Self { slack, threshold, .. } = *self;
        *self = Self { slack, threshold, count: 0, mean: 0.0, squares: 0.0, sum: 0.0, fallen: 0.0 };
    }

    /// Takes the next value.
    pub fn observe(&mut self, value: f64) -> Shift {
        if self.count >= WARM_UP {
            let n = self.count as f64;
            let deviation = (self.squares / (n - 1.0)).sqrt();
            let t = (value - self.mean) / deviation.max(f64::MIN_POSITIVE) * (n / (n + 1.0)).sqrt();
            let quantile = normal(t, n - 1.0);
            self.sum = (self.sum + quantile - self.slack).max(0.0);
            self.fallen = (self.fallen - quantile - self.slack).max(0.0);
            if self.fallen > self.threshold {
                self.reset();
            }
        }
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
        match self.sum {
            sum if sum > self.threshold => Shift::Found,
            sum if sum > 0.0 => Shift::Possible,
            _ => Shift::None,
        }
    }
}

/// The most examples of a task that are remembered while nobody says where it ends.
const REMEMBERED: usize = 4096;

/// A task that is being learned, while its losses are watched for its end.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    shift: MeanShift,
    /// What was learned since the last end, and how much of it before losses began to rise.
    seen: Vec<Example>,
    settled: usize,
    /// The parameters then.
    parameters: Vec<f32>,
    /// Updates in all, and those after which an end was found.
    updates: u64,
    found: Vec<u64>,
}

impl Watch {
    pub(super) fn new(shift: MeanShift, parameters: &[f32]) -> Self {
        Self { shift, seen: Vec::new(), settled: 0, parameters: parameters.to_vec(), updates: 0, found: Vec::new() }
    }

    pub(super) fn found(&self) -> &[u64] {
        &self.found
    }

    /// Takes note of an update from these examples and where it led. Returns the task that ended before, with
    /// its examples and where it had led, if that is what the loss says.
    pub(super) fn look(
        &mut self,
        loss: f64,
        batch: &[&Example],
        parameters: &[f32],
    ) -> Option<(Vec<Example>, Vec<f32>)> {
        self.updates += 1;
        self.seen.extend(batch.iter().map(|example| (*example).clone()));
        match self.shift.observe(loss) {
            Shift::None => {
                let beyond = self.seen.len().saturating_sub(REMEMBERED);
                self.seen.drain(..beyond);
                self.settled = self.seen.len();
                parameters.clone_into(&mut self.parameters);
                None
            }
            Shift::Possible => None,
            Shift::Found => {
                self.shift.reset();
                self.found.push(self.updates);
                let new = self.seen.split_off(self.settled);
                let task = std::mem::replace(&mut self.seen, new);
                self.settled = 0;
                Some((task, std::mem::replace(&mut self.parameters, parameters.to_vec())))
            }
        }
    }
}

/// Returns the normal quantile of what is a quantile `t` of Student's distribution (Wallace, "Bounds on
/// normal approximations to Student's and the chi-square distributions", 1959).
fn normal(t: f64, freedom: f64) -> f64 {
    let factor = (8.0 * freedom + 1.0) / (8.0 * freedom + 3.0);
    t.signum() * factor * (freedom * (t * t / freedom).ln_1p()).sqrt()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Returns a normal number (Box and Muller).
    fn noise(random: &mut impl Rng) -> f64 {
        let (radius, angle): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    #[test]
    fn where_nothing_changes_alarms_are_as_rare_as_was_asked_for() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for (rise, run_length) in [(1.0, 100.0), (2.0, 200.0)] {
            const RUNS: u32 = 300;
            let mut steps = 0u32;
            for run in 0..RUNS {
                // Of any mean and deviation.
                let (mean, deviation) = (f64::from(run % 7), 0.01 + f64::from(run % 5));
                let mut shift = MeanShift::new(rise, run_length);
                while shift.observe(mean + deviation * noise(&mut random)) != Shift::Found {
                    steps += 1;
                }
            }
            // Times to an alarm are about exponential: the mean's standard error is 6 %. Those of warming up
            // are none that could alarm.
            let found = f64::from(steps) / f64::from(RUNS) - WARM_UP as f64;
            assert!((found / run_length - 1.0).abs() <= 0.25, "{found} of {run_length}");
        }
    }

    #[test]
    fn a_rise_is_found_soon_and_begins_where_it_did() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let (mut found, mut early) = (0, 0);
        for _ in 0..200 {
            let mut shift = MeanShift::new(2.0, 1.0e4);
            let mut settled = 0;
            for step in 0..60 {
                let mean = if step < 40 { 3.0 } else { 3.9 };
                match shift.observe(mean + 0.3 * noise(&mut random)) {
                    Shift::None => settled = step,
                    Shift::Possible => {}
                    Shift::Found => {
                        early += u32::from(step < 40);
                        found += u32::from((40..50).contains(&step) && (37..43).contains(&settled));
                        break;
                    }
                }
            }
        }
        assert!(early <= 4 && found >= 180, "{early} {found}");
    }

    #[test]
    fn a_rise_is_found_after_a_fall_too() {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let mut found = 0;
        for _ in 0..100 {
            let mut shift = MeanShift::new(2.0, 1.0e4);
            let mut first = None;
            for step in 0..110 {
                // As a task is learned, and then the next.
                let at = f64::from(step % 100);
                let loss = 3.0 + 3.0 * (-at / 8.0).exp() + 0.1 * noise(&mut random);
                if shift.observe(loss) == Shift::Found {
                    first = first.or(Some(step));
                }
            }
            found += u32::from(first.is_some_and(|step| (100..104).contains(&step)));
        }
        assert!(found >= 95, "{found}");
    }

    #[test]
    fn a_fall_is_no_rise() {
        let mut shift = MeanShift::new(1.0, 1.0e3);
        let falling = (0..200).map(|step| 5.0 / f64::from(1 + step));
        assert!(falling.into_iter().all(|value| shift.observe(value) != Shift::Found));
        shift.reset();
        assert_eq!(shift, MeanShift::new(1.0, 1.0e3));
    }
}
