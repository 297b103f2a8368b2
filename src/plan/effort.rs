//! How long a cell will take, roughly, before anything of it is measured: minutes or hours.
use std::{ops::RangeInclusive, time::Duration};

use crate::{
    recipe::schema::{KernelSet, Workload},
    text,
};

use super::{Cell, LaunchTask, identity::is_native};

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

/// Bytes of a text that make a token, about.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that go through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tokens {
    /// Many at once.
    together: u64,
    /// Steps that give every sequence one.
    steps: u64,
    /// Sequences in those steps.
    batch: u64,
}

impl Tokens {
    fn of(workload: &Workload, warmup: u64) -> Self {
        match workload {
            Workload::Prefill(prefill) => {
                let repetitions = u64::from(prefill.repetitions) + warmup;
                let tokens = u64::from(prefill.prompt_tokens) + u64::from(prefill.context_depth);
                Self { together: tokens * u64::from(prefill.batch_size) * repetitions, ..Self::default() }
            }
            Workload::Decode(decode) => {
                let (repetitions, batch) = (u64::from(decode.repetitions) + warmup, u64::from(decode.batch_size));
                let together = u64::from(decode.prompt_tokens) * batch * repetitions;
                Self { together, steps: u64::from(decode.output_tokens) * repetitions, batch }
            }
            Workload::Perplexity(scored) => Self::scored(&scored.text, scored.n_ctx, scored.chunks),
            Workload::KlDivergence(scored) => Self::scored(&scored.text, scored.n_ctx, scored.chunks),
            // By the recipe's `training`, which is not the workload's: see `trained`.
            Workload::Train(_) | Workload::Continual(_) => Self::default(),
            Workload::KvPressure(trace) => {
                let (requests, batch) = (u64::from(trace.requests), u64::from(trace.concurrency));
                let steps = (requests * u64::from(trace.output_tokens)).div_ceil(batch.max(1));
                Self { together: requests * u64::from(trace.prompt_tokens), steps, batch }
            }
            // Its timed pairs; what they decode is little beside the stream.
            Workload::Adapt(adapt) => Self { together: 0, steps: 30 * u64::from(adapt.output_tokens), batch: 1 },
        }
    }

    /// Returns the tokens of a launch for quality, where a workload has one beside its timed ones.
    fn of_quality(workload: &Workload, warmup: u64) -> Self {
        match workload {
            // With its cache and with an unlimited one.
            Workload::KvPressure(trace) => {
                Self::scored(&trace.text, trace.n_ctx, Some(2 * (trace.concurrency + trace.needles)))
            }
            Workload::Adapt(adapt) => {
                let requests = u64::from(adapt.requests) * adapt.domains.len() as u64;
                Self { together: requests * adapt.tokens() as u64, ..Self::default() }
            }
            workload => Self::of(workload, warmup),
        }
    }

    fn scored(text: &str, n_ctx: u32, chunks: Option<u32>) -> Self {
        let whole = || text::load(text).map_or(0, |text| text.content.len() as u64 / BYTES_PER_TOKEN);
        let together = chunks.map_or_else(whole, |chunks| u64::from(chunks) * u64::from(n_ctx));
        Self { together, ..Self::default() }
    }

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
            continual.tasks.len() * arms * (1 + continual.task_orders as usize)
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
            let of = if wanted == LaunchTask::Quality { Tokens::of_quality } else { Tokens::of };
            let tokens = of(workload, u64::from(cell.recipe.measure.warmup));
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
    use crate::recipe::schema::{Decode, Perplexity, Prefill};

    #[test]
    fn tokens_are_counted_as_the_workloads_run_them() {
        let prefill = Prefill { prompt_tokens: 500, context_depth: 100, batch_size: 2, repetitions: 3 };
        assert_eq!(Tokens::of(&Workload::Prefill(prefill), 1), Tokens { together: 4800, ..Tokens::default() });
        let decode = Decode { prompt_tokens: 100, output_tokens: 50, batch_size: 4, repetitions: 2 };
        let expected = Tokens { together: 1200, steps: 150, batch: 4 };
        assert_eq!(Tokens::of(&Workload::Decode(decode), 1), expected);
        let mut scored = Perplexity { chunks: Some(3), ..Perplexity::default() };
        assert_eq!(Tokens::of(&Workload::Perplexity(scored.clone()), 1).together, 3 * 512);
        scored.chunks = None;
        let whole = Tokens::of(&Workload::Perplexity(scored), 1).together;
        assert!((30_000..60_000).contains(&whole), "{whole}");
    }

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
