//! Instant adaptation on a real model's own logits and head inputs.
mod streams;

use std::sync::Arc;

use ruvlab::{
    adapt::micro_lora::{Directions, MicroLora, Outcome, Request, Settings, next_token},
    engine::{
        self, Adapter, Chunk, EngineError, EngineKind, HeadRows, LanguageModel, LogitRows, Logits, Place, Target,
    },
    model::sampler::{Sampler, Sampling, TopK},
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
        // All logits beside the greatest of them, of one position after the other.
        engine.keep_logits(true).unwrap();
        let chunk = |at: usize, tokens| Chunk { sequence: ids[at], tokens, logits: LogitRows::All };
        let greatest = engine.step_top_k(&[chunk(0, &tokens[3..5]), chunk(2, &tokens[7..8])], 4).unwrap();
        let logits: Vec<&[f32]> = engine.logits().chunks_exact(engine.spec().vocab_size).collect();
        assert!((greatest.len(), logits.len(), engine.normalisers().len()) == (3, 3, 3));
        for ((list, logits), normaliser) in greatest.iter().zip(logits).zip(engine.normalisers()) {
            assert_eq!(*list, TopK::of(logits, 4));
            assert!((normaliser - ruvlab_kernels::log_sum_exp_f32(logits)).abs() <= 1e-4);
        }
        engine.step_top_k(&[chunk(1, &tokens[3..4])], 4).unwrap();
        assert_eq!(engine.logits().len(), engine.spec().vocab_size);
        engine.keep_logits(false).unwrap();
        assert!(engine.logits().is_empty() && !engine.hidden().is_empty());
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
        let settings = Settings { learning_rate: 0.2, ..Settings::default() };
        let mut micro = micro(engine.as_mut(), settings, &tokens[200..300]);
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

/// Of several sequences with other rows, and none, of single positions and all: what an engine adds where it
/// computes logits is what is added to them afterwards, and the greatest of them are found with it.
#[test]
fn an_engine_adds_rows_to_the_logits_of_their_sequences() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 3);
        let learned = |engine: &mut dyn LanguageModel, top_k: usize, count: usize| {
            let mut micro = micro(engine, Settings { top_k, ..Settings::default() }, &tokens[200..300]);
            let scored = score(engine, None, &tokens[..count]);
            micro.step(&request(&micro, &scored, &tokens[1..=count]), 1.0);
            micro
        };
        // Few tokens take part in the first, and in the second so many that all are gone through.
        let micros = [learned(engine.as_mut(), 2, 20), learned(engine.as_mut(), 100, 120)];
        let rows = micros.each_ref().map(|micro| micro.head_rows().map(Arc::new));
        assert!(micro(engine.as_mut(), Settings::default(), &tokens[200..300]).head_rows().is_none());
        let mut run = |of: [Option<usize>; 4], step: &mut dyn FnMut(&mut dyn LanguageModel, &[Chunk<'_>])| {
            let first = engine.open().unwrap();
            engine.attach_head(first, of[0].and_then(|at| rows[at].clone())).unwrap();
            let child = engine.fork(first).unwrap();
            let ids = [first, child, engine.open().unwrap(), engine.open().unwrap()];
            for (id, of) in ids.iter().zip(of).skip(2) {
                engine.attach_head(*id, of.and_then(|at| rows[at].clone())).unwrap();
            }
            let chunk = |i: usize, tokens, logits| Chunk { sequence: ids[i], tokens, logits };
            let parts =
                [(0..9, LogitRows::All), (9..10, LogitRows::Last), (20..24, LogitRows::All), (30..33, LogitRows::Last)];
            let parts = parts.map(|(range, logits)| (&tokens[range], logits));
            let chunks: Vec<Chunk<'_>> =
                (0..).zip(parts).map(|(i, (tokens, logits))| chunk(i, tokens, logits)).collect();
            step(engine.as_mut(), &chunks);
            ids.into_iter().for_each(|id| engine.close(id));
        };
        let of = [Some(0), Some(0), None, Some(1)];
        let (mut plain, mut hidden, mut found) = (Vec::new(), Vec::new(), Vec::new());
        run([None; 4], &mut |engine, chunks| {
            (plain, hidden) = (engine.step(chunks).unwrap(), engine.hidden().to_vec())
        });
        run(of, &mut |engine, chunks| found = engine.step(chunks).unwrap());
        let width = weights.spec().hidden_size;
        let mut inputs = hidden.chunks_exact(width);
        let (mut changed, mut rows_of_all) = (0.0f32, Vec::new());
        for ((plain, found), of) in plain.iter().zip(&found).zip(of) {
            for row in 0..plain.rows {
                let (mut right, hidden) = (plain.row(row).to_vec(), inputs.next().unwrap());
                if let Some(at) = of {
                    micros[at].apply(micros[at].project(hidden), &mut right);
                }
                for ((right, found), plain) in right.iter().zip(found.row(row)).zip(plain.row(row)) {
                    let moved = (right - plain).abs();
                    changed = changed.max(moved);
                    assert!((right - found).abs() <= 1e-6 + 1e-5 * (moved + plain.abs()), "{kind:?}: {right} {found}");
                    assert!(of.is_some() || found.to_bits() == plain.to_bits());
                }
                rows_of_all.push(found.row(row));
            }
        }
        assert!(changed >= 0.1, "{changed}");
        run(of, &mut |engine, chunks| {
            let lists = engine.step_top_k(chunks, 40).unwrap();
            assert_eq!((lists.len(), engine.normalisers().len()), (rows_of_all.len(), rows_of_all.len()));
            for ((list, normaliser), row) in lists.iter().zip(engine.normalisers()).zip(&rows_of_all) {
                assert!(*list == TopK::of(row, 40), "{kind:?}");
                let right: f64 = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
                assert!((normaliser - right).abs() <= 2e-6, "{kind:?}: {normaliser} {right}");
            }
        });
        let other = HeadRows::new(vec![0.0; 2 * width], &[[1.0; 2]; 5], &[1], 1.0);
        let sequence = engine.open().unwrap();
        assert!(matches!(engine.attach_head(sequence, Some(Arc::new(other))), Err(EngineError::Adapter(_))));
        assert!(matches!(engine.attach_head(99, None), Err(EngineError::UnknownSequence(99))));
    }
    let mut candle = engine::load(EngineKind::Candle, &weights, None).unwrap();
    let sequence = candle.open().unwrap();
    candle.attach_head(sequence, None).unwrap();
    let rows = HeadRows::new(vec![0.0; 2], &[[1.0; 2]], &[0], 1.0);
    assert!(matches!(candle.attach_head(sequence, Some(Arc::new(rows))), Err(EngineError::Unsupported { .. })));
}

/// Whether few logits decide or all: the tokens, and what is learned from them.
#[test]
fn an_answer_teaches_the_same_whether_all_its_logits_were_there() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 2);
        let mut micro = micro(engine.as_mut(), Settings::default(), &tokens[200..300]);
        // The last one keeps more tokens than are learned from.
        for (top_k, seed) in [(1, 1), (20, 2), (100, 3)] {
            let sampling = Sampling { temperature: 0.9, top_k, top_p: 1.0, min_p: 0.0 };
            let (mut few, mut all) = (micro.request(24), micro.request(24));
            let mut next = tokens[seed as usize * 10..][..8].to_vec();
            let sequence = engine.open().unwrap();
            engine.attach_head(sequence, micro.head_rows().map(Arc::new)).unwrap();
            let twin = engine.fork(sequence).unwrap();
            let [mut sampler, mut other] = [(); 2].map(|()| Sampler::new(sampling, seed));
            for _ in 0..24 {
                let chunk = Chunk { sequence: twin, tokens: &next, logits: LogitRows::Last };
                let logits = engine.step(&[chunk]).unwrap().remove(0);
                let right = other.sample(logits.row(0)).unwrap();
                all.record(micro.project(engine.hidden()), logits.row(0), right).unwrap();
                let found = next_token(engine.as_mut(), sequence, &next, &mut sampler, &micro, &mut few).unwrap();
                assert_eq!(found, right, "{kind:?}");
                next = vec![found];
            }
            [sequence, twin].into_iter().for_each(|id| engine.close(id));
            assert!((few.mean_loss() - all.mean_loss()).abs() <= 2e-6, "{} {}", few.mean_loss(), all.mean_loss());
            let before = micro.learned();
            let step = micro.step(&all, 1.0);
            let right = micro.learned();
            micro.restore(before).unwrap();
            let again = micro.step(&few, 1.0);
            assert_eq!((step.outcome, again.outcome), (Outcome::Applied, Outcome::Applied));
            for (found, right) in micro.learned().b.iter().flatten().zip(right.b.iter().flatten()) {
                assert!((found - right).abs() <= 1e-4 * right.abs().max(0.1), "{found} {right}");
            }
        }
    }
}

#[test]
fn a_model_s_loss_falls_by_what_the_gradient_promises_and_rises_the_other_way() {
    let weights = pico();
    let tokens = heldout(&weights);
    let kind = EngineKind::Native(engine::Tier::Scalar);
    let mut engine = load_exact(kind, &weights, 2);
    let settings = Settings { learning_rate: 1.0e-3, decay: 0.0, ..Settings::default() };
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
