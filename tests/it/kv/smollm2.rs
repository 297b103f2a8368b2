//! What policies cost on a real model, SmolLM2-135M-Instruct.
use ruvlab::{
    clock::Stopwatch,
    engine::{Chunk, LanguageModel, LogitRows},
    kv::{Policy, Stage, TransitionKind},
    model::weights::Weights,
    plan::LaunchTask,
};

use super::{
    super::{
        launches::{launch_spec, run, samples},
        llama_cpp::smollm2,
        logits::{heldout, logits, mean_kl},
    },
    feed, kinds, limited, page_bytes, policy, quantize, surprise, unlimited,
};

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
    // The fastest of three turns: the file is where others write, too.
    let mut returns = Vec::new();
    let mut found = Vec::new();
    for turn in 1024..1027 {
        let clock = Stopwatch::start();
        found = feed(engine.as_mut(), one, &tokens[turn..=turn]).unwrap();
        let acts = engine.take_transitions();
        let restored =
            acts.iter().filter(|act| act.kind == TransitionKind::Restored).map(|act| act.pages).sum::<usize>();
        returns.push((clock.elapsed(), restored));
        feed(engine.as_mut(), two, &tokens[..1]).unwrap();
        engine.take_transitions();
    }
    let (returning, _) = returns.iter().copied().min().unwrap();
    println!("1024 tokens: computed in {computing:?}; back, with pages, and a token more in {returns:?}");
    assert!(returns.iter().all(|(_, restored)| *restored >= 28), "{returns:?}");
    assert!(returning < computing / 3, "{returning:?} against {computing:?}");
    let mut right = unlimited(&weights);
    let sequence = right.open().unwrap();
    // In the same pieces: a quarter of the budget.
    tokens[..1024].chunks(288).for_each(|piece| drop(feed(right.as_mut(), sequence, piece).unwrap()));
    let right: Vec<_> =
        (1024..1027).map(|turn| feed(right.as_mut(), sequence, &tokens[turn..=turn]).unwrap()).collect();
    assert!(found == right[2]);
}

/// What is evicted cannot be found; what is narrowed or in the file can.
#[test]
fn smollm2_finds_facts_unless_they_were_evicted() {
    let Some(path) = smollm2() else { return };
    let budget = format!("{}B", 22 * page_bytes(&Weights::open(&path).unwrap()));
    let workload = serde_json::json!([{"kv_pressure": {
        "requests": 2, "concurrency": 4, "prompt_tokens": 16, "output_tokens": 8, "n_ctx": 256, "needles": 16,
    }}]);
    let mut found = Vec::new();
    for pressure in ["spill", "quantize", "evict"] {
        let mut spec = launch_spec(LaunchTask::Quality, &path, "auto", "as_is", &workload);
        let cache = serde_json::json!({"budget": budget, "pressure": {
            "policy": pressure, "window": 64, "high_watermark": 0.95,
        }});
        spec.cell.recipe.kv_cache = serde_json::from_value(cache).unwrap();
        let events = run(&spec).unwrap();
        let value = |metric: &str| samples(&events, metric)[0].value;
        let (accuracy, reference) = (value("needle_accuracy"), value("reference_needle_accuracy"));
        println!("{pressure}: finds {accuracy}, without limit {reference}, nll {:.4}", value("needle_nll"));
        assert!(reference >= 0.75, "{reference}");
        assert_eq!(samples(&events, "needle_nll_at_position").len(), 16);
        found.push((accuracy - reference, value("needle_nll")));
    }
    assert!(found[0].0.abs() <= 0.0 && found[1].0 >= -0.0625 && found[2].0 <= -0.25, "{found:?}");
    assert!((found[1].1 - found[0].1).abs() <= 0.05 && found[2].1 >= found[0].1 + 0.5, "{found:?}");
}
