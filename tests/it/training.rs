//! Adapters learn what they should: gradients against finite differences through whole models, and a
//! run of PEFT's, step by step.
use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::{
    adapt::optim::{AdamW, Moments, global_norm},
    clock::Stopwatch,
    engine::{
        self, Adapter, Chunk, EngineKind, Gradients, LogitRows, LowRank, Place, Scored, Target, Trainee,
        TraineeSettings,
    },
    model::weights::Weights,
};

/// Tiny models of transformers' own classes, see `scripts/golden-models`.
pub(crate) const MODELS: [&str; 5] = ["mistral-window", "qwen2", "qwen3", "gemma3", "phi3"];

pub(crate) fn weights(name: &str) -> Weights {
    Weights::open(&format!("tests/it/golden/{name}")).unwrap()
}

/// Returns a change of every place of these targets that can be trained, drawn at random.
pub(crate) fn adapter(weights: &Weights, targets: &[Target], rank: usize, b_width: f32) -> Adapter {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let mut draw = |count: usize, width: f32| -> Vec<f32> {
        (0..count).map(|_| width * random.random_range(-1.0f32..1.0)).collect()
    };
    let change = |place: Place| {
        let (out, width) = place.target.shape(weights.spec());
        let (a, b) = (draw(rank * width, 0.1), draw(out * rank, b_width));
        (place, LowRank { rank, a, b, scale: 2.0 })
    };
    Place::all(weights.spec(), targets).into_iter().map(change).collect()
}

pub(crate) fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(3..256)).collect()
}

/// Returns two sequences of different lengths, the second with a prompt that is not scored.
fn sequences<'a>(long: &'a [u32], short: &'a [u32]) -> [Scored<'a>; 2] {
    [Scored { tokens: long, prompt: 0 }, Scored { tokens: short, prompt: 7 }]
}

/// Returns the adapter with A and B moved along the gradients by `step`.
pub(crate) fn moved(adapter: &Adapter, gradients: &Gradients, step: f64) -> Adapter {
    let along = |values: &[f32], gradient: &[f32]| -> Vec<f32> {
        values.iter().zip(gradient).map(|(x, g)| (f64::from(*x) + step * f64::from(*g)) as f32).collect()
    };
    let change = |(place, change): (&Place, &LowRank)| {
        let (a, b) = &gradients[place];
        (*place, LowRank { a: along(&change.a, a), b: along(&change.b, b), ..change.clone() })
    };
    adapter.iter().map(change).collect()
}

#[test]
fn gradients_of_every_target_are_those_of_finite_differences() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = sequences(&long, &short);
    let mut checked = 0;
    for name in MODELS {
        let weights = weights(name);
        for target in Target::ALL {
            let adapter = adapter(&weights, &[target], 3, 0.05);
            let load = |adapter: &Adapter| Trainee::load(&weights, adapter, TraineeSettings::default()).unwrap();
            let mut gradients = Gradients::new();
            let loss = load(&adapter).accumulate(&sequences, 1.0, &mut gradients).unwrap();
            assert!((loss - load(&adapter).loss(&sequences).unwrap()).abs() <= 1.0e-6 * loss);
            let parts = |(a, b): &(Vec<f32>, Vec<f32>)| [a.clone(), b.clone()];
            let all: Vec<Vec<f32>> = gradients.values().flat_map(parts).collect();
            let norm = global_norm(all.iter().map(Vec::as_slice));
            assert!(norm > 1.0e-2, "{name} {target:?}: {norm}");
            // Along the gradient the loss climbs by its squared norm.
            let slope = |step: f64| {
                let at = |step: f64| load(&moved(&adapter, &gradients, step / norm)).loss(&sequences).unwrap();
                (at(step) - at(-step)) / (2.0 * step)
            };
            let (wide, narrow) = (slope(0.02), slope(0.01));
            let slope = (4.0 * narrow - wide) / 3.0;
            assert!((slope - norm).abs() <= 1.0e-3 * norm, "{name} {target:?}: {slope} for {norm}");
            checked += 1;
        }
    }
    assert_eq!(checked, 40);
}

#[test]
fn an_empty_change_changes_nothing_and_its_a_has_no_gradient_yet() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = sequences(&long, &short);
    for name in ["qwen3", "gemma3"] {
        let weights = weights(name);
        let adapter = adapter(&weights, &Target::ALL, 2, 0.0);
        let trainee = Trainee::load(&weights, &adapter, TraineeSettings::default()).unwrap();
        let mut gradients = Gradients::new();
        let loss = trainee.accumulate(&sequences, 1.0, &mut gradients).unwrap();
        assert_eq!(gradients.len(), 7 * weights.spec().layers + 1);
        for (a, b) in gradients.values() {
            assert!(a.iter().all(|a| *a == 0.0) && b.iter().any(|b| *b != 0.0));
        }
        let expected: f64 = sequences.iter().map(|sequence| likelihood(&weights, sequence)).sum();
        assert!((loss - expected).abs() <= 1.0e-5 * expected, "{name}: {loss} for {expected}");
        // Down the gradient it gets better, up it gets worse.
        let at = |step: f64| {
            let moved = moved(&adapter, &gradients, step);
            Trainee::load(&weights, &moved, TraineeSettings::default()).unwrap().loss(&sequences).unwrap()
        };
        assert!(at(-1.0e-4) < loss && loss < at(1.0e-4));
    }
}

/// Returns what the engine for inference says.
fn likelihood(weights: &Weights, sequence: &Scored<'_>) -> f64 {
    let mut engine = engine::load(EngineKind::Candle, weights, None).unwrap();
    let id = engine.open().unwrap();
    let tokens = &sequence.tokens[..sequence.tokens.len() - 1];
    let logits = engine.step(&[Chunk { sequence: id, tokens, logits: LogitRows::All }]).unwrap().remove(0);
    let scored = sequence.tokens.iter().enumerate().skip(sequence.prompt.max(1));
    let nll = |(at, token): (usize, &u32)| {
        let row = logits.row(at - 1);
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        sum.ln() - f64::from(row[*token as usize])
    };
    scored.map(nll).sum()
}

#[test]
fn how_a_model_is_held_changes_no_bit() {
    let weights = Weights::open("builtin:pico").unwrap();
    let adapter = adapter(&weights, &Target::ALL, 2, 0.01);
    let ids = tokens(33, 3);
    let sequences = [Scored { tokens: &ids, prompt: 0 }, Scored { tokens: &ids[3..], prompt: 0 }];
    let run = |widen: bool, recompute: bool| {
        let trainee = Trainee::load(&weights, &adapter, TraineeSettings { widen, recompute }).unwrap();
        let mut gradients = Gradients::new();
        let loss = trainee.accumulate(&sequences, 0.5, &mut gradients).unwrap();
        (loss.to_bits(), gradients)
    };
    let plain = run(false, false);
    assert_eq!(plain, run(false, false));
    assert_eq!(plain, run(true, false));
    assert_eq!(plain, run(false, true));
}

#[test]
fn wrong_shapes_are_refused() {
    let refuse = |weights: &Weights, adapter: &Adapter| {
        Trainee::load(weights, adapter, TraineeSettings::default()).err().unwrap().to_string()
    };
    let qwen = weights("qwen3");
    let mut adapter = adapter(&qwen, &[Target::Down], 2, 0.0);
    adapter.values_mut().next().unwrap().a.pop();
    assert!(refuse(&qwen, &adapter).contains("(is it an adapter of another model?)"));
}

/// Of PEFT 0.21.2 on torch 2.15: r = 4, alpha = 8 on q and v, `AdamW` at 1e-3 without decay, the mean over
/// 4 sequences of 65 tokens.
const LOSSES: [f64; 5] = [2.488_038, 2.453_820, 2.404_722, 2.339_972, 2.261_578];
const NORMS: [f64; 5] = [0.302_832, 0.337_215, 0.458_916, 0.578_475, 0.672_641];

#[test]
fn five_steps_are_pefts() {
    let Some(path) = crate::llama_cpp::smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let ids: Vec<u32> = serde_json::from_str(include_str!("golden/peft_parity_ids.json")).unwrap();
    assert_eq!(ids.len(), 260);
    let sequences: Vec<Scored<'_>> = ids.chunks(65).map(|tokens| Scored { tokens, prompt: 0 }).collect();
    let change = |place: Place| {
        let (out, width) = place.target.shape(weights.spec());
        let a = (0..4 * width).map(|k| (0.02 * (0.1 * k as f64 + 1.0).sin()) as f32).collect();
        (place, LowRank { rank: 4, a, b: vec![0.0; out * 4], scale: 2.0 })
    };
    let places = Place::all(weights.spec(), &[Target::Query, Target::Value]);
    let mut adapter: Adapter = places.into_iter().map(change).collect();
    let settings = TraineeSettings { widen: true, recompute: false };
    let mut trainee = Trainee::load(&weights, &adapter, settings).unwrap();
    let new = |values: &[f32]| Moments::<f32>::new(values.len());
    let mut moments: BTreeMap<Place, _> =
        adapter.iter().map(|(place, change)| (*place, (new(&change.a), new(&change.b)))).collect();
    for (t, (expected, expected_norm)) in (1..).zip(LOSSES.iter().zip(NORMS)) {
        let mut gradients = Gradients::new();
        let began = Stopwatch::start();
        let loss = trainee.accumulate(&sequences, 1.0 / 256.0, &mut gradients).unwrap() / 256.0;
        println!("step {t}: loss {loss:.6}, {:.3} s", began.elapsed().as_secs_f64());
        let norm = global_norm(gradients.values().flat_map(|(a, b)| [a.as_slice(), b.as_slice()]));
        assert!((loss - expected).abs() <= 1.0e-4 * expected, "step {t}: loss {loss} for {expected}");
        assert!((norm - expected_norm).abs() <= 1.0e-3 * expected_norm, "step {t}: norm {norm} for {expected_norm}");
        for (place, change) in &mut adapter {
            let ((a, b), (a_grad, b_grad)) = (moments.get_mut(place).unwrap(), &gradients[place]);
            AdamW::default().step(t, (1.0e-3, 0.0), &mut change.a, a_grad, a);
            AdamW::default().step(t, (1.0e-3, 0.0), &mut change.b, b_grad, b);
            trainee.set(*place, &change.a, &change.b).unwrap();
        }
    }
}
