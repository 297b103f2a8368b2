//! What instant adaptation costs a model that answers: decoding with it and without, in turn.
use std::{slice, sync::Arc};

use super::{directions, settings};
use crate::{
    adapt::micro_lora::{AnswerError, MicroLora, Request, next_token},
    clock::Stopwatch,
    engine::{Chunk, LogitRows, next_tokens},
    event::Phase,
    model::sampler::Sampler,
    plan::Cell,
    recipe::schema::Adapt,
    workload::{
        decode::{quantile, sampling},
        error::LaunchError,
        opened::Loaded,
        prompt::{Prompts, derive_seed},
        recorder::Recorder,
    },
};

/// Answers with the adapter and without it, beside those that warm up.
const PAIRS: u32 = 24;

pub(in crate::workload) fn run(
    adapt: &Adapt,
    cell: &Cell,
    prompts: &Prompts,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, adapt.tokens())?;
    let directions = directions(adapt, cell, loaded)?;
    let mut micro = MicroLora::new(settings(cell), &directions, loaded.engine.spec().vocab_size)?;
    let mut request = micro.request(adapt.output_tokens as usize);
    let warmup = cell.recipe.measure.warmup.max(1);
    let total = warmup + PAIRS;
    let (mut ratios, mut updates) = (Vec::new(), Vec::new());
    for rep in 0..total {
        recorder.progress(rep.into(), total.into());
        let length = (adapt.prompt_tokens as usize).max(1);
        let text = prompts.text(&loaded.tokenizer, length, rep, 0)?;
        let tokens = prompts.encode(&loaded.tokenizer, &text, length)?;
        let mut seconds = [0.0; 2];
        // Whichever comes first may be the slower one.
        for with in [rep % 2 == 0, rep % 2 != 0] {
            let mut sampler = Sampler::new(sampling(cell), derive_seed("sampler", cell.seed, rep, 0));
            let micro = with.then_some((&micro, &mut request));
            seconds[usize::from(with)] = answer(loaded, &label, &tokens, adapt, &mut sampler, micro)?;
        }
        let step = micro.step(&request, 1.0);
        if rep >= warmup {
            let overhead = seconds[1] / seconds[0] - 1.0;
            let tokens = adapt.output_tokens.into();
            recorder.at_step("micro_decode_overhead", Phase::Decode, overhead, tokens, (rep - warmup).into());
            ratios.push(overhead);
            updates.push(step.time.as_secs_f64() * 1e3);
        }
    }
    recorder.progress(total.into(), total.into());
    loaded.engine.keep_hidden(false)?;
    let n = u64::from(PAIRS);
    ratios.sort_unstable_by(f64::total_cmp);
    updates.sort_unstable_by(f64::total_cmp);
    recorder.once("micro_decode_overhead", Phase::Decode, quantile(&ratios, 0.5), n * u64::from(adapt.output_tokens));
    recorder.once("micro_update_ms", Phase::Decode, quantile(&updates, 0.5), n);
    Ok(())
}

/// Returns the seconds it takes to answer a prompt, once that is read; with an adapter, which takes note of
/// the answer.
fn answer(
    loaded: &mut Loaded,
    label: &str,
    prompt: &[u32],
    adapt: &Adapt,
    sampler: &mut Sampler,
    mut micro: Option<(&MicroLora, &mut Request)>,
) -> Result<f64, LaunchError> {
    let engine = loaded.engine.as_mut();
    engine.keep_hidden(micro.is_some())?;
    if let Some((_, request)) = &mut micro {
        request.clear();
    }
    let sequence = engine.open()?;
    let (last, read) = prompt.split_last().unwrap_or((&0, &[]));
    if !read.is_empty() {
        engine.step(&[Chunk { sequence, tokens: read, logits: LogitRows::Last }])?;
    }
    let mut token = *last;
    let stopwatch = Stopwatch::start();
    if let Some((micro, _)) = &micro {
        engine.attach_head(sequence, micro.head_rows().map(Arc::new))?;
    }
    for _ in 0..adapt.output_tokens {
        token = match &mut micro {
            None => {
                let next = next_tokens(engine, &[(sequence, &[token])], slice::from_mut(sampler));
                next.map_err(|error| LaunchError::generation(label, error))?[0]
            }
            Some((micro, request)) => {
                let next = next_token(engine, sequence, &[token], sampler, micro, request);
                next.map_err(|error| match error {
                    AnswerError::Generation(error) => LaunchError::generation(label, error),
                    AnswerError::Position(error) => error.into(),
                })?
            }
        };
    }
    let seconds = stopwatch.elapsed().as_secs_f64();
    engine.close(sequence);
    Ok(seconds)
}
