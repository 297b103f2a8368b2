//! Adapters learn what they should: gradients against finite differences through whole models, and a
//! run of PEFT's, step by step.
use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::{
    adapt::{
        optim::{AdamW, Moments, global_norm},
        schedule::{Schedule, Shape},
        train::{Rule, Settings, Trainer},
    },
    clock::Stopwatch,
    engine::{
        self, Adapter, Chunk, Dropout, EngineKind, Gradients, Labels, LogitRows, LowRank, Magnitudes, Place, Scored,
        Target, Trainable, Trainee, TraineeSettings,
    },
    model::{families, weights::Weights},
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
        (place, LowRank { rank, a, b, scale: 2.0, magnitude: None })
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

/// Runs a check with a random adapter of every target of these models; the first argument names both.
fn with_every_target(models: &[&str], mut check: impl FnMut(&str, &Weights, &Adapter)) {
    let mut checked = 0;
    for name in models {
        let weights = weights(name);
        for target in Target::ALL {
            check(&format!("{name} {target:?}"), &weights, &adapter(&weights, &[target], 3, 0.05));
            checked += 1;
        }
    }
    assert!(checked >= 16 && checked == 8 * models.len(), "{checked}");
}

/// Checks that a loss climbs along its gradient by the gradient's norm: `at` is the loss after a step of so many
/// gradients, and `rounding` what that of a loss of some hundred nats in f32 shows of small ones.
fn assert_climbs(what: &str, norm: f64, rounding: f64, mut at: impl FnMut(f64) -> f64) {
    assert!(norm > 0.0, "{what}: no gradient");
    let mut slope = |step: f64| (at(step / norm) - at(-step / norm)) / (2.0 * step);
    let (wide, narrow) = (slope(0.02), slope(0.01));
    let slope = (4.0 * narrow - wide) / 3.0;
    assert!((slope - norm).abs() <= 1.0e-3 * norm + rounding, "{what}: {slope} for {norm}");
}

fn norm(gradients: &Gradients) -> f64 {
    global_norm(gradients.values().flat_map(|(a, b)| [a.as_slice(), b.as_slice()]))
}

#[test]
fn gradients_of_every_target_are_those_of_finite_differences() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = sequences(&long, &short);
    with_every_target(&MODELS, |name, weights, adapter| {
        let load = |adapter: &Adapter| Trainee::load(weights, adapter, TraineeSettings::default()).unwrap();
        let mut gradients = Gradients::new();
        let loss = load(adapter).accumulate(&sequences, 1.0, &mut gradients).unwrap();
        assert!((loss - load(adapter).loss(&sequences).unwrap()).abs() <= 1.0e-6 * loss);
        let norm = norm(&gradients);
        assert!(norm > 1.0e-2, "{name}: {norm}");
        let at = |step: f64| load(&moved(adapter, &gradients, step)).loss(&sequences).unwrap();
        assert_climbs(name, norm, 0.0, at);
    });
}

/// Decomposed changes: the norm of a row counts as a constant on the way back, so it is held while the
/// loss is differentiated.
#[test]
fn gradients_of_decomposed_changes_are_those_of_finite_differences() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = sequences(&long, &short);
    with_every_target(&MODELS, |name, weights, adapter| {
        let mut trainee = Trainee::load(weights, adapter, TraineeSettings::default()).unwrap();
        let plain = trainee.loss(&sequences).unwrap();
        let norms = trainee.decompose().unwrap();
        let begun = trainee.loss(&sequences).unwrap();
        assert!((begun - plain).abs() <= 1.0e-6 * plain, "norms that are there change nothing: {begun} for {plain}");
        let mut magnitudes = norms.clone();
        for (at, value) in magnitudes.values_mut().flatten().enumerate() {
            *value *= 1.0 + 0.2 * (at as f32).sin();
        }
        let set = |trainee: &mut Trainee, magnitudes: &Magnitudes| {
            magnitudes.iter().for_each(|(place, values)| trainee.set_magnitude(*place, values).unwrap());
        };
        set(&mut trainee, &magnitudes);
        let (mut gradients, mut of_magnitudes) = (Gradients::new(), Magnitudes::new());
        let loss = trainee.accumulate_all(&sequences, Labels::Data, 1.0, &mut gradients, &mut of_magnitudes).unwrap();
        assert!(loss != begun);
        // With respect to magnitudes alone.
        let own = global_norm(of_magnitudes.values().map(Vec::as_slice));
        assert_climbs(name, own, 1.0e-3, |step| {
            let along = |(place, values): (&Place, &Vec<f32>)| {
                let moved = values.iter().zip(&of_magnitudes[place]);
                (*place, moved.map(|(x, g)| (f64::from(*x) + step * f64::from(*g)) as f32).collect())
            };
            set(&mut trainee, &magnitudes.iter().map(along).collect());
            trainee.loss(&sequences).unwrap()
        });
        // With respect to A and B: magnitudes follow the norms, so that their ratio is held.
        assert_climbs(name, norm(&gradients), 1.0e-3, |step| {
            let moved = moved(adapter, &gradients, step);
            let mut trainee = Trainee::load(weights, &moved, TraineeSettings::default()).unwrap();
            let there = trainee.decompose().unwrap();
            let held = |(place, values): (&Place, &Vec<f32>)| {
                let ratios = magnitudes[place].iter().zip(&norms[place]).map(|(m, norm)| m / norm);
                (*place, values.iter().zip(ratios).map(|(norm, ratio)| norm * ratio).collect())
            };
            set(&mut trainee, &there.iter().map(held).collect());
            trainee.loss(&sequences).unwrap()
        });
    });
}

#[test]
fn gradients_under_dropout_are_those_of_finite_differences() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = sequences(&long, &short);
    with_every_target(&["qwen3", "phi3"], |name, weights, adapter| {
        let run = |adapter: &Adapter, draw: u64, recompute: bool| {
            let settings = TraineeSettings { recompute, ..TraineeSettings::default() };
            let mut trainee = Trainee::load(weights, adapter, settings).unwrap();
            trainee.set_dropout(Some(Dropout::new(0.2, &[5, draw]))).unwrap();
            let mut gradients = Gradients::new();
            (trainee.accumulate(&sequences, 1.0, &mut gradients).unwrap(), gradients)
        };
        let (loss, gradients) = run(adapter, 1, false);
        assert_eq!(run(adapter, 1, true), (loss, gradients.clone()));
        assert_ne!(run(adapter, 2, false).0, loss);
        // The mask stays as it is.
        assert_climbs(name, norm(&gradients), 0.0, |step| run(&moved(adapter, &gradients, step), 1, false).0);
    });
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

/// A loss that did not depend on the model would pass for one that learns.
#[test]
fn the_loss_is_of_the_models_own_weights() {
    let ids = tokens(40, 3);
    let sequences = [Scored { tokens: &ids, prompt: 0 }];
    let losses = ["mistral-window", "qwen2", "qwen3"].map(|name| {
        let weights = weights(name);
        // A change that takes half of a matrix away: rank as wide as the matrix, A the unit matrix.
        let halve = |place: Place| {
            let (out, width) = place.target.shape(weights.spec());
            let a = (0..width * width).map(|at| f32::from(u8::from(at / width == at % width))).collect();
            let name =
                format!("blk.{}.{}", place.layer, families::find(&weights.spec().architecture).unwrap().layer.down);
            let b = weights.tensor(&name).unwrap().dequantize(&candle_core::Device::Cpu).unwrap();
            let b = b.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(b.len(), out * width);
            (place, LowRank { rank: width, a, b, scale: -0.5, magnitude: None })
        };
        let places = Place::all(weights.spec(), &[Target::Down]);
        let halved: Adapter = places.into_iter().map(halve).collect();
        let loss = |adapter: &Adapter| {
            Trainee::load(&weights, adapter, TraineeSettings::default()).unwrap().loss(&sequences).unwrap()
        };
        (loss(&Adapter::new()), loss(&halved))
    });
    for (whole, halved) in losses {
        assert!((whole - halved).abs() > 1.0e-3 * whole, "{whole} and {halved}");
    }
    assert!(losses[0].0 != losses[1].0 && losses[1].0 != losses[2].0);
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

/// A change of queries and values as both comparisons begin with: A = 0.02 sin(0.1 k + 1), B = 0.
fn beginning(weights: &Weights, rank: usize, scale: f32) -> Adapter {
    let change = |place: Place| {
        let (out, width) = place.target.shape(weights.spec());
        let a = (0..rank * width).map(|k| (0.02 * (0.1 * k as f64 + 1.0).sin()) as f32).collect();
        (place, LowRank { rank, a, b: vec![0.0; out * rank], scale, magnitude: None })
    };
    Place::all(weights.spec(), &[Target::Query, Target::Value]).into_iter().map(change).collect()
}

/// A run of PEFT's and what is said of it: rank, what B A is multiplied by, whether magnitudes learn, and the
/// rate of B to that of A.
struct Twenty {
    losses: &'static str,
    rank: usize,
    scale: f32,
    decompose: bool,
    b_ratio: Option<f64>,
}

/// PEFT's own losses over 20 steps from the same start on two other sequences of 33 tokens:
/// `scripts/compare-peft --length 33 --batch 2 --exact-loss --golden`.
fn assert_twenty_steps_are_pefts(run: &Twenty) {
    let Some(path) = crate::llama_cpp::smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let ids: Vec<u32> = serde_json::from_str(include_str!("golden/peft/other_ids.json")).unwrap();
    let losses: Vec<f64> = serde_json::from_str(run.losses).unwrap();
    assert_eq!((ids.len(), losses.len()), (66, 20));
    let batches = [ids.chunks(33).map(|tokens| Scored { tokens, prompt: 0 }).collect::<Vec<_>>()];
    let schedule = Schedule { shape: Shape::Constant { warmup: 0 }, peak: 1.0e-3, total: 0 };
    let rule = Rule::AdamW(AdamW::default());
    let settings = Settings { schedule, rule, weight_decay: 0.0, max_grad_norm: None, b_ratio: run.b_ratio };
    let held = TraineeSettings { widen: true, recompute: false };
    let mut trainer = Trainer::new(&weights, beginning(&weights, run.rank, run.scale), settings, held).unwrap();
    if run.decompose {
        trainer.decompose().unwrap();
    }
    for (step, expected) in losses.iter().enumerate() {
        let loss = trainer.step(&batches).unwrap().loss;
        assert!((loss - expected).abs() <= 2.0e-5 * expected, "step {step}: loss {loss} for {expected}");
    }
}

/// r = 4 and alpha = 8.
const FOUR: Twenty = Twenty { losses: "", rank: 4, scale: 2.0, decompose: false, b_ratio: None };

#[test]
fn twenty_steps_of_dora_are_pefts() {
    let losses = include_str!("golden/peft/dora.json");
    assert_twenty_steps_are_pefts(&Twenty { losses, decompose: true, ..FOUR });
}

#[test]
fn twenty_steps_of_loraplus_are_pefts() {
    let losses = include_str!("golden/peft/loraplus.json");
    assert_twenty_steps_are_pefts(&Twenty { losses, b_ratio: Some(16.0), ..FOUR });
}

/// r = 1 with alpha = 2, and r = 16 with alpha = 32.
#[test]
fn twenty_steps_of_the_least_and_of_a_large_rank_are_pefts() {
    assert_twenty_steps_are_pefts(&Twenty { losses: include_str!("golden/peft/r1.json"), rank: 1, ..FOUR });
    assert_twenty_steps_are_pefts(&Twenty { losses: include_str!("golden/peft/r16.json"), rank: 16, ..FOUR });
}

/// r = 16 with alpha = 16, which is 4 times B A.
#[test]
fn twenty_steps_of_rslora_are_pefts() {
    let losses = include_str!("golden/peft/rslora.json");
    assert_twenty_steps_are_pefts(&Twenty { losses, rank: 16, scale: 4.0, ..FOUR });
}

#[test]
fn five_steps_are_pefts() {
    let Some(path) = crate::llama_cpp::smollm2() else { return };
    let weights = Weights::open(&path).unwrap();
    let ids: Vec<u32> = serde_json::from_str(include_str!("golden/peft_parity_ids.json")).unwrap();
    assert_eq!(ids.len(), 260);
    let sequences: Vec<Scored<'_>> = ids.chunks(65).map(|tokens| Scored { tokens, prompt: 0 }).collect();
    let mut adapter = beginning(&weights, 4, 2.0);
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
        let norm = norm(&gradients);
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
