//! Texts written from the greatest logits alone: the same as from all, and no position has all.
use std::sync::Arc;

use ruvlab::{
    engine::{self, Chunk, EngineKind, LanguageModel, LogitRows, SequenceId, next_tokens},
    model::{
        sampler::{Sampler, Sampling, TopK},
        weights::Weights,
    },
};

use super::{
    adapters::adapter,
    allocations,
    logits::{all, heldout, load_exact, native, pico},
};

const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
const SAMPLINGS: [Sampling; 4] = [
    GREEDY,
    Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.02 },
    Sampling { temperature: 1.5, top_k: 3, ..GREEDY },
    // All logits decide.
    Sampling { temperature: 0.9, top_k: 0, top_p: 0.9, min_p: 0.0 },
];

fn samplers(seed: u64, count: usize, samplings: &[Sampling]) -> Vec<Sampler> {
    (0..count).map(|i| Sampler::new(samplings[i % samplings.len()], seed + i as u64)).collect()
}

/// Returns a text for each prompt, the next tokens as `next` chooses them.
fn write(
    engine: &mut dyn LanguageModel,
    prompts: &[&[u32]],
    mut next: impl FnMut(&mut dyn LanguageModel, &[(SequenceId, &[u32])]) -> Vec<u32>,
) -> Vec<Vec<u32>> {
    let ids: Vec<SequenceId> = prompts.iter().map(|_| engine.open().unwrap()).collect();
    let mut texts: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    let mut fed = vec![0; prompts.len()];
    for _ in 0..12 {
        let parts = ids.iter().zip(&texts).zip(&fed).map(|((id, text), fed)| (*id, &text[*fed..]));
        let tokens = next(engine, &parts.collect::<Vec<_>>());
        for ((text, fed), token) in texts.iter_mut().zip(&mut fed).zip(tokens) {
            *fed = text.len();
            text.push(token);
        }
    }
    ids.into_iter().for_each(|id| engine.close(id));
    texts
}

#[test]
fn few_logits_write_the_texts_that_all_write() {
    let weights = pico();
    let tokens = heldout(&weights);
    // Few and many rows of the head, which threads share differently.
    for (kind, count, threads) in all().flat_map(|kind| [(kind, 1, 1), (kind, 3, 3), (kind, 11, 2)]) {
        let prompts: Vec<&[u32]> = (0..count).map(|i| &tokens[40 * i..40 * i + 5 + i]).collect();
        let native = matches!(kind, EngineKind::Native(_));
        let mut engine = match native {
            true => load_exact(kind, &weights, threads),
            false => engine::load(kind, &weights, None).unwrap(),
        };
        for samplings in SAMPLINGS.iter().map(std::slice::from_ref).chain([&SAMPLINGS[..3], &SAMPLINGS[..]]) {
            let mut own = samplers(7, count, samplings);
            let from_few =
                write(engine.as_mut(), &prompts, |engine, parts| next_tokens(engine, parts, &mut own).unwrap());
            let mut own = samplers(7, count, samplings);
            let from_all = write(engine.as_mut(), &prompts, |engine, parts| {
                let chunk = |&(sequence, tokens)| Chunk { sequence, tokens, logits: LogitRows::Last };
                let logits = engine.step(&parts.iter().map(chunk).collect::<Vec<_>>()).unwrap();
                own.iter_mut().zip(&logits).map(|(sampler, logits)| sampler.sample(logits.row(0)).unwrap()).collect()
            });
            assert_eq!(from_few, from_all, "{kind:?} {count} {samplings:?}");
        }
    }
}

/// With an adapter on the head and without, of several chunks, of all positions and of the last, in
/// more steps than one.
#[test]
fn the_greatest_logits_are_those_of_a_step_to_the_last_bit() {
    for source in ["builtin:pico", "tests/it/golden/llama3-rope"] {
        let weights = Weights::open(source).unwrap();
        let (spec, room) = (weights.spec(), weights.spec().context_length);
        let tokens: Vec<u32> = (0..room.min(530)).map(|i| (i * 31 % spec.vocab_size) as u32).collect();
        let adapter = Arc::new(adapter(spec, 3, 2));
        for (kind, threads) in native().flat_map(|kind| [(kind, 1), (kind, 3)]) {
            let mut engine = load_exact(kind, &weights, threads);
            let mut run = |step: &mut dyn FnMut(&mut dyn LanguageModel, &[Chunk<'_>])| {
                let ids = [(); 3].map(|()| engine.open().unwrap());
                engine.attach(ids[1], Some(Arc::clone(&adapter))).unwrap();
                let chunk = |(index, tokens, logits)| Chunk { sequence: ids[index], tokens, logits };
                let whole = (0, &tokens[..], LogitRows::Last);
                let parts = [whole, (1, &tokens[..9], LogitRows::All), (2, &tokens[2..5], LogitRows::All)];
                step(engine.as_mut(), &parts.map(chunk));
                ids.into_iter().for_each(|id| engine.close(id));
            };
            let mut all = Vec::new();
            run(&mut |engine, chunks| all = engine.step(chunks).unwrap());
            for k in [1, 40, 1000] {
                let rows = all.iter().flat_map(|logits| (0..logits.rows).map(|row| TopK::of(logits.row(row), k)));
                let rows: Vec<TopK> = rows.collect();
                assert_eq!(rows.len(), 13);
                run(&mut |engine, chunks| {
                    assert!(engine.step_top_k(chunks, k).unwrap() == rows, "{source} {kind:?} {threads} {k}");
                });
            }
        }
    }
}

#[test]
fn no_position_has_all_logits_where_few_decide() {
    let weights = pico();
    let tokens = &heldout(&weights)[..32];
    let logits_bytes = 4 * weights.spec().vocab_size;
    for kind in native() {
        // The caller is the only worker, so all that is allocated is seen.
        let mut engine = load_exact(kind, &weights, 1);
        let sequence = engine.open().unwrap();
        let mut sampler = [Sampler::new(SAMPLINGS[1], 0)];
        let mut next = |engine: &mut dyn LanguageModel, tokens: &[u32]| {
            allocations::largest_during(|| next_tokens(engine, &[(sequence, tokens)], &mut sampler).unwrap()).1
        };
        next(engine.as_mut(), &tokens[..20]);
        next(engine.as_mut(), &tokens[20..21]);
        // No page begins at these.
        for token in tokens[21..28].chunks(1) {
            let largest = next(engine.as_mut(), token);
            assert!(largest <= 1024, "{kind:?}: {largest} bytes at once");
        }
        let chunk = Chunk { sequence, tokens: &tokens[28..29], logits: LogitRows::Last };
        let (_, largest) = allocations::largest_during(|| engine.step(&[chunk]).unwrap());
        assert_eq!(largest, logits_bytes, "the counter sees the logits of a step that wants them");
    }
}
