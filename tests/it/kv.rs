//! The paged cache inside the engine: nothing changes but what a policy is to change.
use std::{collections::BTreeSet, env, fs};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::{
    clock::Stopwatch,
    engine::{self, CacheType, Chunk, EngineError, LanguageModel, LogitRows, SequenceId, Settings},
    event::Event,
    kv::{CacheTypes, Policy, Stage, Tier, TransitionKind},
    model::{
        source::locate::{Fetch, Locator},
        weights::Weights,
    },
    plan::{self, LaunchTask, PlanError},
};

use super::{
    launches::{launch_spec, run, samples},
    llama_cpp::smollm2,
    logits::{heldout, logits, mean_kl, native, pico},
};

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

/// Returns the mean negative log-likelihood of the tokens after the first `skip`, fed a page at once.
fn nll(engine: &mut dyn LanguageModel, tokens: &[u32], skip: usize) -> f64 {
    let sequence = engine.open().unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for (piece, start) in tokens[..tokens.len() - 1].chunks(32).zip((0..).step_by(32)) {
        let found = engine.step(&[Chunk { sequence, tokens: piece, logits: LogitRows::All }]).unwrap();
        for row in (0..piece.len()).filter(|row| start + row >= skip) {
            sum += surprise(found[0].row(row), tokens[start + row + 1]);
            count += 1;
        }
    }
    engine.close(sequence);
    sum / f64::from(count)
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
fn a_shared_prefix_is_not_computed_again_and_changes_nothing() {
    let weights = pico();
    let tokens = &heldout(&weights)[..110];
    let mut engine = load(&weights, &Settings { share_prefixes: true, ..Settings::default() });
    let mut last = Vec::new();
    for expected in [0, 96, 96] {
        let admitted = engine.admit(tokens, 120).unwrap();
        assert_eq!(admitted.cached, expected);
        last.push(feed(engine.as_mut(), admitted.sequence, &tokens[expected..]).unwrap());
        engine.close(admitted.sequence);
    }
    assert!(last.iter().all(|found| *found == last[0]));
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
}

/// One trace, one budget, and what each policy made of it.
#[test]
fn one_trace_gives_as_many_behaviours_as_policies() {
    let weights = pico();
    let workload = serde_json::json!([{"kv_pressure": {
        "requests": 5, "concurrency": 4, "prompt_tokens": 100, "output_tokens": 60, "n_ctx": 160,
    }}]);
    let mut seen = Vec::new();
    for pressure in ["quantize", "evict", "h2o", "reject", "spill", "none"] {
        let mut behaviour = Vec::new();
        for task in [LaunchTask::Speed, LaunchTask::Quality] {
            let mut spec = launch_spec(task, "builtin:pico", "auto", "as_is", &workload);
            let cache = &mut spec.cell.recipe.kv_cache;
            let given = serde_json::json!({
                "budget": format!("{}B", 16 * page_bytes(&weights)),
                "pressure": {"policy": pressure, "window": 32, "high_watermark": 0.9},
            });
            *cache = if pressure == "none" {
                serde_json::from_value(serde_json::json!({"budget": given["budget"]})).unwrap()
            } else {
                serde_json::from_value(given).unwrap()
            };
            let events = run(&spec).unwrap();
            let acts: BTreeSet<String> = events
                .iter()
                .filter_map(|event| match event {
                    Event::CacheTransition { transition, .. } => Some(transition.kind.clone()),
                    _ => None,
                })
                .collect();
            let value = |metric: &str| {
                samples(&events, metric).iter().find(|sample| sample.step.is_none()).map(|sample| sample.value)
            };
            if task == LaunchTask::Speed {
                assert!(value("kv_peak_bytes").unwrap() <= (16 * page_bytes(&weights)) as f64);
                assert!(value("trace_tok_s").unwrap() > 0.0 && value("kv_dropped").unwrap() <= 0.0);
                assert!(!samples(&events, "kv_used_bytes").is_empty());
                let waits = (value("kv_refused").unwrap() > 0.0, value("kv_preempted").unwrap() > 0.0);
                println!("{pressure}: {acts:?}, refused and preempted {waits:?}");
                behaviour.push(format!("{acts:?} {waits:?}"));
            } else {
                let kl = value("kl_mean").unwrap();
                println!("{pressure}: KL {kl:e}, perplexity {:.3}", value("perplexity").unwrap());
                assert_eq!(kl > 1e-9, ["quantize", "evict", "h2o"].contains(&pressure), "{pressure}: {kl:e}");
                assert!(!samples(&events, "kl_at_position").is_empty());
            }
        }
        assert!(!seen.contains(&behaviour), "{pressure} does as another does: {behaviour:?}");
        seen.push(behaviour);
    }
}

#[test]
fn smollm2_with_cold_keys_and_values_of_8_bits_predicts_as_well() {
    let Some(path) = smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let tokens = &heldout(&weights)[..1024];
    let sizes = [32; 32];
    let right = logits(unlimited(&weights).as_mut(), tokens, &sizes);
    let mut engine = limited(&weights, 22, Some(quantize(128)));
    let found = logits(engine.as_mut(), tokens, &sizes);
    let mean = |rows: &[Vec<f32>]| {
        rows.iter().zip(&tokens[1..]).map(|(row, target)| surprise(row, *target)).sum::<f64>() / 1023.0
    };
    let (kl, ratio) = (mean_kl(&right, &found), (mean(&found) - mean(&right)).exp());
    println!("q8_0 outside a window of 128: perplexity times {ratio:.6}, KL {kl:e}");
    assert!(kinds(engine.as_mut()).contains("narrowed"));
    assert!(ratio <= 1.001 && kl <= 2e-3, "{ratio} {kl:e}");
}

/// `StreamingLLM`'s claim (arXiv 2309.17453), and its negative control.
#[test]
fn smollm2_streams_with_sinks_and_breaks_without() {
    let Some(path) = smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    const WINDOW: usize = 256;
    let tokens = &heldout(&weights)[..4 * WINDOW + 1];
    let evicting = |sinks: usize| {
        // Sinks, their keys once more in f32, the window and the page that is being filled.
        let policy = Policy { sinks, window: 128, ..policy(&[Stage::Evict]) };
        let mut engine = limited(&weights, (WINDOW / 32 + 2) as u64, Some(policy));
        let mean = nll(engine.as_mut(), tokens, WINDOW);
        let evicted = engine
            .take_transitions()
            .iter()
            .filter(|act| act.kind == TransitionKind::Evicted)
            .map(|act| act.pages)
            .sum::<usize>();
        assert!(evicted >= 3 * WINDOW / 32 - 3, "{evicted} pages were evicted");
        mean
    };
    // Each page is scored after a window that is computed anew.
    let mut engine = unlimited(&weights);
    let mut sum = 0.0;
    for start in (WINDOW..4 * WINDOW).step_by(32) {
        let sequence = engine.open().unwrap();
        feed(engine.as_mut(), sequence, &tokens[start + 32 - WINDOW..start]).unwrap();
        let found =
            engine.step(&[Chunk { sequence, tokens: &tokens[start..start + 32], logits: LogitRows::All }]).unwrap();
        sum += (0..32).map(|row| surprise(found[0].row(row), tokens[start + row + 1])).sum::<f64>();
        engine.close(sequence);
    }
    let anew = sum / (3 * WINDOW) as f64;
    let (with, without) = (evicting(4), evicting(0));
    println!(
        "perplexity with the window anew {:.3}, with sinks {:.3}, without {:.3}",
        anew.exp(),
        with.exp(),
        without.exp()
    );
    assert!((with - anew).exp() <= 1.05, "sinks cost {:.4}", (with - anew).exp());
    assert!((without - anew).exp() >= 1.5, "without sinks it costs only {:.4}", (without - anew).exp());
}

#[test]
fn smollm2_comes_back_from_the_file_faster_than_it_is_computed() {
    let Some(path) = smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let tokens = heldout(&weights);
    let mut engine = limited(&weights, 36, Some(policy(&[Stage::Spill])));
    let (one, two) = (engine.open().unwrap(), engine.open().unwrap());
    let clock = Stopwatch::start();
    feed(engine.as_mut(), one, &tokens[..1024]).unwrap();
    let computing = clock.elapsed();
    feed(engine.as_mut(), two, &tokens[..1024]).unwrap();
    engine.take_transitions();
    let clock = Stopwatch::start();
    let found = feed(engine.as_mut(), one, &tokens[1024..1025]).unwrap();
    let returning = clock.elapsed();
    let restored: usize =
        engine.take_transitions().iter().filter(|act| act.kind == TransitionKind::Restored).map(|act| act.pages).sum();
    println!("1024 tokens: computed in {computing:?}, {restored} pages back and a token more in {returning:?}");
    assert!(restored >= 28 && returning < computing / 3, "{restored} pages, {returning:?} against {computing:?}");
    let mut right = unlimited(&weights);
    let sequence = right.open().unwrap();
    // In the same pieces: a quarter of the budget.
    tokens[..1024].chunks(288).for_each(|piece| drop(feed(right.as_mut(), sequence, piece).unwrap()));
    assert!(found == feed(right.as_mut(), sequence, &tokens[1024..1025]).unwrap());
}

/// Seconds of the soak: `RUVLAB_SOAK_SECONDS`, 5 where it does not say.
#[test]
fn sixteen_sequences_at_one_and_a_half_budgets_neither_stop_nor_grow() {
    let seconds: f64 = env::var("RUVLAB_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5.0);
    let weights = pico();
    let tokens = heldout(&weights);
    let types = |kind| CacheTypes { keys: kind, values: kind };
    let tiers = vec![
        Tier { tokens: Some(64), types: types(CacheType::F16) },
        Tier { tokens: None, types: types(CacheType::Q8_0) },
    ];
    // Sixteen sequences of up to 192 tokens are 96 pages.
    let mut engine = limited(
        &weights,
        64,
        Some(Policy {
            high_watermark: 0.9,
            low_watermark: 0.8,
            tiers,
            ..policy(&[Stage::Quantize, Stage::Spill, Stage::Evict])
        }),
    );
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut open: Vec<(SequenceId, usize)> = Vec::new();
    let (clock, mut steps, mut settled) = (Stopwatch::start(), 0u64, None);
    while clock.elapsed().as_secs_f64() < seconds {
        while open.len() < 16 {
            open.push((engine.open().unwrap(), 0));
        }
        let count = random.random_range(1..=16);
        let chosen: BTreeSet<usize> = (0..count).map(|_| random.random_range(0..16)).collect();
        let length = |done: usize, random: &mut ChaCha8Rng| if done == 0 { random.random_range(20..100) } else { 1 };
        let parts: Vec<_> = chosen.iter().map(|at| (open[*at].0, length(open[*at].1, &mut random))).collect();
        let chunks: Vec<_> = parts
            .iter()
            .map(|(sequence, length)| Chunk {
                sequence: *sequence,
                tokens: &tokens[..*length],
                logits: LogitRows::Last,
            })
            .collect();
        let found = engine.step(&chunks).unwrap();
        assert!(found.iter().all(|logits| logits.values.iter().all(|logit| logit.is_finite())));
        for (at, (_, length)) in chosen.iter().zip(&parts) {
            open[*at].1 += length;
        }
        open.retain(|(sequence, done)| {
            if *done >= 192 {
                engine.close(*sequence);
            }
            *done < 192
        });
        let report = engine.cache_report().unwrap();
        assert!(report.peak_bytes <= report.budget_bytes.unwrap(), "{report:?}");
        steps += 1;
        if steps % 50 == 0 {
            let resident = resident_bytes();
            let least = *settled.get_or_insert(resident);
            assert!(resident <= least + (128 << 20), "{resident} bytes are resident, {least} were");
        }
    }
    let acts = kinds(engine.as_mut());
    println!("{steps} steps in {seconds} s: {acts:?}, {:?}", engine.cache_report().unwrap());
    assert!(
        steps >= 50 && ["narrowed", "spilled", "restored"].iter().all(|kind| acts.contains(kind)),
        "{steps} {acts:?}"
    );
}

/// Returns the resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}

#[test]
fn a_cache_the_engine_or_the_model_should_not_have_is_a_planning_error() {
    let codes = |cache: serde_json::Value, set: &str| {
        let recipe = serde_json::json!({
            "schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}, "kernels": {"set": set},
            "kv_cache": cache, "workloads": [{"decode": {}}],
        });
        match plan::single(serde_json::from_value(recipe).unwrap(), &mut Locator::new(Fetch::Offline, |_| {})) {
            Ok(_) => Vec::new(),
            Err(PlanError::Recipe(problems) | PlanError::Resource(problems)) => {
                problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>()
            }
        }
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let narrow =
        r#"{"budget": "1MiB", "pressure": {"policy": "quantize", "tiers": [{"type_k": "q4_0", "type_v": "q4_0"}]}}"#;
    assert_eq!(codes(json(narrow), "auto"), ["narrow-keys"]);
    assert_eq!(codes(json(r#"{"type_k": "q4_0"}"#), "auto"), ["narrow-keys"]);
    assert_eq!(codes(json(r#"{"type_k": "q4_0", "force": true}"#), "auto"), [""; 0]);
    assert_eq!(codes(json(r#"{"type_k": "q8_0", "type_v": "q4_0"}"#), "auto"), [""; 0]);
    for cache in [r#"{"budget": "1MiB"}"#, r#"{"prefix_sharing": true}"#, r#"{"page_tokens": 16}"#] {
        assert_eq!(codes(json(cache), "candle"), ["cache"], "{cache}");
        assert_eq!(codes(json(cache), "auto"), [""; 0], "{cache}");
    }
}
