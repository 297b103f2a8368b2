//! How the learning rate moves over the steps of a training: pure functions of the step.
//!
//! Steps count from 0, and a step's value is the one its own update uses. Curves are those of
//! transformers (`constant`, `linear`, `cosine`) and of torch's `OneCycleLR`; past the end of a
//! training the last value stays, where transformers' floored cosine would climb again.
use std::f64::consts::PI;

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The peak at every step, after `warmup` steps that rise to it from 0.
    Constant {
        /// Steps that rise.
        warmup: u64,
    },
    /// Rises over `warmup` steps, then falls to 0 in a straight line.
    Linear {
        /// Steps that rise.
        warmup: u64,
    },
    /// Rises over `warmup` steps, then falls to `floor` along half a cosine.
    Cosine {
        /// Steps that rise.
        warmup: u64,
        /// Where it ends.
        floor: f64,
    },
    /// Up and down once, momentum mirrored (arXiv 1708.07120).
    OneCycle(OneCycle),
}

/// A curve between two points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine.
    Cos,
    /// A straight line.
    Linear,
}

impl Anneal {
    fn between(self, start: f64, end: f64, share: f64) -> f64 {
        match self {
            Self::Cos => end + (start - end) / 2.0 * (1.0 + (PI * share).cos()),
            Self::Linear => (end - start) * share + start,
        }
    }
}

/// The settings of torch's `OneCycleLR`; the default is torch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCycle {
    /// The share of steps that rise.
    pub pct_start: f64,
    /// The start is the peak divided by this.
    pub div_factor: f64,
    /// The end is the start divided by this.
    pub final_div_factor: f64,
    /// Whether it falls to the start as it rose, and only then to the end.
    pub three_phase: bool,
    /// The curve.
    pub anneal: Anneal,
    /// The momentum at the peak.
    pub base_momentum: f64,
    /// The momentum at the start and at the end.
    pub max_momentum: f64,
}

impl Default for OneCycle {
    fn default() -> Self {
        Self {
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1.0e4,
            three_phase: false,
            anneal: Anneal::Cos,
            base_momentum: 0.85,
            max_momentum: 0.95,
        }
    }
}

/// What an update uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The learning rate.
    pub learning_rate: f64,
    /// Adam's first beta where the schedule moves it.
    pub momentum: Option<f64>,
}

/// A schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub shape: Shape,
    /// The highest learning rate.
    pub peak: f64,
    /// N, the steps of the training; `Constant` needs none.
    pub total: u64,
}

impl Schedule {
    /// Returns what the update of a step uses, the last step's past the end.
    #[must_use]
    pub fn at(&self, step: u64) -> Rate {
        let (peak, total) = (self.peak, self.total);
        let plain = |learning_rate| Rate { learning_rate, momentum: None };
        match self.shape {
            Shape::Constant { warmup } => plain(peak * rise(step, warmup).unwrap_or(1.0)),
            Shape::Linear { warmup } => {
                plain(peak * rise(step, warmup).unwrap_or_else(|| 1.0 - done(step, warmup, total)))
            }
            Shape::Cosine { warmup, floor } => plain(rise(step, warmup).map_or_else(
                || {
                    let fallen = (0.5 * (1.0 + (PI * done(step, warmup, total)).cos())).max(0.0);
                    let floor = if peak > 0.0 { floor / peak } else { 0.0 };
                    peak * (fallen * (1.0 - floor) + floor)
                },
                |share| peak * share,
            )),
            Shape::OneCycle(cycle) => cycle.at(peak, step, total),
        }
    }
}

/// Returns the share of the peak while it rises.
fn rise(step: u64, warmup: u64) -> Option<f64> {
    (step < warmup).then(|| step as f64 / warmup as f64)
}

/// Returns the share of the steps after the warm-up that are over.
fn done(step: u64, warmup: u64, total: u64) -> f64 {
    step.min(total).saturating_sub(warmup) as f64 / total.saturating_sub(warmup).max(1) as f64
}

impl OneCycle {
    fn at(&self, peak: f64, step: u64, total: u64) -> Rate {
        let start = peak / self.div_factor;
        let end = start / self.final_div_factor;
        let (low, high) = (self.base_momentum, self.max_momentum);
        // Of each phase, the step it ends at, and learning rate and momentum from and to. Ends may be fractions.
        let last = total as f64 - 1.0;
        let risen = self.pct_start * total as f64 - 1.0;
        let up = (risen, (start, peak), (high, low));
        let phases = if self.three_phase {
            let fallen = 2.0 * self.pct_start * total as f64 - 2.0;
            vec![up, (fallen, (peak, start), (low, high)), (last, (start, end), (high, high))]
        } else {
            vec![up, (last, (peak, end), (low, high))]
        };
        let step = (step as f64).min(last.max(0.0));
        let mut from = 0.0;
        let mut rate = Rate { learning_rate: end, momentum: Some(high) };
        for (at, (until, rates, momenta)) in phases.iter().enumerate() {
            if step <= *until || at + 1 == phases.len() {
                // A phase without length is over at once, where torch divides by zero.
                let share = if *until == from { 1.0 } else { (step - from) / (until - from) };
                rate = Rate {
                    learning_rate: self.anneal.between(rates.0, rates.1, share),
                    momentum: Some(self.anneal.between(momenta.0, momenta.1, share)),
                };
                break;
            }
            from = *until;
        }
        rate
    }
}

#[cfg(test)]
mod tests;
