//! What an adapter of all linear layers costs a model that decodes, and what learning from its own answers does
//! (MicroLoRA): tokens with it and without, in turn, through the engine.
//!
//! `cargo bench --bench adapters [-- MODEL…]` prints a table; without a name, of synthetic weights in the shapes of
//! SmolLM2 135M. Every pair of times begins with the other one; the interval is Student's t over pairs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]

use std::{env, process::ExitCode, sync::Arc};

use ruvlab::{
    adapt::{
        micro_lora::{Directions, MicroLora, Settings},
        train::fresh,
    },
    clock::Stopwatch,
    engine::{self, Adapter, Chunk, EngineKind, LanguageModel, LogitRows, SequenceId, Target},
    metrics::stats::mean_interval,
    model::weights::Weights,
};

const RANKS: [usize; 2] = [4, 16];
const PAIRS: usize = 40;
const TOKENS: usize = 48;

type Failure = Box<dyn std::error::Error>;

/// Decodes some tokens and returns the seconds it took; with what MicroLoRA does to each of them.
fn decode(
    engine: &mut dyn LanguageModel,
    sequence: SequenceId,
    mut micro: Option<&mut MicroLora>,
) -> Result<f64, Failure> {
    engine.keep_hidden(micro.is_some())?;
    let mut request = micro.as_ref().map(|micro| micro.request(TOKENS));
    let began = Stopwatch::start();
    for token in 0..TOKENS as u32 {
        let tokens = [5 + token % 200];
        let mut logits = engine.step(&[Chunk { sequence, tokens: &tokens, logits: LogitRows::Last }])?.remove(0);
        if let (Some(micro), Some(request)) = (&mut micro, &mut request) {
            let projected = micro.project(engine.hidden());
            micro.apply(projected, &mut logits.values);
            request.record(projected, logits.row(0), 7)?;
        }
    }
    if let (Some(micro), Some(request)) = (micro, request) {
        micro.step(&request, 1.0);
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Decodes with and without in turn and prints how much longer it takes with.
fn compare(
    name: &str,
    engine: &mut dyn LanguageModel,
    adapter: Option<&Arc<Adapter>>,
    mut micro: Option<&mut MicroLora>,
) -> Result<(), Failure> {
    let (mut ratios, mut plain) = (Vec::new(), f64::INFINITY);
    for pair in 0..PAIRS + 2 {
        let mut seconds = [0.0; 2];
        for with in [pair % 2 == 0, pair % 2 != 0] {
            let sequence = engine.open()?;
            engine.attach(sequence, adapter.filter(|_| with).cloned())?;
            seconds[usize::from(with)] = decode(engine, sequence, micro.as_deref_mut().filter(|_| with))?;
            engine.close(sequence);
        }
        if pair >= 2 {
            ratios.push(100.0 * (seconds[1] / seconds[0] - 1.0));
            plain = plain.min(seconds[0]);
        }
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let interval = mean_interval(&ratios, 0.95)?;
    let (low, high) = interval.map_or((f64::NAN, f64::NAN), |interval| (interval.low, interval.high));
    let (median, rate) = (ratios[PAIRS / 2], TOKENS as f64 / plain);
    println!("{name:<40} {mean:>7.2} % [{low:.2}, {high:.2}], median {median:.2} %, {rate:.1} tok/s without");
    Ok(())
}

fn measure(source: &str) -> Result<(), Failure> {
    let weights = Weights::open(source)?;
    let kind = EngineKind::Native(engine::select(engine::setting().as_deref())?.tier());
    let mut engine = engine::load(kind, &weights, Some(256))?;
    let spec = weights.spec().clone();
    for rank in RANKS {
        let mut adapter = fresh(&spec, &Target::ALL[..7], rank, 2.0, 1);
        for part in adapter.values_mut() {
            part.b.iter_mut().enumerate().for_each(|(at, b)| *b = 1e-3 * (at as f32 * 0.7).sin());
        }
        compare(&format!("{source} r = {rank}, all linears"), engine.as_mut(), Some(&Arc::new(adapter)), None)?;
    }
    let inputs: Vec<f32> = (0..64 * spec.hidden_size).map(|at| (at as f32 * 0.37).sin()).collect();
    let directions = Directions::principal(&inputs, spec.hidden_size).ok_or("no directions")?;
    let mut micro = MicroLora::new(Settings::default(), &directions, spec.vocab_size)?;
    compare(&format!("{source} MicroLoRA"), engine.as_mut(), None, Some(&mut micro))
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
