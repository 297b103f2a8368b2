//! What keeps steps from harm: each is held against the loss it was to lower, and an adapter that costs more than
//! it gives is reset.
use super::{
    MicroLora, RANK, Request,
    exponential::{LARGEST, exp_minus_one},
    step::{Outcome, Step},
};

/// The share of the newest request in the running mean of what the adapter gains: so small that no single request
/// decides.
const NEWEST: f64 = 0.1;

/// How a step must decrease the loss to be taken, as a share of what its gradient promises
/// (Armijo's condition).
const ARMIJO: f64 = 0.1;

/// Numbers that are looked at side by side, so that none waits for the one before.
const LANES: usize = 8;

/// Returns the largest of the numbers' sizes, those that are NaN aside.
fn largest(numbers: &[f32]) -> f32 {
    let larger = |size: f32, than: f32| if size > than { size } else { than };
    let (vectors, tail) = numbers.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for vector in vectors {
        lanes.iter_mut().zip(vector).for_each(|(lane, number)| *lane = larger(number.abs(), *lane));
    }
    lanes.iter().chain(tail).fold(0.0, |largest, number| larger(number.abs(), largest))
}

fn dot(a: &[[f32; RANK]], b: &[[f32; RANK]]) -> f64 {
    let ((a, tail), (b, other)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let product = |a: &[f32; RANK], b: &[f32; RANK]| f64::from(a[0] * b[0] + a[1] * b[1]);
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += product(a, b));
    }
    lanes.iter().sum::<f64>() + tail.iter().zip(other).map(|(a, b)| product(a, b)).sum::<f64>()
}

impl MicroLora {
    /// Fills in how the logits of the request's tokens change if their rows change by `factor` times these.
    fn slopes(&mut self, request: &Request, rows: fn(&Self) -> &[[f32; RANK]], factor: f32) {
        let mut slopes = std::mem::take(&mut self.slopes);
        slopes.clear();
        let rows = rows(self);
        for (slots, projected) in self.slots.chunks_exact(request.width()).zip(request.projected()) {
            let [first, second] = projected.map(|value| value * factor);
            slopes.extend(slots.iter().map(|slot| {
                let row = rows[*slot as usize];
                row[0] * first + row[1] * second
            }));
        }
        self.slopes = slopes;
    }

    /// Returns by how much the request's mean loss changes if its logits change by `size` times the slopes:
    /// `ln(1 + Σ p (exp(δ) − 1)) − δ_y`, of each position.
    ///
    /// Infinite where a logit would change by more than what exponentials are computed of.
    fn loss_change(&mut self, request: &Request, size: f32) -> f64 {
        if largest(&self.slopes) * size.abs() > LARGEST {
            return f64::INFINITY;
        }
        self.changes.clear();
        self.changes.extend(self.slopes.iter().map(|slope| exp_minus_one(slope * size)));
        let width = request.width();
        let positions = self.changes.chunks_exact(width).zip(request.probabilities().chunks_exact(width));
        let (mut total, mut product) = (0.0, 1.0);
        for (position, ((changes, probabilities), came)) in positions.zip(request.came()).enumerate() {
            let mut sums = [0.0f32; 4];
            for (changes, probabilities) in changes.as_chunks::<4>().0.iter().zip(probabilities.as_chunks::<4>().0) {
                sums.iter_mut().zip(changes.iter().zip(probabilities)).for_each(|(sum, (c, p))| *sum += c * p);
            }
            total -= f64::from(self.slopes[*came as usize] * size);
            product *= 1.0 + f64::from(sums.iter().sum::<f32>());
            // A logarithm for some together: so many factors up to exp(80) are a number still.
            if position % 8 == 7 {
                total += f64::ln(std::mem::replace(&mut product, 1.0));
            }
        }
        (total + product.ln()) / request.len() as f64
    }

    /// Compares the request with what it would have been without the adapter, and resets an adapter that
    /// makes requests worse.
    pub(super) fn regresses(&mut self, request: &Request, weight: f32, step: &mut Step) -> bool {
        if self.is_zero() {
            return false;
        }
        self.slopes(request, |own| &own.rows, self.settings.scale * self.shrink);
        let change = self.loss_change(request, -1.0);
        if change.is_finite() {
            step.loss_static = step.loss_before + f64::from(weight) * change;
        }
        if weight > 0.0 {
            self.regret += NEWEST * (-change - self.regret);
            // Beyond all measure is too much, too.
            if self.regret > self.settings.tolerance || !change.is_finite() {
                let version = self.version;
                self.reset();
                self.version = version;
                (step.outcome, step.loss_after) = (Outcome::Reset, step.loss_static);
                return true;
            }
        }
        false
    }

    /// Returns by how much the adapter raises the mean loss of a request that was recorded without it, in nats a
    /// token, where each position sees changes to its own tokens alone.
    ///
    /// # Panics
    ///
    /// If the request has a token beyond the vocabulary.
    #[must_use]
    pub fn cost(&self, request: &Request) -> f64 {
        if self.is_zero() || request.is_empty() {
            return 0.0;
        }
        let factor = self.settings.scale * self.shrink;
        let width = request.width();
        let mut slopes = vec![0.0f32; width];
        let positions = request.tokens().chunks_exact(width).zip(request.probabilities().chunks_exact(width));
        let positions = positions.zip(request.projected()).zip(request.came()).zip((0..).step_by(width));
        let mut total = 0.0;
        for ((((tokens, probabilities), projected), came), start) in positions {
            let [first, second] = projected.map(|value| value * factor);
            for (slope, token) in slopes.iter_mut().zip(tokens) {
                let row = &self.b[*token as usize];
                *slope = row[0] * first + row[1] * second;
            }
            let mut sums = [0.0f32; 4];
            for (slopes, probabilities) in slopes.as_chunks::<4>().0.iter().zip(probabilities.as_chunks::<4>().0) {
                let terms = slopes.iter().zip(probabilities).map(|(slope, p)| p * exp_minus_one(*slope));
                sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
            total += f64::from(sums.iter().sum::<f32>()).ln_1p() - f64::from(slopes[*came as usize - start]);
        }
        total / request.len() as f64
    }

    /// Takes B back towards zero until it raises the mean loss of a request that was recorded without it by no more
    /// than `most`, and returns the share of B that is left. The loss is convex in B, so at the share `most / cost`
    /// it costs no more than that; [`Self::undo`] takes this back with the step.
    pub fn retreat(&mut self, request: &Request, most: f64) -> f64 {
        let cost = self.cost(request);
        if cost <= most {
            return 1.0;
        }
        let share = most.max(0.0) / cost;
        let share = if share.is_finite() { share } else { 0.0 };
        self.shrink *= share as f32;
        share
    }

    /// Finds how far to go.
    pub(super) fn search(&mut self, request: &Request, weight: f32, step: &mut Step) {
        let promised = dot(&self.gradient, &self.direction);
        step.grad_norm = dot(&self.gradient, &self.gradient).sqrt();
        let capped = f64::from(self.settings.max_step_norm) / dot(&self.direction, &self.direction).sqrt();
        let mut size = self.settings.learning_rate.min(capped as f32);
        if promised <= 0.0 || size <= 0.0 || size.is_nan() {
            return;
        }
        self.slopes(request, |own| &own.direction, self.settings.scale);
        for backtracks in 0..=self.settings.backtracks {
            let change = f64::from(weight) * self.loss_change(request, -size);
            let predicted = f64::from(size) * promised;
            if change <= -ARMIJO * predicted {
                step.outcome = Outcome::Applied;
                step.loss_after = step.loss_before + change;
                (step.predicted_decrease, step.learning_rate, step.backtracks) = (predicted, size, backtracks);
                return;
            }
            size *= 0.5;
        }
        step.backtracks = self.settings.backtracks;
    }
}
