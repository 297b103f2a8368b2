//! What learning costs a model that answers: prompts answered with the loops and without, in turn.
use super::{Course, texts::pair};
use crate::{
    clock::Stopwatch,
    engine::{GenerationError, LanguageModel, SequenceId, next_tokens},
    event::Phase,
    model::sampler::Sampler,
    plan::Cell,
    recipe::schema::SonaStream,
    sona::{Answering, Feedback, Sona, SonaError},
    workload::{
        decode::{quantile, sampling},
        error::LaunchError,
        opened::Loaded,
        prompt::derive_seed,
        recorder::Recorder,
    },
};

const MS: f64 = 1e-6;

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
    let mut answer = course.sona.answering(stream.output_tokens as usize);
    let mut idle: Option<Stopwatch> = None;
    let order = course.texts.domains.order.clone();
    for rep in 0..total {
        recorder.progress(rep.into(), total.into());
        let prompt = pair(&course.texts.domains, stream, order[rep as usize % order.len()]).0;
        let seed = derive_seed("sampler", cell.seed, rep, 0);
        // Whichever comes first may be the slower one.
        for with in [rep % 2 == 0, rep % 2 != 0] {
            let mut sampler = Sampler::new(sampling(cell), seed);
            let own = course.answer(&label, &prompt, &mut sampler, with.then_some(&mut answer))?;
            let mut time = None;
            if with {
                time = course.sona.finish(answer.evidence(), Feedback::Accepted)?.1.map(|account| account.time);
                course.sona.keep(rep.into(), (&prompt, answer.tokens()), answer.prompt())?;
            }
            if rep >= warmup {
                gaps[usize::from(with)].extend(own);
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
    /// Answers a prompt, with what the loops learned and taking note of every token where there is room for that, or as
    /// it is answered where nothing learns; returns the times from each token to the next, in milliseconds.
    fn answer(
        &mut self,
        label: &str,
        prompt: &[u32],
        sampler: &mut Sampler,
        learned: Option<&mut Answering>,
    ) -> Result<Vec<f64>, LaunchError> {
        let Self { stream, loaded, sona, .. } = self;
        let engine = loaded.engine.as_mut();
        engine.keep_hidden(learned.is_some())?;
        let sequence = engine.open()?;
        let count = stream.output_tokens as usize;
        let gaps = match learned {
            Some(answer) => {
                learning(engine, (sequence, prompt), (sona, answer), sampler, count).map_err(|error| match error {
                    SonaError::Sampler(error) => LaunchError::sampler(label, error),
                    error => error.into(),
                })
            }
            None => plainly(label, engine, (sequence, prompt), sampler, count),
        };
        engine.close(sequence);
        gaps
    }
}

fn learning(
    engine: &mut dyn LanguageModel,
    (sequence, prompt): (SequenceId, &[u32]),
    (sona, answer): (&Sona, &mut Answering),
    sampler: &mut Sampler,
    count: usize,
) -> Result<Vec<f64>, SonaError> {
    let mut gaps = Vec::with_capacity(count);
    // To its end the request keeps what it is served with.
    let _served = sona.begin_answer(engine, sequence, prompt, sampler, answer)?;
    for _ in 1..count {
        let stopwatch = Stopwatch::start();
        sona.go_on_answering(engine, sequence, sampler, answer)?;
        gaps.push(stopwatch.elapsed_ns() as f64 * MS);
    }
    Ok(gaps)
}

fn plainly(
    label: &str,
    engine: &mut dyn LanguageModel,
    (sequence, prompt): (SequenceId, &[u32]),
    sampler: &mut Sampler,
    count: usize,
) -> Result<Vec<f64>, LaunchError> {
    let mut next = |tokens: &[u32]| {
        let tokens = next_tokens(engine, &[(sequence, tokens)], std::slice::from_mut(sampler));
        tokens.map(|tokens| tokens[0]).map_err(|error| match error {
            GenerationError::Engine(error) => error.into(),
            GenerationError::Sampler(error) => LaunchError::sampler(label, error),
        })
    };
    let mut gaps = Vec::with_capacity(count);
    let mut token = next(prompt)?;
    for _ in 1..count {
        let stopwatch = Stopwatch::start();
        token = next(&[token])?;
        gaps.push(stopwatch.elapsed_ns() as f64 * MS);
    }
    Ok(gaps)
}
