//! Engines against themselves and each other: sequences, steps, contexts.
//!
//! A quantised matrix is multiplied by activations rounded to 8 bits in candle, so a change in the last bit
//! of a float can flip a rounding: close is the most two engines can be on quantised weights, while on f32
//! weights they must agree to f32's precision.

use ruvlab::{
    engine::{self, Chunk, EngineError, EngineKind, LogitRows},
    model::{
        sampler::{Sampler, Sampling},
        tokenizer::Tokenizer,
        weights::TensorType,
    },
};

use super::logits::{BOTH, all, heldout, largest_difference, load_exact, logits, mean_kl, pico};

#[test]
fn two_prompts_in_a_row_give_what_each_gives_alone() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in all() {
        let load = || engine::load(kind, &weights, None).unwrap();
        let (one, two) = (&tokens[..40], &tokens[500..570]);
        let alone = logits(load().as_mut(), two, &[70]);
        let mut engine = load();
        let first = logits(engine.as_mut(), one, &[40]);
        assert!(logits(engine.as_mut(), two, &[70]) == alone, "{kind:?}");
        assert!(logits(engine.as_mut(), one, &[40]) == first, "{kind:?}");
    }
}

#[test]
fn sequences_side_by_side_give_what_each_gives_alone() {
    let weights = pico();
    let tokens = heldout(&weights);
    for kind in all() {
        let mut engine = engine::load(kind, &weights, None).unwrap();
        let parts = [&tokens[..50], &tokens[900..933]];
        let alone = parts.map(|part| {
            let sizes: Vec<usize> = [part.len() - 10].into_iter().chain([1; 10]).collect();
            logits(engine.as_mut(), part, &sizes)
        });
        let sequences = parts.map(|_| engine.open().unwrap());
        let mut together = [Vec::new(), Vec::new()];
        for step in 0..=10 {
            let range = |part: &[u32]| {
                if step == 0 { 0..part.len() - 10 } else { part.len() - 11 + step..part.len() - 10 + step }
            };
            let chunk =
                |i: usize| Chunk { sequence: sequences[i], tokens: &parts[i][range(parts[i])], logits: LogitRows::All };
            let output = engine.step(&[chunk(0), chunk(1)]).unwrap();
            for (rows, logits) in together.iter_mut().zip(&output) {
                rows.extend((0..logits.rows).map(|row| logits.row(row).to_vec()));
            }
        }
        // Each row of a product is computed by itself, so not one bit differs.
        assert!(together == alone, "{kind:?}");
    }
}

#[test]
fn however_a_prompt_is_cut_its_logits_are_the_same() {
    let weights = pico();
    let dense = weights.requantized(TensorType::F32).unwrap();
    let tokens = &heldout(&weights)[..64];
    for kind in all() {
        for (weights, kl, difference) in [(&dense, 1e-9, 1e-3), (&weights, 1e-4, 0.5)] {
            // With f16 caches, sums in another order would flip roundings.
            let mut engine = load_exact(kind, weights, 2);
            let whole = logits(engine.as_mut(), tokens, &[64]);
            for sizes in [vec![1; 64], vec![63, 1], vec![5, 20, 1, 38]] {
                let cut = logits(engine.as_mut(), tokens, &sizes);
                let (found, largest) = (mean_kl(&whole, &cut), largest_difference(&whole, &cut));
                println!(
                    "{kind:?} {} {sizes:?}: KL {found:e}, largest difference {largest:e}",
                    weights.common_format()
                );
                assert!(found <= kl && largest <= difference, "{kind:?} {sizes:?}: {found:e} {largest:e}");
            }
        }
    }
}

#[test]
fn a_prompt_longer_than_one_step_is_as_one() {
    let weights = pico().requantized(TensorType::F32).unwrap();
    let context = weights.spec().context_length;
    let length = context.min(1100);
    let tokens = &heldout(&weights)[..length];
    let mut engine = engine::load(EngineKind::Candle, &weights, None).unwrap();
    let whole = logits(engine.as_mut(), tokens, &[length]);
    let cut = logits(engine.as_mut(), tokens, &[length / 3, length - length / 3 - 1, 1]);
    let found = mean_kl(&whole, &cut);
    assert!(found <= 1e-9, "{found:e}");
    let sequence = engine.open().unwrap();
    let last = engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }]).unwrap();
    assert_eq!(last[0].rows, 1);
    assert!(largest_difference(&[last[0].row(0).to_vec()], &whole[length - 1..]) <= 1e-3);
}

#[test]
fn both_engines_give_the_same_distribution() {
    let weights = pico();
    let tokens = &heldout(&weights)[..128];
    for (weights, bound) in [(&weights.requantized(TensorType::F32).unwrap(), 1e-9), (&weights, 1e-4)] {
        let [a, b] = BOTH.map(|kind| logits(engine::load(kind, weights, None).unwrap().as_mut(), tokens, &[128]));
        let found = mean_kl(&a, &b);
        println!("{}: KL {found:e}, largest difference {:e}", weights.common_format(), largest_difference(&a, &b));
        assert!(found <= bound, "{}: {found:e}", weights.common_format());
    }
}

#[test]
fn one_seed_gives_one_text() {
    let weights = pico();
    let tokenizer = Tokenizer::new(&weights).unwrap();
    let prompt = tokenizer.encode("The old house stood", false).unwrap();
    let sampling = Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, min_p: 0.02 };
    for kind in all() {
        let mut engine = engine::load(kind, &weights, None).unwrap();
        let mut write = |seed: u64| {
            let mut sampler = Sampler::new(sampling, seed);
            let sequence = engine.open().unwrap();
            let mut tokens = prompt.clone();
            let mut fed = 0;
            for _ in 0..24 {
                let chunk = Chunk { sequence, tokens: &tokens[fed..], logits: LogitRows::Last };
                let output = engine.step(&[chunk]).unwrap();
                fed = tokens.len();
                tokens.push(sampler.sample(output[0].row(0)).unwrap());
            }
            engine.close(sequence);
            tokenizer.decode(&tokens)
        };
        let text = write(1);
        assert_eq!(write(1), text, "{kind:?}");
        assert_ne!(write(2), text, "{kind:?}");
    }
}

#[test]
fn a_refused_step_changes_no_sequence() {
    let weights = pico();
    let tokens = &heldout(&weights)[..20];
    for kind in all() {
        let mut engine = engine::load(kind, &weights, Some(24)).unwrap();
        assert_eq!(engine.context_length(), 24);
        let undisturbed = engine.open().unwrap();
        let (sequence, closed) = (engine.open().unwrap(), engine.open().unwrap());
        engine.close(closed);
        engine.close(closed);
        let chunk = |sequence, tokens| Chunk { sequence, tokens, logits: LogitRows::Last };
        let good = chunk(sequence, &tokens[..19]);
        engine.step(&[good]).unwrap();
        let last = chunk(sequence, &tokens[19..]);
        let stranger = [weights.spec().vocab_size as u32];
        for bad in [chunk(closed, &tokens[..1]), chunk(sequence, &[]), chunk(sequence, &stranger), good] {
            assert!(engine.step(&[last, bad]).is_err(), "{kind:?} {bad:?}");
        }
        assert!(matches!(engine.step(&[good]), Err(EngineError::ContextFull { needed: 38, context_length: 24 })));
        let output = engine.step(&[last]).unwrap();
        engine.step(&[chunk(undisturbed, &tokens[..19])]).unwrap();
        let alone = engine.step(&[chunk(undisturbed, &tokens[19..])]).unwrap();
        assert!(output == alone, "{kind:?}");
    }
}

#[test]
fn more_context_than_there_is_is_refused() {
    let weights = pico();
    for kind in all() {
        assert!(engine::load(kind, &weights, Some(weights.spec().context_length + 1)).is_err());
        assert!(engine::load(kind, &weights, Some(0)).is_err());
    }
}
