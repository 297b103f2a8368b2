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
    nothing_fits,
};
use crate::{
    clock::Stopwatch, engine::LogitRows, event::Phase, kv::TransitionKind, plan::Cell, recipe::schema::KvPressure,
};

const MS: f64 = 1e-6;

/// The tokens of an answer that came so far.
#[derive(Clone, Copy, Default)]
struct Answer {
    tokens: usize,
    /// When the last came, and in which step.
    last_ns: u64,
    last_step: u64,
}

/// What was seen of the answers of a trace.
struct Answers {
    all: Vec<Answer>,
    /// Tokens of those that came to their end.
    finished: usize,
    /// Gaps between neighbouring tokens, in ms.
    gaps: Vec<f64>,
    /// Those in which the cache did something under pressure.
    near: Vec<f64>,
    /// The last step before which it did.
    last_act: Option<u64>,
}

impl Answers {
    fn new(requests: usize) -> Self {
        let all = vec![Answer::default(); requests];
        Self { all, finished: 0, gaps: Vec::new(), near: Vec::new(), last_act: None }
    }

    /// Takes note of a step's tokens. What is computed once more after a request began again is no new token.
    fn step(&mut self, requests: &[Request], step: &Stepped<'_>, now_ns: u64) {
        for part in step.parts {
            let (request, answer) = (&requests[part.request], &mut self.all[part.request]);
            let end = part.start + part.length;
            let tokens = (end + 1).saturating_sub(request.prompt);
            if tokens <= answer.tokens {
                continue;
            }
            if answer.tokens > 0 {
                let gap = (now_ns - answer.last_ns) as f64 * MS;
                self.gaps.push(gap);
                if self.last_act.is_some_and(|act| act > answer.last_step) {
                    self.near.push(gap);
                }
            }
            *answer = Answer { tokens, last_ns: now_ns, last_step: step.number };
            if end == request.tokens.len() {
                self.finished += tokens;
            }
        }
    }
}

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
    let total: usize = requests.iter().map(|request| request.tokens.len()).sum();
    let mut answers = Answers::new(requests.len());
    let (mut stalled, mut acts, mut peak, mut done) = (0, 0, 0, 0);
    let (fate, seconds) = recorder.metered(|recorder| {
        let stopwatch = Stopwatch::start();
        // What it takes to record is nobody's time.
        let mut recording_ns = 0;
        let watch = |step: Stepped<'_>| -> Result<(), LaunchError> {
            let now_ns = stopwatch.elapsed_ns() - recording_ns;
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
            let (mut stall, mut count) = (0, 0);
            for transition in step.transitions {
                recorder.transition(step.number, *transition);
                // Who is refused waits for others to end, and nobody waits for that.
                if transition.kind != TransitionKind::Refused {
                    (stall, count) = (stall + transition.duration_ns, count + 1);
                }
            }
            if count > 0 {
                recorder.at_step("kv_stall_ms", Phase::Decode, stall as f64 * MS, count, step.number);
                answers.last_act = Some(step.number);
            }
            (stalled, acts) = (stalled + stall, acts + count);
            answers.step(&requests, &step, now_ns);
            recording_ns = stopwatch.elapsed_ns() - now_ns;
            Ok(())
        };
        let fate = drive(loaded.engine.as_mut(), &requests, pressure.concurrency as usize, LogitRows::Last, watch);
        fate.map(|fate| (fate, (stopwatch.elapsed_ns() - recording_ns) as f64 * 1e-9))
    })?;
    recorder.progress(total as u64, total as u64);
    if fate.finished == 0 {
        let shortest = requests.iter().map(|request| request.tokens.len()).min().unwrap_or(0);
        let what = format!("any of its requests, of {shortest} tokens and more");
        return Err(nothing_fits(recorder.workload(), what, loaded));
    }
    let Answers { finished, mut gaps, mut near, .. } = answers;
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
    if fate.dropped == 0 {
        recorder.once("trace_tok_s", Phase::Decode, finished as f64 / seconds, finished as u64);
    } else {
        let reason = format!(
            "{} of {} requests were given up, because the cache could not hold them even alone: a trace without them is another",
            fate.dropped, pressure.requests
        );
        recorder.unavailable("trace_tok_s", reason);
    }
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

#[cfg(test)]
mod tests {
    use super::{super::drive::Part, *};

    #[test]
    fn a_gap_is_from_one_new_token_to_the_next_whatever_came_between() {
        let requests = [Request { tokens: vec![0; 5], prompt: 2, piece: 1 }];
        let mut answers = Answers::new(1);
        // Two tokens of the answer; then it begins again, and after three steps there is a third.
        let steps = [(0, 2, 10), (2, 1, 12), (0, 2, 20), (2, 1, 21), (3, 1, 22), (4, 1, 23)];
        for (number, (start, length, ms)) in (0..).zip(steps) {
            if number == 2 {
                answers.last_act = Some(number);
            }
            let parts = [Part { request: 0, start, length }];
            let (logits, transitions, report) = (&[], &[], Default::default());
            let step = Stepped { number, parts: &parts, logits, duration_ns: 1, report, transitions };
            answers.step(&requests, &step, ms * 1_000_000);
        }
        assert_eq!((answers.gaps, answers.near, answers.finished), (vec![2.0, 10.0, 1.0], vec![10.0], 4));
    }
}
