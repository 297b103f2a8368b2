use serde_json::Value;

use super::*;

/// Values of torch 2.15 and transformers 5.23, which `scripts/schedule-goldens` writes.
const GOLDENS: &str = include_str!("../../../tests/it/golden/schedules.json");

fn schedule(case: &Value) -> Schedule {
    let number = |key: &str| case[key].as_f64().unwrap();
    let warmup = case["warmup"].as_u64().unwrap_or(0);
    let shape = match case["type"].as_str().unwrap() {
        "constant" => Shape::Constant { warmup },
        "linear" => Shape::Linear { warmup },
        "cosine" => Shape::Cosine { warmup, floor: number("min_lr") },
        "one_cycle" => Shape::OneCycle(OneCycle {
            pct_start: number("pct_start"),
            div_factor: number("div_factor"),
            final_div_factor: number("final_div_factor"),
            three_phase: case["three_phase"].as_bool().unwrap(),
            anneal: if case["anneal"] == "cos" { Anneal::Cos } else { Anneal::Linear },
            ..OneCycle::default()
        }),
        other => panic!("{other}"),
    };
    Schedule { shape, peak: number("peak"), total: case["total"].as_u64().unwrap() }
}

fn assert_near(found: f64, expected: f64, case: &Value, step: usize) {
    let bound = 1.0e-9 * expected.abs() + 1.0e-15 * case["peak"].as_f64().unwrap();
    assert!((found - expected).abs() <= bound, "step {step}: {found} for {expected} in {case}");
}

#[test]
fn every_step_is_what_torch_and_transformers_give() {
    let cases: Vec<Value> = serde_json::from_str(GOLDENS).unwrap();
    assert!(cases.len() >= 60);
    let mut compared = 0;
    for case in &cases {
        let schedule = schedule(case);
        for (step, expected) in case["learning_rate"].as_array().unwrap().iter().enumerate() {
            assert_near(schedule.at(step as u64).learning_rate, expected.as_f64().unwrap(), case, step);
            compared += 1;
        }
        for (step, expected) in case["momentum"].as_array().into_iter().flatten().enumerate() {
            assert_near(schedule.at(step as u64).momentum.unwrap(), expected.as_f64().unwrap(), case, step);
        }
    }
    assert!(compared > 3000);
}

#[test]
fn what_ends_stays_where_it_ended() {
    let cosine = Schedule { shape: Shape::Cosine { warmup: 10, floor: 1.0e-4 }, peak: 1.0e-3, total: 100 };
    assert!((cosine.at(55).learning_rate - 5.5e-4).abs() <= 1.0e-12);
    assert!((cosine.at(99).learning_rate - 1.002_741_278_4e-4).abs() <= 1.0e-13);
    assert_eq!(cosine.at(100), cosine.at(1000));
    assert!((cosine.at(100).learning_rate - 1.0e-4).abs() <= 1.0e-16);
    let cycle = Schedule { shape: Shape::OneCycle(OneCycle::default()), peak: 1.0e-3, total: 100 };
    assert_eq!(cycle.at(99), cycle.at(5000));
    let linear = Schedule { shape: Shape::Linear { warmup: 0 }, peak: 1.0, total: 4 };
    assert_eq!([0, 1, 4, 9].map(|step| linear.at(step).learning_rate), [1.0, 0.75, 0.0, 0.0]);
}

#[test]
fn a_phase_without_length_is_at_its_end() {
    let cycle = OneCycle { pct_start: 0.1, ..OneCycle::default() };
    let schedule = Schedule { shape: Shape::OneCycle(cycle), peak: 1.0, total: 10 };
    assert_eq!(schedule.at(0), Rate { learning_rate: 1.0, momentum: Some(0.85) });
    for total in 0..4 {
        for pct_start in [0.0, 0.25, 0.5, 1.0] {
            for three_phase in [false, true] {
                let cycle = OneCycle { pct_start, three_phase, ..OneCycle::default() };
                let schedule = Schedule { shape: Shape::OneCycle(cycle), peak: 1.0, total };
                assert!((0..6).all(|step| schedule.at(step).learning_rate.is_finite()), "{schedule:?}");
            }
        }
    }
}
