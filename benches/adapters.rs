//! What an adapter of all linear layers costs a model that decodes, and what learning from its own answers does
//! (MicroLoRA): tokens with it and without, in turn, as they are served.
//!
//! `cargo bench --bench adapters [-- MODEL…]` prints a table; without a name, of synthetic weights in the shapes of
//! SmolLM2 135M. The two sides take turns token by token, so that both meet the same machine, each token's turn
//! begins with the other one, and the times of an answer's tokens are added up; the interval is Student's t over
//! answers.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

use std::{env, process::ExitCode, slice, sync::Arc};

use ruvlab::{
    adapt::{
        micro_lora::{Directions, MicroLora, Request, Settings, next_token},
        train::fresh,
    },
    clock::Stopwatch,
    engine::{self, Adapter, Chunk, EngineKind, LanguageModel, LogitRows, SequenceId, Target, next_tokens},
    metrics::stats::mean_interval,
    model::{
        sampler::{Sampler, Sampling},
        source::locate::{Fetch, Locator},
        weights::Weights,
    },
};

const RANKS: [usize; 2] = [4, 16];
/// Answers that are timed, and those before them, from which a micro adapter has learned something then.
const ANSWERS: usize = 40;
const WARMUP: usize = 8;
const TOKENS: usize = 48;
const PROMPT: [u32; 12] = [9, 31, 112, 5, 77, 204, 66, 18, 90, 41, 150, 3];

type Failure = Box<dyn std::error::Error>;

/// What a token is decoded with.
enum With<'a> {
    Nothing,
    Adapter(&'a Arc<Adapter>),
    /// And what it notes of an answer.
    Micro(&'a mut MicroLora, &'a mut Request),
}

impl With<'_> {
    /// Begins an answer.
    fn open(&self, engine: &mut dyn LanguageModel, answer: usize) -> Result<SequenceId, Failure> {
        let sequence = engine.open()?;
        if let With::Adapter(adapter) = self {
            engine.attach(sequence, Some(Arc::clone(adapter)))?;
        }
        let prompt = PROMPT.map(|token| token + answer as u32);
        engine.step(&[Chunk { sequence, tokens: &prompt, logits: LogitRows::Last }])?;
        Ok(sequence)
    }

    /// Answers with one token more.
    fn next(
        &mut self,
        engine: &mut dyn LanguageModel,
        sequence: SequenceId,
        token: u32,
        sampler: &mut Sampler,
    ) -> Result<u32, Failure> {
        Ok(match self {
            With::Micro(micro, request) => next_token(engine, sequence, &[token], sampler, micro, request)?,
            _ => next_tokens(engine, &[(sequence, &[token])], slice::from_mut(sampler))?[0],
        })
    }
}

/// Decodes an answer on both sides, token by token in turn, and returns the seconds that each took.
fn decode(engine: &mut dyn LanguageModel, answer: usize, sides: &mut [With<'_>; 2]) -> Result<[f64; 2], Failure> {
    let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let mut sampler = Sampler::new(greedy, 0);
    let sequences = [sides[0].open(engine, answer)?, sides[1].open(engine, answer)?];
    let (mut seconds, mut last) = ([0.0; 2], [7; 2]);
    for token in 0..TOKENS {
        for side in [token % 2, 1 - token % 2] {
            engine.keep_hidden(matches!(sides[side], With::Micro(..)))?;
            let began = Stopwatch::start();
            if let (0, With::Micro(micro, request)) = (token, &mut sides[side]) {
                request.clear();
                engine.attach_head(sequences[side], micro.head_rows().map(Arc::new))?;
            }
            last[side] = sides[side].next(engine, sequences[side], last[side], &mut sampler)?;
            seconds[side] += began.elapsed().as_secs_f64();
        }
    }
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    Ok(seconds)
}

/// Decodes with and without in turn and prints how much longer it takes with.
fn compare(name: &str, engine: &mut dyn LanguageModel, with: With<'_>) -> Result<(), Failure> {
    let (mut ratios, mut plain) = (Vec::new(), Vec::new());
    let mut sides = [With::Nothing, with];
    for answer in 0..WARMUP + ANSWERS {
        let seconds = decode(engine, answer, &mut sides)?;
        if let With::Micro(micro, request) = &mut sides[1] {
            micro.step(request, 1.0);
        }
        if answer >= WARMUP {
            ratios.push(100.0 * (seconds[1] / seconds[0] - 1.0));
            plain.push(TOKENS as f64 / seconds[0]);
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let interval = mean_interval(&ratios, 0.95)?;
    let (low, high) = interval.map_or((f64::NAN, f64::NAN), |interval| (interval.low, interval.high));
    let (average, rate) = (mean(&ratios), mean(&plain));
    ratios.sort_unstable_by(f64::total_cmp);
    let median = ratios[ANSWERS / 2];
    println!("{name:<44} {average:>6.2} % [{low:.2}, {high:.2}], median {median:.2} %, {rate:.1} tok/s without");
    Ok(())
}

fn measure(source: &str) -> Result<(), Failure> {
    let weights = Weights::open(&Locator::new(Fetch::Allowed, |_| {}).locate(source, None)?.path)?;
    let kind = EngineKind::Native(engine::select(engine::setting().as_deref())?.tier());
    let mut engine = engine::load(kind, &weights, Some(256))?;
    let spec = weights.spec().clone();
    let short = source.rsplit('/').next().unwrap_or(source);
    for rank in RANKS {
        let mut adapter = fresh(&spec, &Target::ALL[..7], rank, 2.0, 1);
        for part in adapter.values_mut() {
            part.b.iter_mut().enumerate().for_each(|(at, b)| *b = 1e-3 * (at as f32 * 0.7).sin());
        }
        let adapter = Arc::new(adapter);
        compare(&format!("{short} r = {rank}, all linears"), engine.as_mut(), With::Adapter(&adapter))?;
    }
    let inputs: Vec<f32> = (0..64 * spec.hidden_size).map(|at| (at as f32 * 0.37).sin()).collect();
    let directions = Directions::even(&inputs, spec.hidden_size).ok_or("no directions")?;
    let mut micro = MicroLora::new(Settings::default(), &directions, spec.vocab_size)?;
    let mut request = micro.request(TOKENS);
    compare(&format!("{short} MicroLoRA"), engine.as_mut(), With::Micro(&mut micro, &mut request))
}

fn main() -> ExitCode {
    let given: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sources = if given.is_empty() { vec!["synthetic:smollm2-135m:q4_1".to_owned()] } else { given };
    for source in sources {
        if let Err(error) = measure(&source) {
            eprintln!("{source}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
