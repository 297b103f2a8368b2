//! The paged cache inside the engine: nothing changes but what a policy is to change.
mod prefixes;
mod recipes;
mod smollm2;
mod soak;

use std::collections::BTreeSet;

use ruvlab::{
    engine::{self, CacheType, Chunk, EngineError, LanguageModel, LogitRows, SequenceId, Settings},
    kv::{CacheTypes, Policy, Stage, Tier},
    model::weights::Weights,
};

use super::logits::{heldout, logits, mean_kl, native, pico};

/// Returns an engine of the fastest tier.
fn load(weights: &Weights, settings: &Settings) -> Box<dyn LanguageModel> {
    let settings = Settings { threads: settings.threads.or(2.try_into().ok()), ..settings.clone() };
    engine::load_with(native().last().unwrap(), weights, &settings).unwrap()
}

fn unlimited(weights: &Weights) -> Box<dyn LanguageModel> {
    load(weights, &Settings::default())
}

/// Returns the bytes of a page of 32 tokens in f16.
fn page_bytes(weights: &Weights) -> u64 {
    let spec = weights.spec();
    (2 * spec.layers * spec.kv_heads * spec.head_dim * 32 * 2) as u64
}

fn limited(weights: &Weights, pages: u64, policy: Option<Policy>) -> Box<dyn LanguageModel> {
    let cache_bytes = Some(pages * page_bytes(weights));
    load(weights, &Settings { cache_bytes, pressure: policy, ..Settings::default() })
}

fn policy(stages: &[Stage]) -> Policy {
    Policy { high_watermark: 1.0, low_watermark: 1.0, window: 64, ..Policy::of(stages.to_vec()) }
}

/// Returns a policy that keeps all but the last `window` tokens in 8 bits.
fn quantize(window: usize) -> Policy {
    let tier = |tokens, kind| Tier { tokens, types: CacheTypes { keys: kind, values: kind } };
    let tiers = vec![tier(Some(window), CacheType::F16), tier(None, CacheType::Q8_0)];
    Policy { window, tiers, ..policy(&[Stage::Quantize]) }
}

/// Returns the logits after the last of some tokens.
fn feed(engine: &mut dyn LanguageModel, sequence: SequenceId, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
    Ok(engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }])?.remove(0).values)
}

fn kinds(engine: &mut dyn LanguageModel) -> BTreeSet<&'static str> {
    engine.take_transitions().iter().map(|transition| transition.kind.name()).collect()
}

fn surprise(logits: &[f32], target: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    sum.ln() + f64::from(highest - logits[target as usize])
}

/// 64 tokens a page is how a contiguous cache lay in memory.
#[test]
fn pages_of_any_size_give_the_same_logits_bit_for_bit() {
    let weights = pico();
    let tokens = &heldout(&weights)[..170];
    for kind in native() {
        for (key_type, value_type) in [(CacheType::F16, CacheType::F16), (CacheType::Q8_0, CacheType::Q4_0)] {
            let found: Vec<_> = [64, 32, 16, 8]
                .into_iter()
                .map(|page_tokens| {
                    let settings =
                        Settings { page_tokens: Some(page_tokens), key_type, value_type, ..Settings::default() };
                    let mut engine = engine::load_with(kind, &weights, &settings).unwrap();
                    logits(engine.as_mut(), tokens, &[100, 1, 1, 60, 1, 7])
                })
                .collect();
            assert!(found.iter().all(|other| *other == found[0]), "{kind:?} {key_type:?}");
        }
    }
}

#[test]
fn a_fork_goes_its_own_way_and_does_not_disturb_its_parent() {
    let weights = pico();
    let tokens = &heldout(&weights)[..140];
    let mut engine = unlimited(&weights);
    let parent = engine.open().unwrap();
    feed(engine.as_mut(), parent, &tokens[..75]).unwrap();
    let child = engine.fork(parent).unwrap();
    let before = engine.cache_report().unwrap();
    assert_eq!((before.shared_pages, before.pages, before.tokens), (3, 3, 150));
    let other: Vec<u32> = tokens[75..100].iter().rev().copied().collect();
    let forked = feed(engine.as_mut(), child, &other).unwrap();
    let went_on = feed(engine.as_mut(), parent, &tokens[75..]).unwrap();
    engine.close(parent);
    let later = feed(engine.as_mut(), child, &tokens[..1]).unwrap();
    let alone = |parts: &[&[u32]]| {
        let mut engine = unlimited(&weights);
        let sequence = engine.open().unwrap();
        parts.iter().fold(Vec::new(), |_, part| feed(engine.as_mut(), sequence, part).unwrap())
    };
    assert!(went_on == alone(&[&tokens[..75], &tokens[75..]]), "the parent was disturbed");
    assert!(forked == alone(&[&tokens[..75], &other]), "the child is not its parent's");
    assert!(later == alone(&[&tokens[..75], &other, &tokens[..1]]), "closing the parent took the child's pages");
    engine.close(child);
    assert_eq!(engine.cache_report().unwrap().used_bytes, 0);
}

#[test]
fn a_full_cache_says_so_and_leaves_every_sequence_as_it_was() {
    let weights = pico();
    let tokens = &heldout(&weights)[..200];
    let mut engine = limited(&weights, 4, None);
    let (one, two) = (engine.open().unwrap(), engine.open().unwrap());
    feed(engine.as_mut(), one, &tokens[..60]).unwrap();
    feed(engine.as_mut(), two, &tokens[..30]).unwrap();
    let before = engine.cache_report().unwrap();
    assert_eq!(before.used_bytes, 3 * page_bytes(&weights), "predicted bytes are those measured");
    let error = feed(engine.as_mut(), one, &tokens[60..160]).unwrap_err();
    let EngineError::CacheFull { needed_bytes, free_bytes, .. } = &error else { panic!("{error}") };
    assert!(needed_bytes > free_bytes && error.to_string().contains("kv_cache.budget"), "{error}");
    let after = engine.cache_report().unwrap();
    assert_eq!((after.tokens, after.used_bytes), (before.tokens, before.used_bytes));
    let found = feed(engine.as_mut(), one, &tokens[60..64]).unwrap();
    let mut right = unlimited(&weights);
    let sequence = right.open().unwrap();
    feed(right.as_mut(), sequence, &tokens[..60]).unwrap();
    assert!(found == feed(right.as_mut(), sequence, &tokens[60..64]).unwrap());
}

#[test]
fn what_reject_admits_never_fails_and_what_it_refuses_changes_nothing() {
    let weights = pico();
    let tokens = &heldout(&weights)[..200];
    let mut engine = limited(&weights, 10, Some(policy(&[Stage::Reject])));
    let one = engine.admit(&tokens[..10], 150).unwrap().sequence;
    let two = engine.admit(&tokens[..10], 160).unwrap().sequence;
    let before = engine.cache_report().unwrap();
    assert!(matches!(engine.admit(&tokens[..10], 1), Err(EngineError::CacheFull { .. })));
    assert!(matches!(engine.fork(one), Err(EngineError::CacheFull { .. })));
    assert_eq!(engine.cache_report().unwrap(), before);
    for start in (0..150).step_by(30) {
        feed(engine.as_mut(), one, &tokens[start..start + 30]).unwrap();
        feed(engine.as_mut(), two, &tokens[start..start + 30]).unwrap();
    }
    assert!(
        matches!(feed(engine.as_mut(), one, &tokens[..1]), Err(EngineError::Cache(_))),
        "more than it was admitted for"
    );
    feed(engine.as_mut(), two, &tokens[150..160]).unwrap();
    engine.close(one);
    engine.admit(&tokens[..10], 150).unwrap();
    assert_eq!(kinds(engine.as_mut()), BTreeSet::from(["refused"]));
}

#[test]
fn spilled_sequences_come_back_bit_for_bit() {
    let weights = pico();
    let tokens = heldout(&weights);
    let mut engine = limited(&weights, 8, Some(policy(&[Stage::Spill])));
    let mut right = unlimited(&weights);
    let ids: Vec<_> = (0..4).map(|_| (engine.open().unwrap(), right.open().unwrap())).collect();
    for round in 0..4 {
        for (at, (ours, theirs)) in ids.iter().enumerate() {
            let part = &tokens[at * 200 + round * 30..][..30];
            assert!(feed(engine.as_mut(), *ours, part).unwrap() == feed(right.as_mut(), *theirs, part).unwrap());
        }
        // All of them at once do not fit, so they are computed in parts.
        let next = [tokens[round]];
        let batch = |engine: &mut dyn LanguageModel, id: fn(&(SequenceId, SequenceId)) -> SequenceId| {
            let chunk = |pair| Chunk { sequence: id(pair), tokens: &next, logits: LogitRows::Last };
            engine.step(&ids.iter().map(chunk).collect::<Vec<_>>()).unwrap()
        };
        assert!(batch(engine.as_mut(), |pair| pair.0) == batch(right.as_mut(), |pair| pair.1));
    }
    let report = engine.cache_report().unwrap();
    assert!(report.spilled_bytes > 0 && report.peak_bytes <= report.budget_bytes.unwrap(), "{report:?}");
    assert_eq!(kinds(engine.as_mut()), BTreeSet::from(["restored", "spilled"]));
    ids.iter().for_each(|(ours, _)| engine.close(*ours));
    assert_eq!(engine.cache_report().unwrap().spilled_bytes, 0);
}

#[test]
fn narrower_pages_cost_little_and_make_room() {
    let weights = pico();
    let tokens = &heldout(&weights)[..400];
    let sizes = [20; 20];
    let right = logits(unlimited(&weights).as_mut(), tokens, &sizes);
    let mut engine = limited(&weights, 10, Some(quantize(64)));
    let found = logits(engine.as_mut(), tokens, &sizes);
    let (kl, acts) = (mean_kl(&right, &found), kinds(engine.as_mut()));
    println!("13 pages in the room of 10: KL {kl:e}");
    assert_eq!(acts, BTreeSet::from(["narrowed"]));
    assert!(kl > 0.0 && kl <= 1e-3, "{kl:e}");
}

#[test]
fn an_evicting_cache_goes_on_beyond_its_context() {
    let weights = pico();
    let tokens = heldout(&weights);
    let settings = Settings {
        context_length: Some(192),
        cache_bytes: Some(12 * page_bytes(&weights)),
        pressure: Some(policy(&[Stage::Evict])),
        ..Settings::default()
    };
    let mut engine = load(&weights, &settings);
    let sequence = engine.open().unwrap();
    for piece in tokens[..1000].chunks(20) {
        let found = feed(engine.as_mut(), sequence, piece).unwrap();
        assert!(found.iter().all(|logit| logit.is_finite()));
        let report = engine.cache_report().unwrap();
        assert!(report.tokens <= 192 && report.used_bytes <= report.budget_bytes.unwrap(), "{report:?}");
    }
    assert_eq!(kinds(engine.as_mut()), BTreeSet::from(["evicted"]));
}

/// However much the budget holds, a step has to leave room for what is never evicted.
#[test]
fn a_prompt_longer_than_the_context_goes_through_an_evicting_cache() {
    let weights = pico();
    let tokens = &heldout(&weights)[..800];
    for (stage, kind) in [(Stage::Evict, "evicted"), (Stage::EvictLight, "evicted_light")] {
        let settings = Settings {
            context_length: Some(192),
            cache_bytes: Some(64 * page_bytes(&weights)),
            pressure: Some(policy(&[stage])),
            ..Settings::default()
        };
        let mut engine = load(&weights, &settings);
        let sequence = engine.open().unwrap();
        let found = feed(engine.as_mut(), sequence, tokens).unwrap();
        assert!(found.iter().all(|logit| logit.is_finite()));
        assert_eq!(kinds(engine.as_mut()), BTreeSet::from([kind]));
        assert!(engine.cache_report().unwrap().tokens <= 192);
    }
}

/// Both drop pages; `h2o` keeps those that attention went to, wherever they are.
#[test]
fn heavy_hitters_are_other_pages_than_the_newest() {
    let weights = pico();
    let tokens = &heldout(&weights)[..480];
    let sizes = [20; 24];
    let right = logits(unlimited(&weights).as_mut(), tokens, &sizes);
    let mut all = Vec::new();
    for (stage, kind) in [(Stage::Evict, "evicted"), (Stage::EvictLight, "evicted_light")] {
        let mut engine = limited(&weights, 10, Some(policy(&[stage])));
        let found = logits(engine.as_mut(), tokens, &sizes);
        assert_eq!(kinds(engine.as_mut()), BTreeSet::from([kind]));
        println!("{kind}: KL {:e}", mean_kl(&right, &found));
        all.push(found);
    }
    assert!(all[0][..200] == all[1][..200] && all[0][479] != all[1][479]);
    // What a page weighs does not depend on which thread weighed it.
    let settings = Settings {
        threads: 1.try_into().ok(),
        cache_bytes: Some(10 * page_bytes(&weights)),
        pressure: Some(policy(&[Stage::EvictLight])),
        ..Settings::default()
    };
    assert!(logits(load(&weights, &settings).as_mut(), tokens, &sizes) == all[1]);
}
