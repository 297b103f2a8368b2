use super::*;
use crate::{
    adapt::{ewc::Convention, optim::AdamW, schedule::Shape, train::fresh},
    engine::Target,
};

#[test]
fn the_matrix_tells_what_was_learned_and_what_forgotten() {
    let nll = vec![vec![4.0, 5.0, 6.0], vec![2.0, 4.5, 6.0], vec![3.0, 3.0, 5.5], vec![3.5, 3.5, 4.0]];
    let matrix = Matrix { nll };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() <= 1.0e-12, "{found} for {expected}");
    close(matrix.average(), 11.0 / 3.0);
    close(matrix.backward_transfer(), -1.0);
    close(matrix.forgetting(), 1.0);
    close(matrix.forward_transfer(), 0.5);
    close(matrix.gain(), 2.0);
    close(matrix.retained_gain(), 2.0 / 4.0);
    close(matrix.intransigence(&[1.0, 2.0, 3.0]), 1.0);
}

/// Returns sequences of 40 tokens from `first` on: tasks of other tokens take likelihood from each other.
fn sequences(first: u32) -> Vec<Vec<u32>> {
    (0..4).map(|row| (0..16).map(|at| first + (at * 7 + row * 3) % 40).collect()).collect()
}

fn trainer(weights: &Weights, protection: Protection) -> ContinualTrainer {
    let adapter = fresh(weights.spec(), &[Target::Query, Target::Down], 4, 2.0, 3);
    let updates = Updates {
        schedule: Schedule { shape: Shape::Constant { warmup: 0 }, peak: 5.0e-3, total: 0 },
        rule: Rule::AdamW(AdamW::default()),
        weight_decay: 0.0,
        max_grad_norm: Some(1.0),
        steps: 4,
        batch: 2,
    };
    let held = TraineeSettings { widen: true, recompute: false };
    ContinualTrainer::new(weights, &adapter, held, protection, updates, 1).unwrap()
}

const NOTHING: Protection = Protection {
    method: Method::Sequential,
    strength: Strength { lambda: 0.0, convention: Convention::Half },
    geometry: Geometry::Outer,
    source: Source::Sampled,
    batches: 2,
    normalized: true,
    replayed: 0,
};

/// Returns the losses of both tasks after both.
fn losses(weights: &Weights, protection: Protection) -> (f64, f64) {
    let mut trainer = trainer(weights, protection);
    for first in [5, 60] {
        let data = sequences(first);
        trainer.learn(&data, 4, 2).unwrap();
        let statistics = trainer.finish(&data, 2).unwrap();
        let measured = trainer.regularizer.needs() != Needs::Nothing;
        assert_eq!(statistics.is_some_and(|s| s.mean > 0.0 && s.most >= s.mean && s.least >= 0.0), measured);
    }
    let of = |first| trainer.score(&sequences(first)).unwrap().0;
    (of(5), of(60))
}

#[test]
fn every_method_keeps_more_of_the_first_task_than_nothing_does() {
    let weights = Weights::open("builtin:pico").unwrap();
    let (forgot, _) = losses(&weights, NOTHING);
    let strength = Strength { lambda: 1.0e4, convention: Convention::Half };
    for (method, geometry) in [
        (Method::Anchored, Geometry::Outer),
        (Method::Ewc, Geometry::Outer),
        (Method::Ewc, Geometry::Product),
        (Method::Ewc, Geometry::Factors),
        (Method::Online { decay: 0.9 }, Geometry::Outer),
        (Method::EwcPlusPlus { rate: 0.1 }, Geometry::Outer),
        (Method::RWalk { rate: 0.1, every: 2 }, Geometry::Product),
    ] {
        let (kept, _) = losses(&weights, Protection { method, strength, geometry, ..NOTHING });
        assert!(kept < forgot, "{method:?} in {geometry:?}: {kept}, {forgot} without");
    }
    let (replayed, _) = losses(&weights, Protection { replayed: 4, ..NOTHING });
    assert!(replayed < forgot, "{replayed}, {forgot} without");
    // No strength, no protection, bit for bit.
    let (weak, _) = losses(&weights, Protection { method: Method::Ewc, ..NOTHING });
    assert_eq!(weak.to_bits(), forgot.to_bits());
}

#[test]
fn what_passes_a_matrix_makes_the_gradients_of_its_factors() {
    let weights = Weights::open("builtin:pico").unwrap();
    let mut adapter = fresh(weights.spec(), &[Target::Value, Target::Down], 3, 2.0, 3);
    for (at, value) in adapter.values_mut().flat_map(|change| &mut change.b).enumerate() {
        *value = 0.02 * ((at % 13) as f32 - 6.0);
    }
    let mut trainee = Trainee::load(&weights, &adapter, TraineeSettings::default()).unwrap();
    let data = sequences(8);
    let run = |trainee: &Trainee, labels| {
        let mut gradients = Gradients::new();
        trainee.accumulate_of(&scored(&data), labels, 1.0, &mut gradients).unwrap();
        gradients
    };
    trainee.note_flows(Some(Noted::Product));
    let gradients = run(&trainee, Labels::Data);
    let flows = trainee.take_flows().unwrap();
    assert_eq!(flows.len(), adapter.len());
    for (place, flow) in &flows {
        let change = &adapter[place];
        let (outputs, inputs) = place.target.shape(weights.spec());
        assert_eq!(flow.rows, 60);
        // ∂/∂B = s G Aᵀ.
        for (o, found) in gradients[place].1.chunks(change.rank).enumerate().step_by(17) {
            for (k, found) in found.iter().enumerate() {
                let row = &flow.product[o * inputs..(o + 1) * inputs];
                let own: f32 = row.iter().zip(&change.a[k * inputs..]).map(|(g, a)| 2.0 * g * a).sum();
                assert!((own - found).abs() <= 1.0e-3 * (1.0 + found.abs()), "{place}: {own} for {found}");
            }
        }
        assert_eq!((flow.outputs.len(), flow.inputs.len()), (outputs, inputs));
        // |Σ δ xᵀ| is at most sqrt(Σ δ² Σ x²), for every element.
        for (at, product) in flow.product.iter().enumerate().step_by(97) {
            let most = (flow.outputs[at / inputs] * flow.inputs[at % inputs]).sqrt();
            assert!(product.abs() <= most * 1.001 + 1.0e-6, "{product} of {most}");
        }
    }
    // Drawn labels are others, the same for one seed.
    let drawn = run(&trainee, Labels::Drawn { seed: 5 });
    assert_ne!(drawn, gradients);
    assert_eq!(drawn, run(&trainee, Labels::Drawn { seed: 5 }));
    assert_ne!(drawn, run(&trainee, Labels::Drawn { seed: 6 }));
}
