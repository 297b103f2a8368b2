//! Prefill: how fast prompts are processed.
use super::{error::LaunchError, opened::Loaded, prompt::Prompts, recorder::Recorder};
use crate::{
    clock::Stopwatch,
    engine::{Chunk, LogitRows},
    event::Phase,
    plan::Cell,
    recipe::schema::Prefill,
};

pub(super) fn run(
    prefill: &Prefill,
    cell: &Cell,
    prompts: &Prompts,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let Prefill { prompt_tokens, context_depth, batch_size, repetitions } = *prefill;
    let length = prompt_tokens as usize + context_depth as usize;
    let warmup = cell.recipe.measure.warmup;
    let total = warmup + repetitions;
    loaded.check_context(recorder.workload(), length)?;
    for rep in 0..total {
        recorder.progress(rep.into(), total.into());
        recorder.repetition(rep, rep < warmup);
        let tokens = (0..batch_size)
            .map(|sequence| {
                let text = prompts.text(&loaded.tokenizer, length, rep, sequence)?;
                prompts.encode(&loaded.tokenizer, &text, length)
            })
            .collect::<Result<Vec<_>, LaunchError>>()?;
        let seconds = recorder.metered(|_| time(loaded, &tokens, context_depth as usize))?;
        let count = u64::from(prompt_tokens) * u64::from(batch_size);
        recorder.once("prefill_tok_s", Phase::Prefill, count as f64 / seconds, count);
    }
    recorder.progress(total.into(), total.into());
    Ok(())
}

/// Returns the seconds a fresh batch of these prompts takes after its first `depth` tokens, which are
/// context and not timed.
fn time(loaded: &mut Loaded, prompts: &[Vec<u32>], depth: usize) -> Result<f64, LaunchError> {
    let engine = &mut loaded.engine;
    let sequences = prompts.iter().map(|_| engine.open()).collect::<Result<Vec<_>, _>>()?;
    let chunks = |part: fn(&[u32], usize) -> &[u32]| -> Vec<Chunk<'_>> {
        let pairs = sequences.iter().zip(prompts);
        pairs
            .map(|(sequence, tokens)| Chunk {
                sequence: *sequence,
                tokens: part(tokens, depth),
                logits: LogitRows::Last,
            })
            .collect()
    };
    if depth > 0 {
        engine.step(&chunks(|tokens, depth| &tokens[..depth]))?;
    }
    let timed = chunks(|tokens, depth| &tokens[depth..]);
    let stopwatch = Stopwatch::start();
    let logits = engine.step(&timed)?;
    let seconds = stopwatch.elapsed().as_secs_f64();
    for sequence in sequences {
        engine.close(sequence);
    }
    // The optimiser must not drop what was timed.
    std::hint::black_box(&logits);
    Ok(seconds)
}
