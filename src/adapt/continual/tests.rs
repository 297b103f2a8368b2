use super::*;
use crate::{
    adapt::{
        data::Example,
        ewc::{Convention, Method, Needs, Strength},
        optim::AdamW,
        schedule::{Schedule, Shape},
        train::{Rule, fresh},
    },
    engine::{Gradients, Labels, Noted, Scored, Target, Trainee, TraineeSettings},
    model::weights::Weights,
};

/// Returns sequences of 40 tokens from `first` on: tasks of other tokens take likelihood from each other.
fn sequences(first: u32) -> Vec<Example> {
    let tokens = |row: u32| (0..16).map(|at| first + (at * 7 + row * 3) % 40).collect();
    (0..4).map(|row| Example { tokens: tokens(row), prompt: 0 }).collect()
}

fn scored(examples: &[Example]) -> Vec<Scored<'_>> {
    examples.iter().map(Example::scored).collect()
}

fn trainer(weights: &Weights, protection: Protection) -> ContinualTrainer {
    let mut adapter = fresh(weights.spec(), &[Target::Query, Target::Down], 4, 2.0, 3);
    if let Some(Orthogonality { tasks, .. }) = protection.orthogonality {
        adapter = widened(&adapter, tasks, 4);
    }
    let updates = Updates {
        schedule: Schedule { shape: Shape::Constant { warmup: 0 }, peak: 5.0e-3, total: 0 },
        rule: Rule::AdamW(AdamW::default()),
        weight_decay: 0.0,
        max_grad_norm: Some(1.0),
        batch: 2,
    };
    let held = TraineeSettings { widen: true, recompute: false };
    let trainee = Trainee::load(weights, &adapter, held).unwrap();
    ContinualTrainer::new(trainee, &adapter, protection, updates, 1).unwrap()
}

const NO_PENALTY: Penalty = Penalty {
    method: Method::Sequential,
    strength: Strength { lambda: 0.0, convention: Convention::Half },
    geometry: Geometry::Outer,
    source: Source::Sampled,
    batches: 2,
    normalized: true,
};
const NOTHING: Protection = Protection { penalty: NO_PENALTY, rehearsal: None, orthogonality: None };

fn pulled(method: Method, lambda: f64, geometry: Geometry) -> Protection {
    let strength = Strength { lambda, convention: Convention::Half };
    Protection { penalty: Penalty { method, strength, geometry, ..NO_PENALTY }, ..NOTHING }
}

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
    for (method, geometry) in [
        (Method::Anchored, Geometry::Outer),
        (Method::Ewc, Geometry::Outer),
        (Method::Ewc, Geometry::Product),
        (Method::Ewc, Geometry::Factors),
        (Method::Online { decay: 0.9 }, Geometry::Outer),
        (Method::EwcPlusPlus { rate: 0.1 }, Geometry::Outer),
        (Method::RWalk { rate: 0.1, every: 2 }, Geometry::Product),
    ] {
        let (kept, _) = losses(&weights, pulled(method, 1.0e4, geometry));
        assert!(kept < forgot, "{method:?} in {geometry:?}: {kept}, {forgot} without");
    }
    let distillation = Distillation { logits_weight: 0.5, labels_weight: 0.5, logits: 16 };
    let mut kept_by = Vec::new();
    for distillation in [None, Some(distillation), Some(Distillation { logits_weight: 0.0, ..distillation })] {
        let rehearsal = Some(Rehearsal { kept: 4, distillation });
        let (kept, _) = losses(&weights, Protection { rehearsal, ..NOTHING });
        assert!(kept < forgot, "{rehearsal:?}: {kept}, {forgot} without");
        kept_by.push(kept);
    }
    // Both of DER++'s terms act.
    assert!(kept_by[0] != kept_by[1] && kept_by[1] != kept_by[2], "{kept_by:?}");
    // No strength, no protection, bit for bit.
    let (weak, _) = losses(&weights, pulled(Method::Ewc, 0.0, Geometry::Outer));
    assert_eq!(weak.to_bits(), forgot.to_bits());
}

#[test]
fn every_task_has_factors_of_its_own_that_others_leave_alone() {
    let weights = Weights::open("builtin:pico").unwrap();
    let run = |weight: f64| {
        let orthogonality = Some(Orthogonality { weight, tasks: 2 });
        trainer(&weights, Protection { orthogonality, ..NOTHING })
    };
    let mut trainer = run(0.5);
    let begin = trainer.parameters.clone();
    let (first, second) = (sequences(5), sequences(60));
    let before = trainer.score(&second).unwrap().0;
    trainer.learn(&first, 2, 2).unwrap();
    trainer.finish(&first, 2).unwrap();
    let learned = trainer.parameters.clone();
    trainer.learn(&second, 2, 2).unwrap();
    assert!(trainer.score(&second).unwrap().0 < before);
    // Rows of A and columns of B that either task moved: none that both did.
    let moved = |from: &[f32], to: &[f32]| from.iter().zip(to).map(|(a, b)| a != b).collect::<Vec<bool>>();
    let (one, two) = (moved(&begin, &learned), moved(&learned, &trainer.parameters));
    assert!(one.iter().any(|moved| *moved) && two.iter().any(|moved| *moved));
    assert!(one.iter().zip(&two).all(|(one, two)| !(*one && *two)));
    // Their strength changes what the second task learns, and not the first, which has nothing to avoid.
    let mut free = run(0.0);
    free.learn(&first, 2, 2).unwrap();
    free.finish(&first, 2).unwrap();
    assert_eq!(free.parameters, learned);
    free.learn(&second, 2, 2).unwrap();
    assert_ne!(free.parameters, trainer.parameters);
}

#[test]
fn a_task_that_ends_without_a_word_is_found_and_protected() {
    let weights = Weights::open("builtin:pico").unwrap();
    let (first, second) = (sequences(5), sequences(60));
    let run = |watches: bool| {
        let mut trainer = trainer(&weights, pulled(Method::Online { decay: 1.0 }, 1.0e5, Geometry::Outer));
        if watches {
            trainer.watch(MeanShift::new(2.0, 1.0e4));
        }
        trainer.learn(&first, 60, 2).unwrap();
        // Told of an end, one that watches does nothing.
        if watches {
            trainer.finish(&first, 2).unwrap();
            assert!(trainer.regularizer.terms().is_empty());
        }
        trainer.learn(&second, 6, 2).unwrap();
        (trainer.found().to_vec(), trainer.score(&first).unwrap().0)
    };
    let ((none, forgot), (found, kept)) = (run(false), run(true));
    assert!(none.is_empty());
    assert!(matches!(found[..], [61..=64]), "{found:?}");
    assert!(kept < forgot, "{kept}, {forgot} without");
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
    let flows = trainee.take_flows();
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
