//! One arm's way through the tasks.
use super::{
    super::{error::LaunchError, opened::load_trainee, recorder::Recorder},
    arm::Arm,
    lesson::{Lesson, Test},
};
use crate::{
    adapt::{
        continual::{ContinualTrainer, Matrix, Orthogonality, Updates, widened},
        data::Example,
    },
    engine::{Adapter, TraineeSettings},
    event::Phase,
    model::weights::Weights,
    plan::Cell,
};

/// All that arms have in common.
pub(super) struct Course<'a> {
    pub(super) cell: &'a Cell,
    pub(super) weights: Weights,
    pub(super) adapter: Adapter,
    pub(super) held: TraineeSettings,
    pub(super) updates: Updates,
    /// Updates a task.
    pub(super) steps: u64,
    pub(super) lessons: Vec<Lesson>,
    pub(super) general: Vec<Example>,
}

/// What other arms are held against, of one order.
#[derive(Default)]
pub(super) struct Ideal {
    /// The losses of all tasks learned at once.
    pub(super) joint: Option<Vec<f64>>,
    /// The gain of learning one after the other, unprotected.
    pub(super) sequential: Option<f64>,
}

/// How a model does on a task.
#[derive(Clone, Copy)]
struct Score {
    nll: f64,
    /// The share of wrong answers, where there are labels.
    errors: Option<f64>,
    /// Tokens scored, and questions asked.
    n: [u64; 2],
}

/// What an arm left of every task.
pub(super) struct Record {
    rows: Vec<Vec<Score>>,
}

impl Record {
    fn matrix(&self) -> Matrix {
        Matrix { loss: self.rows.iter().map(|row| row.iter().map(|score| score.nll).collect()).collect() }
    }

    /// Returns the matrix of wrong answers, where every task has labels.
    fn errors(&self) -> Option<Matrix> {
        let row = |row: &Vec<Score>| row.iter().map(|score| score.errors).collect::<Option<Vec<f64>>>();
        Some(Matrix { loss: self.rows.iter().map(row).collect::<Option<_>>()? })
    }

    /// Records what follows from the matrix.
    pub(super) fn report(&self, ideal: &mut Ideal, recorder: &mut Recorder<'_>) {
        let (matrix, n) = (self.matrix(), self.rows[0].len() as u64);
        let mut once = |metric: &str, value: f64| recorder.once(metric, Phase::Eval, value, n);
        once("average_nll", matrix.average());
        once("learned_gain", matrix.gain());
        if n > 1 {
            once("forgetting", matrix.forgetting());
            once("backward_transfer", matrix.backward_transfer());
            once("forward_transfer", matrix.forward_transfer());
            if let Some(retained) = matrix.retained_gain() {
                once("retained_gain", retained);
            }
        }
        if let Some(joint) = &ideal.joint {
            once("intransigence", matrix.intransigence(joint));
        }
        once("plasticity_loss", 1.0 - matrix.gain() / *ideal.sequential.get_or_insert(matrix.gain()));
        if let Some(errors) = self.errors() {
            once("average_accuracy", 1.0 - errors.average());
            if n > 1 {
                once("accuracy_forgetting", errors.forgetting());
                once("accuracy_backward_transfer", errors.backward_transfer());
            }
        }
    }
}

impl Course<'_> {
    fn begin(&self, arm: &Arm) -> Result<ContinualTrainer, LaunchError> {
        let Self { weights, adapter, held, updates, cell, .. } = self;
        let protection = arm.protection(self.lessons.len());
        let adapter = match protection.orthogonality {
            Some(Orthogonality { tasks, .. }) => widened(adapter, tasks, cell.seed),
            None => adapter.clone(),
        };
        let trainee = load_trainee(cell, weights, &adapter, *held)?;
        let mut trainer = ContinualTrainer::new(trainee, &adapter, protection, *updates, cell.seed)?;
        if let Some(shift) = arm.detector() {
            trainer.watch(shift);
        }
        Ok(trainer)
    }

    fn score(trainer: &ContinualTrainer, test: &Test) -> Result<Score, LaunchError> {
        match test {
            Test::Text(examples) => {
                let (nll, n) = trainer.score(examples)?;
                Ok(Score { nll, errors: None, n: [n as u64, 0] })
            }
            Test::Questions(choices, questions) => {
                let answers = trainer.answers(choices, questions)?;
                let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
                let nll = answers.iter().map(|answer| answer.nll).sum::<f64>() / tokens.max(1) as f64;
                let wrong = answers.iter().filter(|answer| !answer.right).count();
                let errors = Some(wrong as f64 / answers.len().max(1) as f64);
                Ok(Score { nll, errors, n: [tokens as u64, answers.len() as u64] })
            }
        }
    }

    /// Scores all tasks and records a row of the matrix.
    fn row(
        &self,
        trainer: &ContinualTrainer,
        order: &[usize],
        through: usize,
        recorder: &mut Recorder<'_>,
    ) -> Result<Vec<Score>, LaunchError> {
        let mut row = Vec::new();
        for (at, lesson) in order.iter().map(|task| &self.lessons[*task]).enumerate() {
            let score = Self::score(trainer, &lesson.test)?;
            if !score.nll.is_finite() {
                let problem = format!(
                    "the held-out loss is {}; lower `training.learning_rate` or set `training.max_grad_norm`",
                    score.nll
                );
                return Err(LaunchError::Numerics { workload: recorder.workload().to_owned(), problem });
            }
            let (task, step) = ((lesson.name.as_str(), through as u32), (through * order.len() + at) as u64);
            recorder.of_task("task_nll", score.nll, score.n[0], task, step);
            if let Some(errors) = score.errors {
                recorder.of_task("task_accuracy", 1.0 - errors, score.n[1], task, step);
            }
            row.push(score);
        }
        Ok(row)
    }

    /// Learns the tasks one after the other.
    pub(super) fn sequence(
        &self,
        arm: &Arm,
        order: &[usize],
        recorder: &mut Recorder<'_>,
    ) -> Result<Record, LaunchError> {
        let mut trainer = self.begin(arm)?;
        let (before, n) = trainer.score(&self.general)?;
        let mut rows = vec![self.row(&trainer, order, 0, recorder)?];
        for (at, task) in order.iter().enumerate() {
            let lesson = &self.lessons[*task];
            let seed = self.cell.seed.wrapping_mul(1000).wrapping_add(*task as u64);
            trainer.learn(&lesson.train, self.steps, seed)?;
            if let Some(statistics) = trainer.finish(&lesson.train, seed)? {
                for (metric, value) in [("fisher_mean", statistics.mean), ("fisher_max", statistics.most)] {
                    recorder.of_task(metric, value, 1, (lesson.name.as_str(), at as u32 + 1), at as u64);
                }
            }
            rows.push(self.row(&trainer, order, at + 1, recorder)?);
        }
        recorder.once("general_drift", Phase::Eval, trainer.score(&self.general)?.0 - before, n as u64);
        if arm.detector().is_some() {
            self.report_ends(&trainer, order.len(), recorder);
        }
        Ok(Record { rows })
    }

    /// Records how many ends of tasks were found, how late, and how many where there are none.
    fn report_ends(&self, trainer: &ContinualTrainer, tasks: usize, recorder: &mut Recorder<'_>) {
        // The first that is found while a task is learned is the end of the one before.
        let mut late: Vec<Option<u64>> = vec![None; tasks];
        let mut falsely = 0;
        for update in trainer.found() {
            let (task, delay) = (((update - 1) / self.steps) as usize, (update - 1) % self.steps + 1);
            match late.get_mut(task).filter(|late| task > 0 && late.is_none()) {
                Some(late) => *late = Some(delay),
                None => falsely += 1,
            }
        }
        let found: Vec<f64> = late.iter().flatten().map(|delay| *delay as f64).collect();
        let ends = tasks as u64 - 1;
        recorder.once("boundaries_found", Phase::Eval, found.len() as f64, ends);
        recorder.once("boundaries_false", Phase::Eval, f64::from(falsely), self.steps * tasks as u64);
        if !found.is_empty() {
            let delay = found.iter().sum::<f64>() / found.len() as f64;
            recorder.once("boundary_delay", Phase::Eval, delay, found.len() as u64);
        }
    }

    /// Learns all tasks at once, and returns their losses.
    pub(super) fn together(
        &self,
        arm: &Arm,
        order: &[usize],
        recorder: &mut Recorder<'_>,
    ) -> Result<Vec<f64>, LaunchError> {
        let mut trainer = self.begin(arm)?;
        let (before, n) = trainer.score(&self.general)?;
        let all: Vec<Example> = self.lessons.iter().flat_map(|lesson| lesson.train.iter().cloned()).collect();
        trainer.learn(&all, self.steps * order.len() as u64, self.cell.seed)?;
        let record = Record { rows: vec![self.row(&trainer, order, order.len(), recorder)?] };
        let losses = record.matrix().loss.swap_remove(0);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        recorder.once("average_nll", Phase::Eval, mean(&losses), losses.len() as u64);
        if let Some(errors) = record.errors() {
            recorder.once("average_accuracy", Phase::Eval, 1.0 - mean(&errors.loss[0]), losses.len() as u64);
        }
        recorder.once("general_drift", Phase::Eval, trainer.score(&self.general)?.0 - before, n as u64);
        Ok(losses)
    }
}
