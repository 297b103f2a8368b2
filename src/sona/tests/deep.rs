//! Transactions of the deep loop, and states that outlive a restart.
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{Target, Trainee, TraineeSettings};

fn settings(max_drift: f64) -> DeepSettings {
    DeepSettings {
        rank: 8,
        scale: 2.0,
        targets: vec![Target::Query, Target::Down],
        learning_rate: 5e-3,
        steps: 4,
        batch: 4,
        distilled: 4,
        lambda: 1.0,
        decay: 0.5,
        fisher_batches: 2,
        max_drift,
        max_grad_norm: 1.0,
        jury: 16,
        when: When { every_requests: 8, idle: Some(Duration::from_secs(2)) },
    }
}

/// Returns all three loops, with nothing behind them.
fn three(bench: &mut Bench, deep: DeepSettings) -> Sona {
    let loops = SonaSettings {
        micro: Settings::default(),
        instant: Some(CacheSettings::default()),
        background: Some(BACKGROUND),
        memory: MEMORY,
    };
    let weights = Weights::open("builtin:pico").unwrap();
    let beginning = Deep::beginning(&deep, weights.spec(), 3);
    let held = TraineeSettings { widen: true, recompute: false };
    let trainee = Trainee::load(&weights, &beginning, held).unwrap();
    let general = bench.requests("heldout", 12);
    let whole: Vec<Vec<u32>> =
        general[..4].iter().map(|(prompt, answer)| [prompt.as_slice(), answer].concat()).collect();
    let deep = Deep::new(deep, Box::new(trainee), beginning, whole, &mut ChaCha8Rng::seed_from_u64(4)).unwrap();
    let prompts = general[..4].iter().map(|(prompt, _)| prompt.clone()).collect();
    let text = General { guard: general[4..8].to_vec(), judges: general[8..].to_vec(), prompts };
    let sona = bench.sona_of(&loops).with_deep(deep, text).unwrap();
    sona.with_reserve(bench.engine.as_mut(), general[4..].to_vec(), 0.01).unwrap()
}

/// Streams requests of two domains with background steps, and returns the losses.
fn stream(bench: &mut Bench, sona: &mut Sona, requests: std::ops::Range<usize>) -> Vec<u64> {
    let texts = ["kjv.test", "python.test"].map(|text| bench.requests(text, requests.end));
    let mut losses = Vec::new();
    for at in requests {
        for pairs in &texts {
            losses.push(bench.request(sona, &pairs[at], Some(Feedback::Accepted)).0.to_bits());
            sona.step(bench.engine.as_mut()).unwrap();
        }
    }
    losses
}

fn logits(bench: &mut Bench, sona: &Sona, (prompt, answer): &Pair) -> Vec<f32> {
    let served = sona.serve().unwrap();
    Passage::read(bench.engine.as_mut(), served.adapter(), prompt, answer).unwrap().logits
}

#[test]
fn a_committed_transaction_serves_and_the_fast_loops_begin_anew() {
    let mut bench = Bench::new();
    let mut sona = three(&mut bench, DeepSettings { steps: 16, ..settings(10.0) });
    assert!(sona.consolidate(bench.engine.as_mut()).unwrap().is_none());
    stream(&mut bench, &mut sona, 0..8);
    let pair = bench.requests("kjv.test", 15).remove(14);
    let (before, anchor) = (logits(&mut bench, &sona, &pair), sona.deep().unwrap().terms()[0].clone());
    assert!(sona.deep().unwrap().penalty().abs() <= 0.0);
    let held = |sona: &Sona| sona.instant().unwrap().micro().norm();
    let norm = held(&sona);
    let Transaction { account, verdict, share, .. } = sona.consolidate(bench.engine.as_mut()).unwrap().unwrap();
    assert_eq!((account.decision, account.of), (Decision::Applied, LoopKind::Deep), "{verdict:?}");
    assert!(account.loss_after < account.loss_before && account.grad_norm > 0.0 && account.predicted_decrease > 0.0);
    assert!(logits(&mut bench, &sona, &pair) != before);
    // What the adapter has of them now the fast loops forget.
    assert!((held(&sona) - (1.0 - share) * norm).abs() <= 1e-4 * norm, "{share}");
    // The cache is as the adapter reads what is kept.
    let kept = sona.memory().replayed().kept();
    let recall = sona.instant().unwrap().recall();
    assert_eq!(recall.len(), kept.iter().map(|one| one.answer.len()).sum::<usize>());
    let served = sona.serve().unwrap();
    let passage = Passage::read(bench.engine.as_mut(), served.adapter(), &kept[0].prompt, &kept[0].answer).unwrap();
    let mut found = Recollection::default();
    recall.look(&passage.hidden[..bench.directions.width], 0.3, &mut found);
    assert!(found.of(kept[0].answer[0]).nearest > 0.999);
    let key = sona.memory().bank().key(&passage.prompt).unwrap();
    assert!(key.iter().zip(&kept[0].key).all(|(a, b)| (a - b).abs() <= 1e-5));
    let deep = sona.deep().unwrap();
    assert_eq!((deep.terms().len(), sona.counters().commits, sona.counters().rollbacks), (2, 1, 0));
    // What the model came with still protects what it protected, from where it was; the new anchor is here.
    assert!(deep.terms()[0] == anchor && deep.terms()[1].anchor != anchor.anchor && deep.penalty() > 0.0);
    assert!(deep.terms().iter().all(|term| term.importance.iter().any(|value| *value > 0.0)));
    let parameters: Vec<f32> = deep.adapter().values().flat_map(|change| [&change.a[..], &change.b].concat()).collect();
    assert!(deep.terms()[1].anchor == parameters);
}

#[test]
fn a_rejected_transaction_leaves_every_byte_as_it_was() {
    let mut bench = Bench::new();
    // No general text may lose so much as nothing, and it would have to gain.
    let mut sona = three(&mut bench, settings(-0.9));
    stream(&mut bench, &mut sona, 0..6);
    let pair = bench.requests("kjv.test", 15).remove(14);
    let (before, served) = (sona.learned(), logits(&mut bench, &sona, &pair));
    for rejected in 1..=2 {
        let Transaction { account, compared_bytes, .. } = sona.consolidate(bench.engine.as_mut()).unwrap().unwrap();
        assert_eq!(account.decision, Decision::Rejected);
        assert!(compared_bytes == before.len() && compared_bytes > 100_000);
        assert!(sona.learned() == before && logits(&mut bench, &sona, &pair) == served);
        assert_eq!((sona.counters().commits, sona.counters().rollbacks), (0, rejected));
    }
    stream(&mut bench, &mut sona, 6..7);
    assert!(sona.learned() != before);
}

/// Puts other tokens in the place of an answer's.
fn spoil(answer: &mut [u32]) {
    answer.iter_mut().for_each(|token| *token = *token * 7919 % 4096);
}

fn spoil_kept(of: &mut Reservoir) {
    let mut kept = of.kept().to_vec();
    kept.iter_mut().for_each(|one| spoil(&mut one.answer));
    *of = Reservoir::of(of.capacity(), of.offered(), kept);
}

/// A verdict by what the candidate was chosen by would be in its favour.
#[test]
fn what_judges_a_candidate_has_no_part_in_choosing_it() {
    let mut bench = Bench::new();
    // General text may lose half of its loss, and what is spoiled loses more.
    let mut sona = three(&mut bench, settings(0.5));
    stream(&mut bench, &mut sona, 0..8);
    let state = sona.save(bench.engine.as_mut()).unwrap();
    let Transaction { verdict: plain, share, .. } = sona.consolidate(bench.engine.as_mut()).unwrap().unwrap();
    let mut verdict = |spoil: fn(&mut Sona)| {
        let mut sona = three(&mut bench, settings(0.5));
        sona.resume(bench.engine.as_mut(), &state).unwrap();
        spoil(&mut sona);
        let Transaction { verdict, share, .. } = sona.consolidate(bench.engine.as_mut()).unwrap().unwrap();
        (verdict, share)
    };
    let (judged, chosen) = verdict(|sona| {
        spoil_kept(sona.memory.jury.as_mut().unwrap());
        sona.general.judges.iter_mut().for_each(|(_, answer)| spoil(answer));
    });
    assert!(chosen.to_bits() == share.to_bits() && share > 0.25, "{chosen}, {share}");
    assert!(judged.recent > plain.recent && judged.recent_before > plain.recent_before);
    assert!(judged.general_static > 1.5 * plain.general_static && judged.general > 1.5 * plain.general, "{judged:?}");
    let (judged, _) = verdict(|sona| {
        spoil_kept(&mut sona.memory.held_out);
        sona.general.guard.iter_mut().for_each(|(_, answer)| spoil(answer));
    });
    assert_eq!(judged.recent_before.to_bits(), plain.recent_before.to_bits());
    assert_eq!(judged.general_static.to_bits(), plain.general_static.to_bits());
}

/// A penalty whose anchor or importances are missing would let both go as far.
#[test]
fn what_mattered_holds_back() {
    let mut bench = Bench::new();
    let mut far = |lambda: f64| {
        let mut sona = three(&mut bench, DeepSettings { lambda, ..settings(10.0) });
        stream(&mut bench, &mut sona, 0..4);
        let mut deep = sona.deep.take().unwrap();
        let kept: Vec<Vec<u32>> =
            sona.memory().replayed().kept().iter().map(|one| [one.prompt.as_slice(), &one.answer].concat()).collect();
        let kept: Vec<_> = kept.iter().map(|tokens| crate::engine::Scored { tokens, prompt: PROMPT }).collect();
        deep.train(&kept, &[], &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        deep.settings.lambda = 1.0;
        deep.penalty()
    };
    let (free, held) = (far(0.0), far(1.0e4));
    assert!(held > 0.0 && held < 0.2 * free, "{held:e} against {free:e}");
}

#[test]
fn a_state_goes_on_after_a_restart_as_if_there_had_been_none() {
    let mut bench = Bench::new();
    let run = |bench: &mut Bench, restarts: bool| {
        let mut sona = three(bench, settings(10.0));
        let mut losses = stream(bench, &mut sona, 0..4);
        sona.consolidate(bench.engine.as_mut()).unwrap();
        losses.extend(stream(bench, &mut sona, 4..5));
        if restarts {
            // In the middle of a background step, which is ended.
            sona.slice(bench.engine.as_mut()).unwrap();
            let state = sona.save(bench.engine.as_mut()).unwrap();
            sona = three(bench, settings(10.0));
            sona.resume(bench.engine.as_mut(), &state).unwrap();
            assert!(sona.save(bench.engine.as_mut()).unwrap() == state);
        } else {
            sona.step(bench.engine.as_mut()).unwrap();
        }
        losses.extend(stream(bench, &mut sona, 5..8));
        sona.consolidate(bench.engine.as_mut()).unwrap();
        (losses, sona.counters(), sona.save(bench.engine.as_mut()).unwrap())
    };
    let (losses, counters, state) = run(&mut bench, false);
    let again = run(&mut bench, true);
    assert_eq!((again.0, again.1), (losses, counters));
    assert!(again.2 == state, "the states differ");
}

#[test]
fn a_damaged_state_is_refused() {
    let mut bench = Bench::new();
    let mut sona = three(&mut bench, settings(10.0));
    stream(&mut bench, &mut sona, 0..4);
    let state = sona.save(bench.engine.as_mut()).unwrap();
    let mut refused = |bytes: &[u8]| {
        let mut fresh = three(&mut bench, settings(10.0));
        assert!(matches!(fresh.resume(bench.engine.as_mut(), bytes), Err(SonaError::Stored(_))));
    };
    refused(&[]);
    refused(&state[..state.len() - 1]);
    let mut flipped = state.clone();
    flipped[state.len() / 2] ^= 1;
    refused(&flipped);
    // With a checksum that is right, too.
    for (at, content) in [(0, 8), (3, 200), (state.len() - 40, 20)] {
        let mut wrong = state[..state.len() - 32].to_vec();
        wrong.splice(at..(at + content).min(wrong.len()), vec![0xff; 3]);
        let checksum = blake3::hash(&wrong);
        wrong.extend(checksum.as_bytes());
        refused(&wrong);
    }
    let mut alone = bench.sona(Settings::default());
    assert!(matches!(alone.resume(bench.engine.as_mut(), &state), Err(SonaError::Stored(_))));
    // Of other settings, and of a model that reads the same text in another way: said so, and nothing is taken over.
    let mut other = three(&mut bench, DeepSettings { learning_rate: 1e-3, ..settings(10.0) });
    let problem = other.resume(bench.engine.as_mut(), &state).unwrap_err().to_string();
    assert!(problem.contains("other settings"), "{problem}");
    bench.directions.values[3] += 1e-3;
    let mut other = three(&mut bench, settings(10.0));
    let untouched = other.learned();
    let problem = other.resume(bench.engine.as_mut(), &state).unwrap_err().to_string();
    assert!(problem.contains("another model") && other.learned() == untouched, "{problem}");
}

#[test]
fn a_transaction_is_due_after_requests_or_a_pause() {
    let when = When { every_requests: 3, idle: Some(Duration::from_secs(2)) };
    let [now, later] = [0, 2].map(Duration::from_secs);
    assert!(!when.is_due(2, now) && when.is_due(3, now) && when.is_due(1, later));
    // Nothing is new in a pause after a pause.
    assert!(!when.is_due(0, later));
    assert!(!When { idle: None, ..when }.is_due(2, Duration::from_secs(1_000_000)));
}
