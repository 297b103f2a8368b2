//! Tasks learned one after the other, by every method, in every order.
mod arm;
mod course;
mod lesson;
mod order;

use super::{
    error::LaunchError,
    opened::{open_tokenizer, open_weights},
    recorder::Recorder,
};
use crate::{
    adapt::{continual::Updates, optim::AdamW, train::Rule},
    engine::TraineeSettings,
    host::Load,
    plan::{self, Cell},
    recipe::schema::{ContinualLearning, MethodName, Optimizer, Training},
};
use arm::Arm;
use course::{Course, Ideal};
use lesson::Reader;
use order::orders;

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
    let reader = Reader {
        cell,
        tokenizer: &tokenizer,
        length: training.sequence_length as usize,
        train: learning.train_sequences.map_or(usize::MAX, |most| most as usize),
        test: learning.eval_sequences as usize,
    };
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    let course = Course {
        cell,
        adapter: plan::beginning(adapter, weights.spec(), cell.seed)?.0,
        // Half of what is free: activations need room, too.
        held: TraineeSettings {
            widen: weights.parameters() * 8 <= free / 2,
            recompute: training.gradient_checkpointing,
        },
        lessons: continual.tasks.iter().map(|task| reader.lesson(task)).collect::<Result<_, _>>()?,
        general: reader.tested(&learning.general)?,
        updates: updates(training),
        steps,
        weights,
    };
    let (arms, orders) = (Arm::all(continual), orders(continual, cell.seed));
    let total = (orders.len() * arms.len()) as u64;
    for (at, order) in orders.iter().enumerate() {
        let mut ideal = Ideal::default();
        for (done, arm) in arms.iter().enumerate() {
            recorder.begin(arm.label(at));
            recorder.progress((at * arms.len() + done) as u64, total);
            if arm.method.method == MethodName::Joint {
                ideal.joint = Some(course.together(arm, order, recorder)?);
            } else {
                let record = course.sequence(arm, order, recorder)?;
                record.report(&mut ideal, recorder);
            }
        }
    }
    recorder.progress(total, total);
    Ok(())
}
