//! Answers are those of all logits with what was learned, and leave the same to learn from.
use super::*;
use crate::{
    engine::{Chunk, LogitRows},
    model::sampler::{Sampler, Sampling},
};

/// A token at a time, of all logits of a position, as it is written down.
fn plainly(bench: &mut Bench, sona: &Sona, prompt: &[u32], sampler: &mut Sampler, count: usize) -> Answer {
    let engine = bench.engine.as_mut();
    let mut served = sona.serve().unwrap();
    let sequence = engine.open().unwrap();
    engine.attach(sequence, served.adapter().cloned()).unwrap();
    engine.keep_hidden(true).unwrap();
    let (inputs, mut logits) = read_prompt(engine, sequence, prompt).unwrap();
    sona.recognise(&mut served, &inputs).unwrap();
    let addition = served.addition(engine.spec()).unwrap();
    let mut hidden = inputs[inputs.len() - engine.spec().hidden_size..].to_vec();
    let (mut request, mut found) = (sona.request(count), Recollection::default());
    let mut answer = Answer::default();
    for _ in 0..count {
        let projected = sona.blank().project(&hidden);
        addition.apply(projected, &mut logits);
        let mut mixed = logits.clone();
        let normaliser = ruvlab_kernels::log_sum_exp_f32(&logits);
        sona.instant().unwrap().recall().mix(&hidden, normaliser, &mut mixed, &mut found);
        let token = sampler.sample(&mixed).unwrap();
        request.record(projected, &logits, token).unwrap();
        answer.recalled.push(found.of(token));
        answer.hidden.extend(&hidden);
        answer.tokens.push(token);
        let chunk = Chunk { sequence, tokens: &[token], logits: LogitRows::Last };
        logits = engine.step(&[chunk]).unwrap().remove(0).values;
        hidden = engine.hidden().to_vec();
    }
    engine.close(sequence);
    answer.losses = request.losses().to_vec();
    answer
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    hidden: Vec<f32>,
    recalled: Vec<Recalled>,
    losses: Vec<f64>,
}

#[test]
fn an_answer_is_that_of_all_logits_and_leaves_the_same_to_learn_from() {
    let mut bench = Bench::new();
    let settings = SonaSettings {
        instant: Some(CacheSettings { share: 0.6, ..CacheSettings::default() }),
        background: Some(BACKGROUND),
        ..instant_only(Settings::default())
    };
    let mut sona = bench.sona_of(&settings);
    let pairs = bench.requests("kjv.test", 8);
    for pair in &pairs[..6] {
        bench.request(&mut sona, pair, Some(Feedback::Accepted));
        sona.step(bench.engine.as_mut()).unwrap();
    }
    let mut answer = sona.answering(12);
    let mut mattered = 0;
    for (temperature, top_k) in [(0.0, 0), (0.8, 0), (0.8, 3), (1.5, 200)] {
        let sampling = Sampling { temperature, top_k, top_p: 1.0, min_p: 0.0 };
        for (prompt, _) in &pairs[6..] {
            let right = plainly(&mut bench, &sona, prompt, &mut Sampler::new(sampling, 5), 12);
            let mut sampler = Sampler::new(sampling, 5);
            let engine = bench.engine.as_mut();
            let sequence = engine.open().unwrap();
            let _served = sona.begin_answer(engine, sequence, prompt, &mut sampler, &mut answer).unwrap();
            while answer.tokens().len() < 12 {
                sona.go_on_answering(engine, sequence, &mut sampler, &mut answer).unwrap();
            }
            engine.close(sequence);
            let Evidence { request, hidden, tokens, recalled } = answer.evidence();
            assert_eq!(tokens, right.tokens, "{sampling:?}");
            assert!(hidden == right.hidden && recalled.len() == 12);
            for (own, other) in recalled.iter().zip(&right.recalled) {
                assert!((own.nearest - other.nearest).abs() <= 1e-6 && (own.sure - other.sure).abs() <= 1e-5);
                assert!((own.likely - other.likely).abs() <= 1e-6);
                mattered += usize::from(own.likely > 0.0);
            }
            assert!(request.losses().iter().zip(&right.losses).all(|(own, other)| (own - other).abs() <= 1e-5));
        }
    }
    assert!(mattered >= 10, "{mattered}: the cache has no part in it");
    // An engine that shows no inputs of its head cannot.
    let weights = Weights::open("builtin:pico").unwrap();
    let mut candle = engine::load(EngineKind::Candle, &weights, None).unwrap();
    let sequence = candle.open().unwrap();
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }, 1);
    let refused = sona.begin_answer(candle.as_mut(), sequence, &pairs[0].0, &mut sampler, &mut answer);
    assert!(matches!(refused, Err(SonaError::Engine(EngineError::Unsupported { .. }))));
}
