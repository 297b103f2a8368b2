//! Tasks learned one after the other, by every method, in every order.
mod arm;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    launch::{LaunchError, load_trainee, open_text, open_tokenizer, open_weights},
    recorder::Recorder,
};
use crate::{
    adapt::{
        continual::{ContinualTrainer, Matrix, Orthogonality, Updates, widened},
        data::Example,
        optim::AdamW,
        train::Rule,
    },
    engine::{Adapter, TraineeSettings},
    event::Phase,
    host::Load,
    model::{tokenizer::Tokenizer, weights::Weights},
    plan::{self, Cell},
    recipe::schema::{ContinualLearning, MethodName, Optimizer, Task, Training},
};
use arm::Arm;

/// A task, in tokens.
struct Lesson {
    name: String,
    train: Vec<Example>,
    test: Vec<Example>,
}

/// All that arms have in common.
struct Course<'a> {
    cell: &'a Cell,
    weights: Weights,
    adapter: Adapter,
    held: TraineeSettings,
    updates: Updates,
    /// Updates a task.
    steps: u64,
    lessons: Vec<Lesson>,
    general: Vec<Example>,
}

/// Returns a text in sequences of so many tokens, each beginning as the model wants.
fn sequences(tokenizer: &Tokenizer, cell: &Cell, text: &str, length: usize) -> Result<Vec<Example>, LaunchError> {
    let content = open_text(cell, text)?.content;
    let wrong = |error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error };
    let tokens = tokenizer.encode(&content, false).map_err(wrong)?;
    let begin = tokenizer.bos_to_add();
    let own = length - usize::from(begin.is_some());
    let example = |part: &[u32]| Example { tokens: begin.into_iter().chain(part.iter().copied()).collect(), prompt: 0 };
    let sequences: Vec<Example> = tokens.chunks_exact(own).map(example).collect();
    if sequences.is_empty() {
        return Err(LaunchError::TextTooShort { name: text.to_owned(), found: tokens.len(), needed: own });
    }
    Ok(sequences)
}

fn updates(training: &Training) -> Updates {
    Updates {
        schedule: plan::schedule(training),
        rule: match training.optimizer {
            Optimizer::Adamw => Rule::AdamW(AdamW::default()),
            Optimizer::Sgd => Rule::Sgd,
        },
        weight_decay: training.weight_decay,
        max_grad_norm: training.max_grad_norm,
        batch: training.batch_size as usize,
    }
}

/// Returns the orders of so many tasks: as written, then drawn ones, each another as long as there are any.
fn orders(tasks: usize, drawn: u32, seed: u64) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut orders: Vec<Vec<usize>> = vec![(0..tasks).collect()];
    for _ in 0..drawn {
        let mut order: Vec<usize> = (0..tasks).collect();
        for _ in 0..100 {
            order.shuffle(&mut random);
            if !orders.contains(&order) {
                break;
            }
        }
        orders.push(order);
    }
    orders
}

pub(super) fn run(learning: &ContinualLearning, cell: &Cell, recorder: &mut Recorder<'_>) -> Result<(), LaunchError> {
    let missing = |key: &str| LaunchError::Training {
        workload: recorder.workload().to_owned(),
        problem: format!("the recipe lacks `{key}`"),
    };
    let recipe = &cell.recipe;
    let continual = recipe.continual.as_ref().ok_or_else(|| missing("continual"))?;
    let training = recipe.training.as_ref().ok_or_else(|| missing("training"))?;
    let adapter = recipe.adapter.as_ref().ok_or_else(|| missing("adapter"))?;
    let steps = training.max_steps.ok_or_else(|| missing("training.max_steps"))?;
    let weights = open_weights(cell)?;
    let tokenizer = open_tokenizer(cell, &weights)?;
    let length = training.sequence_length as usize;
    let most = learning.eval_sequences as usize;
    let cut = |text: &str| sequences(&tokenizer, cell, text, length);
    let tested = |text: &str| {
        let mut all = cut(text)?;
        all.truncate(most);
        Ok::<_, LaunchError>(all)
    };
    let lesson = |task: &Task| {
        Ok::<_, LaunchError>(Lesson { name: task.name.clone(), train: cut(&task.train)?, test: tested(&task.test)? })
    };
    let lessons = continual.tasks.iter().map(lesson).collect::<Result<Vec<_>, LaunchError>>()?;
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    let course = Course {
        cell,
        adapter: plan::beginning(adapter, weights.spec(), cell.seed)?.0,
        // Half of what is free: activations need room, too.
        held: TraineeSettings { widen: weights.parameters() * 8 <= free / 2, recompute: false },
        general: tested(&learning.general)?,
        updates: updates(training),
        steps,
        lessons,
        weights,
    };
    let arms = Arm::all(continual);
    let orders = orders(course.lessons.len(), continual.task_orders, cell.seed);
    let total = (orders.len() * arms.len()) as u64;
    for (at, order) in orders.iter().enumerate() {
        let (mut joint, mut plain): (Option<Vec<f64>>, Option<f64>) = (None, None);
        for (done, arm) in arms.iter().enumerate() {
            recorder.begin(arm.label(at));
            recorder.progress((at * arms.len() + done) as u64, total);
            if arm.method.method == MethodName::Joint {
                joint = Some(course.together(arm, order, recorder)?);
                continue;
            }
            let matrix = course.sequence(arm, order, recorder)?;
            let n = order.len() as u64;
            let mut once = |metric: &str, value: f64| recorder.once(metric, Phase::Eval, value, n);
            once("average_nll", matrix.average());
            once("learned_gain", matrix.gain());
            if order.len() > 1 {
                once("forgetting", matrix.forgetting());
                once("backward_transfer", matrix.backward_transfer());
                once("forward_transfer", matrix.forward_transfer());
                once("retained_gain", matrix.retained_gain());
            }
            if let Some(joint) = &joint {
                once("intransigence", matrix.intransigence(joint));
            }
            once("plasticity_loss", 1.0 - matrix.gain() / *plain.get_or_insert(matrix.gain()));
        }
    }
    recorder.progress(total, total);
    Ok(())
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
        Ok(ContinualTrainer::new(trainee, &adapter, protection, *updates, cell.seed)?)
    }

    fn numerics(recorder: &Recorder<'_>, nll: f64) -> LaunchError {
        let problem =
            format!("the held-out loss is {nll}; lower `training.learning_rate` or set `training.max_grad_norm`");
        LaunchError::Numerics { workload: recorder.workload().to_owned(), problem }
    }

    /// Scores all tasks and records a row of the matrix.
    fn row(
        &self,
        trainer: &ContinualTrainer,
        order: &[usize],
        through: usize,
        recorder: &mut Recorder<'_>,
    ) -> Result<Vec<f64>, LaunchError> {
        let mut row = Vec::new();
        for (at, lesson) in order.iter().map(|task| &self.lessons[*task]).enumerate() {
            let (nll, n) = trainer.score(&lesson.test)?;
            if !nll.is_finite() {
                return Err(Self::numerics(recorder, nll));
            }
            let step = (through * order.len() + at) as u64;
            recorder.of_task("task_nll", nll, n as u64, (lesson.name.as_str(), through as u32), step);
            row.push(nll);
        }
        Ok(row)
    }

    fn sequence(&self, arm: &Arm, order: &[usize], recorder: &mut Recorder<'_>) -> Result<Matrix, LaunchError> {
        let mut trainer = self.begin(arm)?;
        let (before, n) = trainer.score(&self.general)?;
        let mut matrix = Matrix { loss: vec![self.row(&trainer, order, 0, recorder)?] };
        for (at, task) in order.iter().enumerate() {
            let lesson = &self.lessons[*task];
            let seed = self.cell.seed.wrapping_mul(1000).wrapping_add(*task as u64);
            trainer.learn(&lesson.train, self.steps, seed)?;
            if let Some(statistics) = trainer.finish(&lesson.train, seed)? {
                for (metric, value) in [("fisher_mean", statistics.mean), ("fisher_max", statistics.most)] {
                    recorder.of_task(metric, value, 1, (lesson.name.as_str(), at as u32 + 1), at as u64);
                }
            }
            matrix.loss.push(self.row(&trainer, order, at + 1, recorder)?);
        }
        recorder.once("general_drift", Phase::Eval, trainer.score(&self.general)?.0 - before, n as u64);
        Ok(matrix)
    }

    fn together(&self, arm: &Arm, order: &[usize], recorder: &mut Recorder<'_>) -> Result<Vec<f64>, LaunchError> {
        let mut trainer = self.begin(arm)?;
        let (before, n) = trainer.score(&self.general)?;
        let all: Vec<Example> = self.lessons.iter().flat_map(|lesson| lesson.train.iter().cloned()).collect();
        trainer.learn(&all, self.steps * order.len() as u64, self.cell.seed)?;
        let row = self.row(&trainer, order, order.len(), recorder)?;
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        recorder.once("average_nll", Phase::Eval, mean, row.len() as u64);
        recorder.once("general_drift", Phase::Eval, trainer.score(&self.general)?.0 - before, n as u64);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_the_written_one_and_others() {
        let found = orders(4, 3, 9);
        assert_eq!(found[0], [0, 1, 2, 3]);
        for (at, order) in found.iter().enumerate() {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
            assert!(!found[..at].contains(order));
        }
        assert_eq!((orders(1, 1, 0).len(), orders(4, 3, 9)), (2, found));
    }
}
