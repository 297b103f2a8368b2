//! How long a cell will take, roughly, before anything of it is measured: minutes or hours.
use std::{ops::RangeInclusive, time::Duration};

use crate::recipe::schema::{KernelSet, Workload};

use super::{
    Cell, LaunchTask,
    demand::{Tokens, demand},
    identity::is_native,
};

/// What a machine is taken to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Multiplications and additions a second and thread, many tokens at once.
    pub operations: f64,
    /// Bytes of weights a second, read for one token.
    pub bytes: f64,
}

/// A desktop or server of these years: our kernels on 8-bit blocks, and candle's.
const NATIVE: Pace = Pace { operations: 2.0e11, bytes: 3.0e10 };
const CANDLE: Pace = Pace { operations: 3.0e10, bytes: 1.0e10 };

impl Tokens {
    fn seconds(self, parameters: u64, weights_bytes: u64, threads: u16, set: KernelSet) -> f64 {
        let Pace { operations, bytes } = if is_native(set) { NATIVE } else { CANDLE };
        let token = 2.0 * parameters as f64 / (operations * f64::from(threads));
        let step = (weights_bytes as f64 / bytes).max(token * self.batch as f64);
        self.together as f64 * token + self.steps as f64 * step
    }
}

/// Returns about how long a cell's trainings take: a token goes through the model forth and back, at half
/// the pace that codes have.
fn training_seconds(cell: &Cell) -> f64 {
    let of = |workload: &Workload| match workload {
        Workload::Train(_) => 1,
        Workload::Continual(_) => cell.recipe.continual.as_ref().map_or(0, |continual| {
            let arms: usize = continual.arms().iter().map(|arm| arm.lambda.len().max(1)).sum();
            continual.tasks.len() * arms * (continual.orders.len().max(1) + continual.task_orders as usize)
        }),
        _ => 0,
    };
    let trainings: usize = cell.recipe.workloads.iter().map(of).sum();
    let Some(training) = &cell.recipe.training else { return 0.0 };
    let sequences = u64::from(training.batch_size) * u64::from(training.gradient_accumulation_steps);
    let tokens = training.max_steps.unwrap_or(0) * sequences * u64::from(training.sequence_length);
    let operations = 4.0 * cell.model.parameters as f64 * tokens as f64;
    trainings as f64 * operations / (NATIVE.operations / 2.0 * f64::from(cell.threads))
}

/// Returns about how long all launches of a cell take, from the fewest to the most there may be: weights
/// multiplied for every token, or read once a generated token, at an assumed pace. What it is for is the
/// order of magnitude; loading, attention and verification are left out.
#[must_use]
pub fn estimate(cell: &Cell) -> RangeInclusive<Duration> {
    let seconds = |wanted: LaunchTask| -> f64 {
        let workloads = cell.recipe.workloads.iter().filter(|workload| wanted.runs(workload));
        let one = |workload: &Workload| {
            let demand = demand(workload);
            let repetitions = demand.repetitions.map_or(1, |count| count + cell.recipe.measure.warmup);
            let tokens =
                if wanted == LaunchTask::Quality { demand.quality } else { demand.timed.times(u64::from(repetitions)) };
            let own = tokens.seconds(cell.model.parameters, cell.model.weights_bytes, cell.threads, cell.kernel_set);
            let reference = cell.references.get(&workload.to_string()).map_or(0.0, |theirs| {
                let model = &theirs.model;
                tokens.seconds(model.parameters, model.weights_bytes, cell.threads, theirs.kernel_set)
            });
            own + reference
        };
        workloads.map(one).sum()
    };
    let once = seconds(LaunchTask::Quality) + training_seconds(cell);
    let launch = seconds(LaunchTask::Speed);
    let launches = &cell.recipe.measure.launches;
    let total = |count: u32| Duration::try_from_secs_f64(once + launch * f64::from(count)).unwrap_or(Duration::MAX);
    total(launches.min)..=total(launches.max.max(launches.min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_waits_for_memory_or_for_arithmetic() {
        let seconds = |batch| Tokens { together: 0, steps: 10, batch }.seconds(1 << 30, 1 << 30, 2, KernelSet::Candle);
        let memory = 10.0 * (1u64 << 30) as f64 / CANDLE.bytes;
        assert!((seconds(1) - memory).abs() <= 1e-9 * memory);
        assert!(seconds(100) > 10.0 * memory);
        let prompt = Tokens { together: 300, ..Tokens::default() }.seconds(1 << 30, 1 << 30, 2, KernelSet::Candle);
        assert!((prompt - 300.0 * f64::from(1u32 << 31) / (2.0 * CANDLE.operations)).abs() <= 1e-9 * prompt);
    }
}
