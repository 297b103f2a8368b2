//! Adaptation to requests: streams them past a model and whatever learns from them, each scored before
//! anything learns from it (prequentially).
mod arms;
mod speed;
mod stream;

use arms::{ARMS, Arms, CHANGES, Scored};
pub(super) use speed::run as run_speed;
pub(super) use stream::Stream;

use super::{error::LaunchError, opened::Loaded, recorder::Recorder};
use crate::{
    adapt::micro_lora::{Directions, MicroLoraError, Rule, Settings},
    engine::{Chunk, LogitRows},
    event::Phase,
    plan::Cell,
    recipe::schema::{Adapt, AdaptState, MicroLora, MicroOptimizer},
};

/// Requests of the calibration text that the directions are taken from.
const CALIBRATION_REQUESTS: usize = 8;

pub(super) fn run(
    adapt: &Adapt,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, adapt.tokens())?;
    let stream = Stream::new(adapt, cell, &loaded.tokenizer)?;
    let directions = directions(adapt, cell, loaded)?;
    let domains = adapt.domains.len();
    let learners = if adapt.state == AdaptState::Shared { 1 } else { domains };
    let mut arms = Arms::new(&settings(cell), &directions, loaded.engine.spec(), learners, domains)?;
    let mut results: Vec<(usize, [f64; ARMS.len()])> = Vec::with_capacity(stream.order.len());
    let total = stream.order.len() as u64;
    for (done, &(domain, index)) in (0..).zip(&stream.order) {
        recorder.progress(done, total);
        let scored = score(loaded, stream.request(domain, index), adapt)?;
        let other = stream.targets((domain + 1) % domains, index);
        let losses = arms.next(domain, &scored, stream.targets(domain, index), other)?;
        if !losses.iter().all(|loss| loss.is_finite()) {
            let problem = format!("the losses of request {done} are {losses:?}");
            return Err(LaunchError::Numerics { workload: label, problem });
        }
        results.push((domain, losses));
    }
    recorder.progress(total, total);
    loaded.engine.keep_hidden(false)?;
    record(adapt, &label, &results, recorder);
    let (applied, resets, steps) = arms.outcomes();
    recorder.begin(label);
    recorder.once("micro_applied", Phase::Eval, applied as f64 / steps.max(1) as f64, steps);
    recorder.once("micro_resets", Phase::Eval, resets as f64, steps);
    Ok(())
}

/// Returns how the recipe's micro adapter learns.
pub(super) fn settings(cell: &Cell) -> Settings {
    let usual = Settings::default();
    let Some(MicroLora { r, lora_alpha, target_modules: _, optimizer, learning_rate, decay, top_k }) =
        &cell.recipe.micro_lora
    else {
        return usual;
    };
    Settings {
        rank: *r as usize,
        scale: (lora_alpha / f64::from(*r)) as f32,
        rule: match optimizer {
            MicroOptimizer::Newton => Rule::Newton,
            MicroOptimizer::Adagrad => Rule::AdaGrad,
            MicroOptimizer::Sgd => Rule::Sgd,
        },
        learning_rate: *learning_rate as f32,
        decay: *decay as f32,
        top_k: *top_k as usize,
        ..usual
    }
}

/// Returns the logits of a request's answer, and what went into the head for them.
fn score(loaded: &mut Loaded, tokens: &[u32], adapt: &Adapt) -> Result<Scored, LaunchError> {
    let engine = &mut loaded.engine;
    engine.keep_hidden(true)?;
    let sequence = engine.open()?;
    // The last token of the prompt predicts the first of the answer.
    let (prompt, rest) = tokens.split_at(tokens.len() - adapt.output_tokens as usize);
    if !prompt.is_empty() {
        engine.step(&[Chunk { sequence, tokens: prompt, logits: LogitRows::Last }])?;
    }
    let logits = engine.step(&[Chunk { sequence, tokens: rest, logits: LogitRows::All }])?.remove(0);
    let hidden = engine.hidden().to_vec();
    engine.close(sequence);
    Ok(Scored { logits, hidden })
}

/// Returns the directions in which the head's inputs vary, of a text that is none of the domains.
fn directions(adapt: &Adapt, cell: &Cell, loaded: &mut Loaded) -> Result<Directions, LaunchError> {
    let calibration =
        Adapt { domains: vec![adapt.calibration.clone()], requests: CALIBRATION_REQUESTS as u32, ..adapt.clone() };
    let stream = Stream::new(&calibration, cell, &loaded.tokenizer)?;
    let mut inputs = Vec::new();
    for index in 0..CALIBRATION_REQUESTS {
        inputs.extend(score(loaded, stream.request(0, index), &calibration)?.hidden);
    }
    let nothing = || MicroLoraError::Setting("the head's inputs of the calibration text are all zero".to_owned());
    Ok(Directions::even(&inputs, loaded.engine.spec().hidden_size).ok_or_else(nothing)?)
}

/// Records every request, each domain and all of them.
fn record(adapt: &Adapt, label: &str, results: &[(usize, [f64; ARMS.len()])], recorder: &mut Recorder<'_>) {
    let tokens = u64::from(adapt.output_tokens);
    let of_domain = |domain: usize| results.iter().filter(move |(of, _)| *of == domain).map(|(_, losses)| losses);
    let mean_static = |domain: usize| {
        let (count, sum) = of_domain(domain).fold((0usize, 0.0), |(n, sum), losses| (n + 1, sum + losses[0]));
        sum / count.max(1) as f64
    };
    let means: Vec<f64> = (0..adapt.domains.len()).map(mean_static).collect();
    let mut all = |label: String, which: &dyn Fn(usize) -> bool| {
        recorder.begin(label);
        let rows: Vec<_> = (0u64..).zip(results).filter(|(_, (domain, _))| which(*domain)).collect();
        let mut record = |metric: &str, of: &dyn Fn(usize, &[f64; ARMS.len()]) -> f64| {
            let mut sum = 0.0;
            for (step, (domain, losses)) in &rows {
                let value = of(*domain, losses);
                recorder.at_step(metric, Phase::Eval, value, tokens, *step);
                sum += value;
            }
            recorder.once(metric, Phase::Eval, sum / rows.len() as f64, tokens * rows.len() as u64);
        };
        for (arm, nll) in ARMS.iter().enumerate() {
            record(nll, &|_, losses| losses[arm]);
        }
        for (change, arm, other) in CHANGES {
            // Of the domain's own mean, so that the mean over requests is the change of the mean.
            record(change, &|domain, losses| (losses[arm] - losses[other]) / means[domain]);
        }
    };
    all(label.to_owned(), &|_| true);
    for (domain, source) in adapt.domains.iter().enumerate() {
        all(format!("{label}/{}", Adapt::short(source)), &|of| of == domain);
    }
}
