//! What is left of every task after each, and what follows from it.
/// `loss[i][j]`: of task j after learning i tasks; row 0 is before the first. A loss is whatever is better
/// lower: negative log-likelihood, or the share of wrong answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// One row more than tasks.
    pub loss: Vec<Vec<f64>>,
}

impl Matrix {
    fn tasks(&self) -> usize {
        self.loss.len().saturating_sub(1)
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len();
        values.sum::<f64>() / count as f64
    }

    fn last(&self, task: usize) -> f64 {
        self.loss[self.tasks()][task]
    }

    /// Returns the mean loss over all tasks at the end.
    #[must_use]
    pub fn average(&self) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.last(task)))
    }

    /// Returns how much lower later tasks left the losses of earlier ones (GEM, arXiv 1706.08840);
    /// negative where they raised them.
    #[must_use]
    pub fn backward_transfer(&self) -> f64 {
        Self::mean((0..self.tasks() - 1).map(|task| self.loss[task + 1][task] - self.last(task)))
    }

    /// Returns how much lower earlier tasks left the losses of later ones before those were learned.
    #[must_use]
    pub fn forward_transfer(&self) -> f64 {
        Self::mean((1..self.tasks()).map(|task| self.loss[0][task] - self.loss[task][task]))
    }

    /// Returns how far tasks but the last rose above the least loss they had (arXiv 1801.10112).
    #[must_use]
    pub fn forgetting(&self) -> f64 {
        let rose = |task: usize| {
            let learned = &self.loss[1..self.tasks()];
            self.last(task) - learned.iter().map(|row| row[task]).fold(f64::INFINITY, f64::min)
        };
        Self::mean((0..self.tasks() - 1).map(rose))
    }

    /// Returns how much lower each task's loss was right after learning it than at the beginning.
    #[must_use]
    pub fn gain(&self) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.loss[0][task] - self.loss[task + 1][task]))
    }

    /// Returns the share of that which is left at the end, all tasks but the last together; nothing where
    /// they gained nothing that could be kept.
    #[must_use]
    pub fn retained_gain(&self) -> Option<f64> {
        let sum =
            |at: &dyn Fn(usize) -> f64| (0..self.tasks() - 1).map(|task| self.loss[0][task] - at(task)).sum::<f64>();
        let gained = sum(&|task| self.loss[task + 1][task]);
        (gained > 0.0).then(|| sum(&|task| self.last(task)) / gained)
    }

    /// Returns how much higher each task's loss was right after learning it than where all were learned
    /// together.
    #[must_use]
    pub fn intransigence(&self, joint: &[f64]) -> f64 {
        Self::mean((0..self.tasks()).map(|task| self.loss[task + 1][task] - joint[task]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_tells_what_was_learned_and_what_forgotten() {
        let loss = vec![vec![4.0, 5.0, 6.0], vec![2.0, 4.5, 6.0], vec![3.0, 3.0, 5.5], vec![3.5, 3.5, 4.0]];
        let matrix = Matrix { loss };
        let close = |found: f64, expected: f64| assert!((found - expected).abs() <= 1.0e-12, "{found} for {expected}");
        close(matrix.average(), 11.0 / 3.0);
        close(matrix.backward_transfer(), -1.0);
        close(matrix.forgetting(), 1.0);
        close(matrix.forward_transfer(), 0.5);
        close(matrix.gain(), 2.0);
        close(matrix.retained_gain().unwrap(), 2.0 / 4.0);
        close(matrix.intransigence(&[1.0, 2.0, 3.0]), 1.0);
    }
}
