//! What learning costs a model that answers: prompts answered with the loops and without, in turn.
use super::{Course, texts::pair};
use crate::{
    clock::Stopwatch,
    engine::{Chunk, GenerationError, LanguageModel, LogitRows, SequenceId, next_tokens},
    event::Phase,
    model::sampler::Sampler,
    plan::Cell,
    recipe::schema::SonaStream,
    sona::{Evidence, Feedback, Recollection, read_prompt},
    workload::{
        decode::{quantile, sampling},
        launch::{LaunchError, Loaded},
        prompt::derive_seed,
        recorder::Recorder,
    },
};

const MS: f64 = 1e-6;

/// An answer, with the times between its tokens in milliseconds.
struct Answered {
    tokens: Vec<u32>,
    /// The inputs of the head at the end of the prompt, and at each token.
    inputs: Vec<f32>,
    hidden: Vec<f32>,
    gaps: Vec<f64>,
}

pub(in crate::workload) fn run(
    stream: &SonaStream,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let pairs = stream.timed_answers;
    if pairs == 0 {
        return Ok(());
    }
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, stream.tokens())?;
    let mut course = Course::new(stream, cell, loaded, true)?;
    let warmup = cell.recipe.measure.warmup.max(1);
    let total = warmup + pairs;
    let (mut gaps, mut updates, mut slices): ([Vec<f64>; 2], Vec<f64>, Vec<f64>) = Default::default();
    let mut idle: Option<Stopwatch> = None;
    let order = course.texts.domains.order.clone();
    for rep in 0..total {
        recorder.progress(rep.into(), total.into());
        let prompt = pair(&course.texts.domains, stream, order[rep as usize % order.len()]).0;
        let seed = derive_seed("sampler", cell.seed, rep, 0);
        // Whichever comes first may be the slower one.
        for with in [rep % 2 == 0, rep % 2 != 0] {
            let mut sampler = Sampler::new(sampling(cell), seed);
            let answered = course.answer(&label, &prompt, &mut sampler, with)?;
            let mut time = None;
            if with {
                let evidence = Evidence {
                    request: &course.request,
                    hidden: &answered.hidden,
                    tokens: &answered.tokens,
                    recalled: &course.recalled,
                };
                time = course.sona.finish(evidence, Feedback::Accepted)?.1.map(|account| account.time);
                course.sona.keep(rep.into(), (&prompt, &answered.tokens), &answered.inputs)?;
            }
            if rep >= warmup {
                gaps[usize::from(with)].extend(answered.gaps);
                updates.extend(time.map(|time| time.as_secs_f64() * 1e3));
            }
            if course.sona.background().is_some() && idle.is_none_or(|idle| idle.elapsed() >= course.interval) {
                idle = Some(Stopwatch::start());
                let slice = course.sona.slice(course.loaded.engine.as_mut())?;
                slices.extend(slice.map(|(time, _)| time.as_secs_f64() * 1e3));
            }
        }
    }
    recorder.progress(total.into(), total.into());
    course.loaded.engine.keep_hidden(false)?;
    let [off, on] = gaps.each_mut().map(|gaps| {
        gaps.sort_unstable_by(f64::total_cmp);
        [0.5, 0.99].map(|q| quantile(gaps, q))
    });
    let n = u64::from(pairs) * u64::from(stream.output_tokens - 1);
    for (metric, at) in [("sona_itl_p50_overhead", 0), ("sona_itl_p99_overhead", 1)] {
        recorder.once(metric, Phase::Decode, on[at] / off[at] - 1.0, n);
    }
    for (metrics, mut times) in [
        (["sona_instant_p50_ms", "sona_instant_p99_ms"], updates),
        (["sona_slice_p50_ms", "sona_slice_p99_ms"], slices),
    ] {
        times.sort_unstable_by(f64::total_cmp);
        for (metric, q) in metrics.into_iter().zip([0.5, 0.99]).filter(|_| !times.is_empty()) {
            recorder.once(metric, Phase::Decode, quantile(&times, q), times.len() as u64);
        }
    }
    Ok(())
}

impl Course<'_> {
    /// Answers a prompt, with what the loops learned and taking note of every token, or as it is answered where nothing
    /// learns.
    fn answer(
        &mut self,
        label: &str,
        prompt: &[u32],
        sampler: &mut Sampler,
        with: bool,
    ) -> Result<Answered, LaunchError> {
        let engine = self.loaded.engine.as_mut();
        engine.keep_hidden(with)?;
        let sequence = engine.open()?;
        let count = self.stream.output_tokens as usize;
        let answered = if with {
            self.answer_learning(label, sequence, prompt, sampler)
        } else {
            plainly(label, engine, sequence, prompt, sampler, count)
        };
        self.loaded.engine.close(sequence);
        answered
    }

    fn answer_learning(
        &mut self,
        label: &str,
        sequence: SequenceId,
        prompt: &[u32],
        sampler: &mut Sampler,
    ) -> Result<Answered, LaunchError> {
        let Self { stream, loaded, sona, request, recalled, .. } = self;
        let engine = loaded.engine.as_mut();
        let (count, width) = (stream.output_tokens as usize, engine.spec().hidden_size);
        request.clear();
        recalled.clear();
        let mut served = sona.serve()?;
        engine.attach(sequence, served.adapter().cloned())?;
        let (inputs, mut logits) = read_prompt(engine, sequence, prompt)?;
        sona.recognise(&mut served, &inputs)?;
        let addition = served.addition(engine.spec())?;
        let mut found = Recollection::default();
        let mut answered = Answered {
            tokens: Vec::with_capacity(count),
            inputs,
            hidden: Vec::with_capacity(count * width),
            gaps: Vec::with_capacity(count),
        };
        let mut stopwatch = Stopwatch::start();
        for at in 0..count {
            let hidden = engine.hidden();
            // Of the prompt there are more rows, of a token one.
            let hidden = &hidden[hidden.len() - width..];
            let projected = sona.blank().project(hidden);
            addition.apply(projected, &mut logits);
            let normaliser = ruvlab_kernels::log_sum_exp_f32(&logits);
            let sampled = match sona.instant() {
                Some(instant) => {
                    instant.recall().mix(hidden, normaliser, &mut logits, &mut found);
                    let sampled = sampler.sample(&logits);
                    // What is learned from are the probabilities without the cache, which has no gradient.
                    found.unmix(&mut logits);
                    sampled
                }
                None => sampler.sample(&logits),
            };
            let token = sampled.map_err(|error| LaunchError::sampler(label, error))?;
            request.record_normalised(projected, &logits, normaliser, token)?;
            if sona.instant().is_some() {
                recalled.push(found.of(token));
            }
            answered.hidden.extend(hidden);
            answered.tokens.push(token);
            if at + 1 < count {
                logits =
                    engine.step(&[Chunk { sequence, tokens: &[token], logits: LogitRows::Last }])?.remove(0).values;
                answered.gaps.push(stopwatch.elapsed_ns() as f64 * MS);
                stopwatch = Stopwatch::start();
            }
        }
        Ok(answered)
    }
}

fn plainly(
    label: &str,
    engine: &mut dyn LanguageModel,
    sequence: SequenceId,
    prompt: &[u32],
    sampler: &mut Sampler,
    count: usize,
) -> Result<Answered, LaunchError> {
    let mut next = |tokens: &[u32]| {
        let tokens = next_tokens(engine, &[(sequence, tokens)], std::slice::from_mut(sampler));
        tokens.map(|tokens| tokens[0]).map_err(|error| match error {
            GenerationError::Engine(error) => error.into(),
            GenerationError::Sampler(error) => LaunchError::sampler(label, error),
        })
    };
    let mut answered =
        Answered { tokens: Vec::with_capacity(count), inputs: Vec::new(), hidden: Vec::new(), gaps: Vec::new() };
    let mut token = next(prompt)?;
    for _ in 1..count {
        let stopwatch = Stopwatch::start();
        answered.tokens.push(token);
        token = next(&[token])?;
        answered.gaps.push(stopwatch.elapsed_ns() as f64 * MS);
    }
    answered.tokens.push(token);
    Ok(answered)
}
