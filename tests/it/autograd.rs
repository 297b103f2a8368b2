//! candle's gradients are those of our kernels, on the processor here; on a GPU where there is one.
use ruvlab::{
    adapt::optim::global_norm,
    engine::{
        self, Adapter, Autograd, Device, EngineKind, Gradients, Labels, LowRank, Magnitudes, Noted, Scored, Target,
        Tier, Trainable, Trainee, TraineeSettings,
    },
    model::{
        source::locate::{Fetch, Locator},
        weights::Weights,
    },
    plan::{self, PlanError},
};
use serde_json::json;

use crate::training::{MODELS, adapter, moved, tokens, weights};

fn devices() -> impl Iterator<Item = Device> {
    [Device::Cpu, Device::Cuda].into_iter().filter(|device| device.check().is_ok())
}

fn found(trainee: &dyn Trainable, sequences: &[Scored<'_>], labels: Labels<'_>) -> (f64, Gradients) {
    let mut gradients = Gradients::new();
    let loss = trainee.accumulate_of(sequences, labels, 0.5, &mut gradients).unwrap();
    (loss, gradients)
}

/// Returns the norm of the difference of two gradients to that of the second.
fn apart(found: &Gradients, right: &Gradients) -> f64 {
    assert_eq!(found.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let flat = |gradients: &Gradients| gradients.values().flat_map(|(a, b)| [a.clone(), b.clone()]).collect::<Vec<_>>();
    let (found, right) = (flat(found).concat(), flat(right).concat());
    let difference: Vec<f32> = found.iter().zip(&right).map(|(a, b)| a - b).collect();
    global_norm([difference.as_slice()]) / global_norm([right.as_slice()])
}

#[test]
fn losses_gradients_and_flows_are_those_of_our_kernels() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = [Scored { tokens: &long, prompt: 0 }, Scored { tokens: &short, prompt: 7 }];
    let pico = Weights::open("builtin:pico").unwrap();
    for weights in MODELS.iter().map(|name| weights(name)).chain([pico]) {
        let adapter = adapter(&weights, &Target::ALL, 3, 0.05);
        let held = TraineeSettings { widen: true, recompute: false };
        let mut kernels = Trainee::load(&weights, &adapter, held).unwrap();
        let (loss, gradients) = found(&kernels, &sequences, Labels::Data);
        let kept = kernels.top_logits(&sequences, 5).unwrap();
        let (likely, flows) = {
            kernels.note_flows(Some(Noted::Product));
            found(&kernels, &sequences, Labels::Data);
            (kernels.log_likelihoods(&sequences, &[5, 9]).unwrap(), kernels.take_flows().unwrap())
        };
        let moved = moved(&adapter, &gradients, 1.0e-3);
        for device in devices() {
            for held in [held, TraineeSettings { widen: false, recompute: true }] {
                let name = format!("{} {}", weights.spec().architecture, device.name());
                let mut autograd = Autograd::load(&weights, &adapter, held, device).unwrap();
                let (own_loss, own) = found(&autograd, &sequences, Labels::Data);
                assert!((own_loss - loss).abs() <= 1.0e-5 * loss, "{name}: {own_loss} for {loss}");
                assert!((autograd.loss(&sequences).unwrap() - loss).abs() <= 1.0e-5 * loss);
                assert!(apart(&own, &gradients) <= 1.0e-4, "{name}: {}", apart(&own, &gradients));
                for (own, right) in autograd.log_likelihoods(&sequences, &[5, 9]).unwrap().iter().zip(&likely) {
                    assert!((own - right).abs() <= 1.0e-4, "{name}: {own} for {right}");
                }
                autograd.note_flows(Some(Noted::Product));
                found(&autograd, &sequences, Labels::Data);
                let noted = autograd.take_flows().unwrap();
                assert_eq!(noted.len(), flows.len());
                for (place, right) in &flows {
                    let own = &noted[place];
                    assert_eq!(own.rows, right.rows, "{name} {place}");
                    for (own, right) in
                        [(&own.inputs, &right.inputs), (&own.outputs, &right.outputs), (&own.product, &right.product)]
                    {
                        let difference: Vec<f32> = own.iter().zip(right).map(|(a, b)| a - b).collect();
                        let (far, norm) = (global_norm([difference.as_slice()]), global_norm([right.as_slice()]));
                        assert!(own.len() == right.len() && far <= 1.0e-3 * norm, "{name} {place}: {far} of {norm}");
                    }
                }
                // Other values, and labels of other kinds.
                let mut ours = Trainee::load(&weights, &moved, held).unwrap();
                for (place, change) in &moved {
                    autograd.set(*place, &change.a, &change.b).unwrap();
                    ours.set(*place, &change.a, &change.b).unwrap();
                }
                let (right_loss, right) = found(&ours, &sequences, Labels::Kept(&kept));
                let (own_loss, own) = found(&autograd, &sequences, Labels::Kept(&kept));
                assert!((own_loss - right_loss).abs() <= 1.0e-3 * right_loss, "{name}: {own_loss} for {right_loss}");
                assert!(apart(&own, &right) <= 1.0e-2, "{name}: {}", apart(&own, &right));
                let drawn = |seed: u64| found(&autograd, &sequences, Labels::Drawn { seed });
                assert!(apart(&drawn(3).1, &found(&ours, &sequences, Labels::Drawn { seed: 3 }).1) <= 1.0e-3);
                assert_ne!(drawn(3).0.to_bits(), drawn(4).0.to_bits());
            }
        }
    }
}

/// Magnitudes, their gradients and what comes of other values: after each `set`, norms are renewed.
#[test]
fn decomposed_changes_learn_as_on_our_kernels() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = [Scored { tokens: &long, prompt: 0 }, Scored { tokens: &short, prompt: 7 }];
    let near = |own: &[f32], right: &[f32]| {
        let difference: Vec<f32> = own.iter().zip(right).map(|(a, b)| a - b).collect();
        assert_eq!(own.len(), right.len());
        global_norm([difference.as_slice()]) <= 1.0e-4 * global_norm([right])
    };
    let differentiate = |trainee: &dyn Trainable| {
        let (mut gradients, mut magnitudes) = (Gradients::new(), Magnitudes::new());
        let loss = trainee.accumulate_all(&sequences, Labels::Data, 0.5, &mut gradients, &mut magnitudes).unwrap();
        (loss, gradients, magnitudes)
    };
    for name in MODELS {
        let weights = weights(name);
        let mut adapter = adapter(&weights, &Target::ALL, 3, 0.05);
        let held = TraineeSettings { widen: true, recompute: false };
        let mut kernels = Trainee::load(&weights, &adapter, held).unwrap();
        let norms = kernels.decompose().unwrap();
        for (place, norms) in &norms {
            let magnitude = norms.iter().enumerate().map(|(at, norm)| norm * (1.0 + 0.2 * (at as f32).sin()));
            adapter.get_mut(place).unwrap().magnitude = Some(magnitude.collect());
        }
        let (plain, ..) = differentiate(&kernels);
        adapter.iter().for_each(|(place, change)| kernels.set_all(*place, change).unwrap());
        let (loss, gradients, of_magnitudes) = differentiate(&kernels);
        assert!((loss - plain).abs() > 1.0e-3 * plain, "{name}: {loss} and {plain}");
        let moved = moved(&adapter, &gradients, 1.0e-3);
        moved.iter().for_each(|(place, change)| kernels.set_all(*place, change).unwrap());
        let (moved_loss, ..) = differentiate(&kernels);
        for device in devices() {
            for recompute in [false, true] {
                let held = TraineeSettings { widen: !recompute, recompute };
                let name = format!("{name} {}", device.name());
                let mut begun = Autograd::load(&weights, &without_magnitudes(&adapter), held, device).unwrap();
                for (place, own) in begun.decompose().unwrap() {
                    assert!(near(&own, &norms[&place]), "{name} {place}");
                }
                assert!(begun.decompose().unwrap().is_empty(), "all are by now");
                let mut autograd = Autograd::load(&weights, &adapter, held, device).unwrap();
                let (own_loss, own, own_magnitudes) = differentiate(&autograd);
                assert!((own_loss - loss).abs() <= 1.0e-5 * loss, "{name}: {own_loss} for {loss}");
                assert!(apart(&own, &gradients) <= 1.0e-4, "{name}: {}", apart(&own, &gradients));
                assert_eq!(own_magnitudes.len(), of_magnitudes.len());
                for (place, right) in &of_magnitudes {
                    assert!(near(&own_magnitudes[place], right), "{name} {place}");
                }
                moved.iter().for_each(|(place, change)| autograd.set_all(*place, change).unwrap());
                let (own_loss, ..) = differentiate(&autograd);
                assert!((own_loss - moved_loss).abs() <= 1.0e-5 * moved_loss, "{name}: {own_loss} for {moved_loss}");
                let (place, change) = adapter.iter().next().unwrap();
                assert!(autograd.set_magnitude(*place, &change.magnitude.as_ref().unwrap()[1..]).is_err());
            }
        }
    }
}

fn without_magnitudes(adapter: &Adapter) -> Adapter {
    adapter.iter().map(|(place, change)| (*place, LowRank { magnitude: None, ..change.clone() })).collect()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let (long, short) = (tokens(75, 1), tokens(24, 2));
    let sequences = [Scored { tokens: &long, prompt: 0 }, Scored { tokens: &short, prompt: 7 }];
    for device in devices() {
        for name in MODELS {
            let weights = weights(name);
            let adapter = adapter(&weights, &Target::ALL, 3, 0.05);
            let load =
                |adapter: &Adapter| Autograd::load(&weights, adapter, TraineeSettings::default(), device).unwrap();
            let (_, gradients) = found(&load(&adapter), &sequences, Labels::Data);
            let parts = gradients.values().flat_map(|(a, b)| [a.as_slice(), b.as_slice()]);
            // Gradients are of half the loss.
            let norm = 2.0 * global_norm(parts);
            let slope = |step: f64| {
                let at = |step: f64| load(&moved(&adapter, &gradients, 2.0 * step / norm)).loss(&sequences).unwrap();
                (at(step) - at(-step)) / (2.0 * step)
            };
            let (wide, narrow) = (slope(0.02), slope(0.01));
            let slope = (4.0 * narrow - wide) / 3.0;
            assert!((slope - norm).abs() <= 2.0e-3 * norm, "{name}: {slope} for {norm}");
        }
    }
}

#[test]
fn kernel_sets_train_on_their_own_engines_and_wrong_values_are_refused() {
    let weights = Weights::open("builtin:pico").unwrap();
    let adapter = adapter(&weights, &[Target::Query], 2, 0.0);
    let ids = tokens(20, 4);
    let sequences = [Scored { tokens: &ids, prompt: 0 }];
    let load = |kind: EngineKind, device: Device| {
        engine::trainee(kind, device, &weights, &adapter, TraineeSettings::default(), 1.try_into().ok())
    };
    let mut autograd = load(EngineKind::Candle, Device::Cpu).unwrap();
    let kernels = load(EngineKind::Native(Tier::Scalar), Device::Cpu).unwrap();
    let (own, right) = (autograd.loss(&sequences).unwrap(), kernels.loss(&sequences).unwrap());
    assert!((own - right).abs() <= 1.0e-5 * right && own.to_bits() != right.to_bits(), "{own} {right}");
    let (place, change) = adapter.iter().next().unwrap();
    assert!(autograd.set(*place, &change.a[1..], &change.b).is_err());
    assert!(autograd.loss(&[Scored { tokens: &ids[..1], prompt: 0 }]).is_err());
    if !Device::Cuda.is_built() {
        let refused = load(EngineKind::Candle, Device::Cuda).err().unwrap().to_string();
        assert!(refused.contains("scripts/build-cuda"), "{refused}");
    }
}

#[test]
fn a_device_that_cannot_be_had_is_refused_when_a_run_is_planned() {
    let plan = |kernels: serde_json::Value| {
        let recipe = json!({"schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}, "kernels": kernels,
            "workloads": [{"decode": {}}]});
        plan::single(serde_json::from_value(recipe).unwrap(), &mut Locator::new(Fetch::Offline, |_| {}))
    };
    let plain = plan(json!({"set": "candle"})).unwrap();
    assert_eq!(plain.hash, plan(json!({"set": "candle", "device": "cpu"})).unwrap().hash);
    let Err(PlanError::Recipe(problems)) = plan(json!({"set": "scalar", "device": "cuda"})) else { panic!() };
    assert_eq!(problems[0].code, "unsupported-device");
    match plan(json!({"set": "candle", "device": "cuda"})) {
        Ok(cell) => assert!(Device::Cuda.check().is_ok() && cell.hash != plain.hash),
        Err(PlanError::Resource(problems)) => assert_eq!(problems[0].code, "device-unavailable"),
        Err(error) => panic!("{error:?}"),
    }
}
