//! Decode: how fast prompts are answered, token by token.
use std::slice;

use super::{
    error::LaunchError,
    opened::Loaded,
    prompt::{Prompts, derive_seed},
    recorder::Recorder,
};
use crate::{
    clock::Stopwatch,
    engine::{SequenceId, next_tokens},
    event::{Phase, TokenTime},
    model::sampler::{Sampler, Sampling},
    plan::Cell,
    recipe::schema::Decode,
};

/// The answers to one batch of prompts.
struct Answers {
    /// The generated tokens of each sequence.
    tokens: Vec<Vec<u32>>,
    /// Nanoseconds from the request to each step's tokens; all sequences get theirs together.
    times_ns: Vec<u64>,
}

pub(super) fn run(
    decode: &Decode,
    cell: &Cell,
    prompts: &Prompts,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let Decode { prompt_tokens, output_tokens, batch_size, repetitions } = *decode;
    let warmup = cell.recipe.measure.warmup;
    let total = warmup + repetitions;
    // The last token is never fed back.
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, (prompt_tokens + output_tokens - 1) as usize)?;
    let mut digest = blake3::Hasher::new();
    let mut generated = 0;
    for rep in 0..total {
        recorder.progress(rep.into(), total.into());
        recorder.repetition(rep, rep < warmup);
        let texts = (0..batch_size)
            .map(|sequence| prompts.text(&loaded.tokenizer, prompt_tokens as usize, rep, sequence))
            .collect::<Result<Vec<_>, _>>()?;
        let mut samplers: Vec<Sampler> = (0..batch_size)
            .map(|sequence| Sampler::new(sampling(cell), derive_seed("sampler", cell.seed, rep, sequence)))
            .collect();
        let encode = |loaded: &Loaded, text: &String| prompts.encode(&loaded.tokenizer, text, prompt_tokens as usize);
        let answers =
            recorder.metered(|_| answer(loaded, &label, &texts, encode, &mut samplers, output_tokens as usize))?;
        report(&answers, prompt_tokens, recorder);
        if cell.recipe.measure.token_trace {
            trace(&answers, prompt_tokens, recorder);
        }
        if rep >= warmup {
            for token in answers.tokens.iter().flatten() {
                digest.update(&token.to_le_bytes());
                generated += 1;
            }
        }
    }
    recorder.progress(total.into(), total.into());
    recorder.repetition(0, false);
    let mut bits = [0; 8];
    bits[2..].copy_from_slice(&digest.finalize().as_bytes()[..6]);
    // 48 bits are exact in an f64.
    recorder.once("tokens_digest", Phase::Decode, u64::from_be_bytes(bits) as f64, generated);
    Ok(())
}

pub(super) fn sampling(cell: &Cell) -> Sampling {
    let crate::recipe::schema::Sampling { temperature, top_k, top_p, min_p } = cell.recipe.sampling;
    Sampling { temperature, top_k, top_p, min_p }
}

fn answer(
    loaded: &mut Loaded,
    label: &str,
    texts: &[String],
    encode: impl Fn(&Loaded, &String) -> Result<Vec<u32>, LaunchError>,
    samplers: &mut [Sampler],
    output_tokens: usize,
) -> Result<Answers, LaunchError> {
    let mut answers = Answers {
        tokens: texts.iter().map(|_| Vec::with_capacity(output_tokens)).collect(),
        times_ns: Vec::with_capacity(output_tokens),
    };
    let stopwatch = Stopwatch::start();
    let prompts = texts.iter().map(|text| encode(loaded, text)).collect::<Result<Vec<_>, _>>()?;
    let engine = &mut loaded.engine;
    let sequences = prompts.iter().map(|_| engine.open()).collect::<Result<Vec<_>, _>>()?;
    let mut step = |tokens: Vec<&[u32]>| {
        let tokens: Vec<(SequenceId, &[u32])> = sequences.iter().copied().zip(tokens).collect();
        next_tokens(engine.as_mut(), &tokens, samplers).map_err(|error| LaunchError::generation(label, error))
    };
    let mut next = step(prompts.iter().map(Vec::as_slice).collect())?;
    loop {
        answers.tokens.iter_mut().zip(&next).for_each(|(tokens, token)| tokens.push(*token));
        answers.times_ns.push(stopwatch.elapsed_ns());
        if answers.times_ns.len() >= output_tokens {
            break;
        }
        next = step(next.iter().map(slice::from_ref).collect())?;
    }
    for sequence in sequences {
        engine.close(sequence);
    }
    Ok(answers)
}

fn report(answers: &Answers, prompt_tokens: u32, recorder: &mut Recorder<'_>) {
    const MS: f64 = 1e-6;
    let (Some(first), Some(last)) = (answers.times_ns.first(), answers.times_ns.last()) else { return };
    let (first, last) = (*first as f64, *last as f64);
    let mut gaps: Vec<f64> = answers.times_ns.windows(2).map(|pair| (pair[1] - pair[0]) as f64 * MS).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    let (batch, steps) = (answers.tokens.len() as u64, gaps.len() as u64);
    recorder.once("ttft_ms", Phase::Decode, first * MS, u64::from(prompt_tokens) * batch);
    recorder.once("tpot_ms", Phase::Decode, (last - first) * MS / steps as f64, steps);
    for (metric, q) in [("itl_p50_ms", 0.50), ("itl_p95_ms", 0.95), ("itl_p99_ms", 0.99)] {
        recorder.once(metric, Phase::Decode, quantile(&gaps, q), steps);
    }
    let count = batch * steps;
    recorder.once("decode_tok_s", Phase::Decode, count as f64 / ((last - first) * 1e-9), count);
    recorder.once("e2e_ms", Phase::Decode, last * MS, steps + 1);
}

/// Returns the q-quantile of ascending values, linear between the two nearest (Hyndman and Fan's
/// type 7, numpy's default); NaN of none.
pub(super) fn quantile(ascending: &[f64], q: f64) -> f64 {
    let place = q * ascending.len().saturating_sub(1) as f64;
    let below = place.floor() as usize;
    match (ascending.get(below), ascending.get(below + 1)) {
        (Some(low), Some(high)) => low + (high - low) * (place - place.floor()),
        (Some(only), None) => *only,
        (None, _) => f64::NAN,
    }
}

fn trace(answers: &Answers, prompt_tokens: u32, recorder: &mut Recorder<'_>) {
    for (request, tokens) in (0..).zip(&answers.tokens) {
        let time = |(index, (token, t_ns)): (u32, (&u32, &u64))| TokenTime {
            position: prompt_tokens + index,
            token_id: *token,
            t_ns: *t_ns,
        };
        recorder.tokens(request, (0..).zip(tokens.iter().zip(&answers.times_ns)).map(time).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 3.0), (0.95, 7.4), (1.0, 8.0)] {
            assert!((quantile(&values, q) - expected).abs() <= 1e-12, "{q}");
        }
        assert!((quantile(&[5.0], 0.99) - 5.0).abs() <= 0.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
