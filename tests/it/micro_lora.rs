//! Instant adaptation on a real model's own logits and head inputs.
use std::sync::Arc;

use ruvlab::{
    adapt::micro_lora::{Directions, MicroLora, Outcome, Request, Settings},
    engine::{self, Adapter, Chunk, EngineError, EngineKind, LanguageModel, LogitRows, Logits, Place, Target},
};

use super::{
    allocations,
    logits::{heldout, load_exact, native, pico},
};

/// Returns the logits of all tokens and what went into the head.
fn score(engine: &mut dyn LanguageModel, adapter: Option<Arc<Adapter>>, tokens: &[u32]) -> (Logits, Vec<f32>) {
    let sequence = engine.open().unwrap();
    engine.attach(sequence, adapter).unwrap();
    let logits = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::All }]).unwrap().remove(0);
    engine.close(sequence);
    (logits, engine.hidden().to_vec())
}

fn request(micro: &MicroLora, (logits, hidden): &(Logits, Vec<f32>), came: &[u32]) -> Request {
    let mut request = micro.request(came.len());
    let width = hidden.len() / logits.rows;
    for (row, token) in came.iter().enumerate() {
        let projected = micro.project(&hidden[row * width..][..width]);
        let mut logits = logits.row(row).to_vec();
        micro.apply(projected, &mut logits);
        request.record(projected, &logits, *token).unwrap();
    }
    request
}

/// A micro adapter of the built-in model, with its directions from other text.
fn micro(engine: &mut dyn LanguageModel, settings: Settings, tokens: &[u32]) -> MicroLora {
    engine.keep_hidden(true).unwrap();
    let (_, hidden) = score(engine, None, tokens);
    let spec = engine.spec();
    MicroLora::new(settings, &Directions::principal(&hidden, spec.hidden_size).unwrap(), spec.vocab_size).unwrap()
}

#[test]
fn the_head_s_inputs_come_with_the_logits_of_their_rows() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 2);
        let width = engine.spec().hidden_size;
        score(engine.as_mut(), None, &tokens[..3]);
        assert!(engine.hidden().is_empty());
        engine.keep_hidden(true).unwrap();
        let parts = [&tokens[..40], &tokens[40..41], &tokens[50..90]];
        let alone: Vec<Vec<f32>> = parts.iter().map(|part| score(engine.as_mut(), None, part).1).collect();
        let ids = parts.map(|_| engine.open().unwrap());
        let rows = [LogitRows::All, LogitRows::Last, LogitRows::Last];
        let chunk = |i: usize| Chunk { sequence: ids[i], tokens: parts[i], logits: rows[i] };
        engine.step(&[chunk(0), chunk(1), chunk(2)]).unwrap();
        let together = [&alone[0][..], &alone[1], &alone[2][39 * width..]].concat();
        assert!(engine.hidden() == together, "{kind:?}");
        engine.step(&[Chunk { sequence: ids[1], tokens: &tokens[..2], logits: LogitRows::Last }]).unwrap();
        assert_eq!(engine.hidden().len(), width);
        engine.keep_hidden(false).unwrap();
        assert!(engine.hidden().is_empty());
    }
    // More rows than are computed at once, of two sequences.
    let mut engine = load_exact(EngineKind::Native(engine::Tier::Scalar), &weights, 2);
    engine.keep_hidden(true).unwrap();
    let (width, ids) = (engine.spec().hidden_size, [engine.open().unwrap(), engine.open().unwrap()]);
    let chunk = |i: usize| Chunk { sequence: ids[i], tokens: &tokens[..300], logits: LogitRows::All };
    engine.step(&[chunk(0), chunk(1)]).unwrap();
    let (first, second) = engine.hidden().split_at(300 * width);
    let apart = first.iter().zip(second).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(first.len() == second.len() && apart <= 1e-3, "{apart}");
    for kind in [EngineKind::Candle, EngineKind::Reference] {
        let mut engine = engine::load(kind, &weights, None).unwrap();
        engine.keep_hidden(false).unwrap();
        assert!(matches!(engine.keep_hidden(true), Err(EngineError::Unsupported { .. })));
    }
}

/// Added after the logits, the addition is the one an engine computes at its head.
#[test]
fn what_is_learned_acts_as_an_adapter_of_the_head() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 2);
        let mut micro = micro(engine.as_mut(), Settings::default(), &tokens[200..300]);
        for at in [0, 64] {
            let scored = score(engine.as_mut(), None, &tokens[at..at + 64]);
            let step = micro.step(&request(&micro, &scored, &tokens[at + 1..at + 65]), 1.0);
            assert_eq!(step.outcome, Outcome::Applied);
        }
        let place = Place { layer: engine.spec().layers, target: Target::Head };
        let adapter = Arc::new(Adapter::from([(place, micro.low_rank())]));
        let (mut ours, hidden) = score(engine.as_mut(), None, &tokens[130..160]);
        let (plain, width) = (ours.clone(), engine.spec().hidden_size);
        let vocab_size = ours.vocab_size;
        for (logits, hidden) in ours.values.chunks_exact_mut(vocab_size).zip(hidden.chunks_exact(width)) {
            micro.apply(micro.project(hidden), logits);
        }
        let (attached, _) = score(engine.as_mut(), Some(adapter), &tokens[130..160]);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max);
        let (found, change) = (apart(&ours.values, &attached.values), apart(&ours.values, &plain.values));
        assert!(change >= 0.1 && found <= 1e-4 * change, "{kind:?}: {found:e} of {change:e}");
    }
}

#[test]
fn a_model_s_loss_falls_by_what_the_gradient_promises_and_rises_the_other_way() {
    let weights = pico();
    let tokens = heldout(&weights);
    let kind = EngineKind::Native(engine::Tier::Scalar);
    let mut engine = load_exact(kind, &weights, 2);
    let settings = Settings { learning_rate: 0.02, decay: 0.0, ..Settings::default() };
    let mut micro = micro(engine.as_mut(), settings, &tokens[200..300]);
    let scored = score(engine.as_mut(), None, &tokens[..64]);
    let came = &tokens[1..65];
    for weight in [1.0, -1.0] {
        let before = request(&micro, &scored, came);
        let step = micro.step(&before, weight);
        let fall = before.mean_loss() - request(&micro, &scored, came).mean_loss();
        let ratio = f64::from(weight) * fall / step.predicted_decrease;
        assert!((0.95..=1.05).contains(&ratio), "{weight}: {ratio}");
        let told = (step.loss_before - step.loss_after) / step.predicted_decrease;
        assert!((0.95..=1.05).contains(&told), "{weight}: {told}");
        micro.reset();
    }
}

#[test]
fn a_step_asks_for_no_memory() {
    let weights = pico();
    let tokens = heldout(&weights);
    let mut engine = load_exact(EngineKind::Native(engine::Tier::Scalar), &weights, 2);
    let mut micro = micro(engine.as_mut(), Settings { decay: 0.9, ..Settings::default() }, &tokens[200..300]);
    let requests: Vec<(Logits, Vec<f32>)> =
        (0..4).map(|i| score(engine.as_mut(), None, &tokens[i * 30..i * 30 + 64])).collect();
    let mut room = micro.request(64);
    let width = engine.spec().hidden_size;
    let mut row = vec![0.0; engine.spec().vocab_size];
    let mut learn = |at: usize| {
        let (logits, hidden) = &requests[at];
        room.clear();
        for (position, came) in tokens[at * 30 + 1..at * 30 + 65].iter().enumerate() {
            let projected = micro.project(&hidden[position * width..][..width]);
            row.copy_from_slice(logits.row(position));
            micro.apply(projected, &mut row);
            room.record(projected, &row, *came).unwrap();
        }
        micro.step(&room, 1.0)
    };
    (0..4).for_each(|at| _ = learn(at));
    for at in [0, 1, 2, 3, 0, 1] {
        let (step, allocated) = allocations::during(|| learn(at));
        assert_eq!(allocated, 0, "{step:?}");
    }
}
