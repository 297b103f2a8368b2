//! The timed part: how fast requests are answered, and what the cache did meanwhile.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    super::{
        decode::quantile,
        error::LaunchError,
        opened::Loaded,
        prompt::{Prompts, derive_seed},
        recorder::Recorder,
    },
    drive::{Request, Stepped, drive},
};
use crate::{clock::Stopwatch, engine::LogitRows, event::Phase, plan::Cell, recipe::schema::KvPressure};

const MS: f64 = 1e-6;

/// Returns requests whose lengths and texts the seed draws.
fn requests(
    pressure: &KvPressure,
    cell: &Cell,
    prompts: &Prompts,
    loaded: &Loaded,
) -> Result<Vec<Request>, LaunchError> {
    let mut random = ChaCha8Rng::seed_from_u64(derive_seed("kv_pressure", cell.seed, 0, 0));
    let mut around = |mean: u32| random.random_range(mean - mean / 2..=mean.saturating_add(mean / 2)) as usize;
    let lengths: Vec<_> =
        (0..pressure.requests).map(|_| (around(pressure.prompt_tokens), around(pressure.output_tokens))).collect();
    let request = |(index, (prompt, output)): (u32, (usize, usize))| {
        // The last token of an answer is never fed back.
        let length = prompt + output - 1;
        let text = prompts.text(&loaded.tokenizer, length, 0, index)?;
        Ok(Request { tokens: prompts.encode(&loaded.tokenizer, &text, length)?, prompt, piece: 1 })
    };
    (0..).zip(lengths).map(request).collect()
}

pub(in crate::workload) fn run(
    pressure: &KvPressure,
    cell: &Cell,
    prompts: &Prompts,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let requests = requests(pressure, cell, prompts, loaded)?;
    let answers: usize = requests.iter().map(|request| request.tokens.len() + 1 - request.prompt).sum();
    let total: usize = requests.iter().map(|request| request.tokens.len()).sum();
    let (mut gaps, mut near) = (Vec::new(), Vec::new());
    let (mut stalled, mut acts, mut peak, mut done) = (0, 0, 0, 0);
    let stopwatch = Stopwatch::start();
    let fate = drive(
        loaded.engine.as_mut(),
        &requests,
        pressure.concurrency as usize,
        LogitRows::Last,
        |step: Stepped<'_>| -> Result<(), LaunchError> {
            done += step.parts.iter().map(|part| part.length).sum::<usize>();
            recorder.progress(done.min(total) as u64, total as u64);
            let ms = step.duration_ns as f64 * MS;
            let tokens = step.parts.iter().map(|part| part.length as u64).sum();
            recorder.at_step(
                "kv_used_bytes",
                Phase::Decode,
                step.report.used_bytes as f64,
                step.report.tokens,
                step.number,
            );
            recorder.at_step("step_ms", Phase::Decode, ms, tokens, step.number);
            peak = step.report.used_bytes.max(peak);
            let mut stall = 0;
            for transition in step.transitions {
                recorder.transition(step.number, *transition);
                stall += transition.duration_ns;
                acts += 1;
            }
            if !step.transitions.is_empty() {
                recorder.at_step(
                    "kv_stall_ms",
                    Phase::Decode,
                    stall as f64 * MS,
                    step.transitions.len() as u64,
                    step.number,
                );
            }
            stalled += stall;
            // Where a prompt is read too, answers wait for it and not for the cache.
            if step.parts.iter().all(|part| part.length == 1) {
                gaps.push(ms);
                if !step.transitions.is_empty() {
                    near.push(ms);
                }
            }
            Ok(())
        },
    )?;
    let seconds = stopwatch.elapsed().as_secs_f64();
    recorder.progress(total as u64, total as u64);
    gaps.sort_unstable_by(f64::total_cmp);
    near.sort_unstable_by(f64::total_cmp);
    let n = gaps.len() as u64;
    for (metric, q) in [("itl_p50_ms", 0.50), ("itl_p95_ms", 0.95), ("itl_p99_ms", 0.99)] {
        if n > 0 {
            recorder.once(metric, Phase::Decode, quantile(&gaps, q), n);
        }
    }
    if !near.is_empty() {
        recorder.once("transition_itl_p50_ms", Phase::Decode, quantile(&near, 0.5), near.len() as u64);
    }
    recorder.once("trace_tok_s", Phase::Decode, answers as f64 / seconds, answers as u64);
    recorder.once("kv_peak_bytes", Phase::Decode, peak as f64, 1);
    recorder.once("kv_stall_ms", Phase::Decode, stalled as f64 * MS, acts);
    recorder.once("kv_transitions", Phase::Decode, acts as f64, acts);
    for (metric, count) in
        [("kv_refused", fate.refused), ("kv_preempted", fate.preempted), ("kv_dropped", fate.dropped)]
    {
        recorder.once(metric, Phase::Decode, count as f64, u64::from(pressure.requests));
    }
    Ok(())
}
