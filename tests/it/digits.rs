//! Permuted digits: a network forgets, and consolidation keeps it from that. Strengths are chosen on seeds
//! that are not reported.
#![expect(clippy::print_stderr, reason = "a test that measures says what it found")]
use std::thread;

use ruvlab::adapt::ewc::{Arm, Digits, Method, Outcome, Study, fisher::Kind};

const REPORTED: [u64; 5] = [0, 1, 2, 3, 4];
const OTHERS: [u64; 2] = [100, 101];

fn penalty(method: Method, lambda: f64) -> Arm {
    Arm::Penalty { method, lambda, fisher: Kind::Exact }
}

/// Returns the mean final accuracy of an arm on the reported seeds, and says what else it did.
fn report(digits: &Digits, name: &str, arm: Arm) -> f64 {
    let study = Study::default();
    let found: Vec<Outcome> = REPORTED.iter().map(|seed| study.run(digits, arm, *seed)).collect();
    let mean = |of: fn(&Outcome) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
    let (average, forgetting, learning) = (mean(Outcome::average), mean(Outcome::forgetting), mean(Outcome::learning));
    eprintln!("{name}: average {average:.3}, forgetting {forgetting:.3}, when learned {learning:.3} ({arm:?})");
    average
}

#[test]
fn consolidation_keeps_what_a_sequence_forgets() {
    let digits = Digits::load();
    let chosen = |name: &str, method: Method, strengths: [f64; 2]| {
        let arms = strengths.map(|lambda| penalty(method, lambda));
        report(&digits, name, Study::default().choose(&digits, &arms, &OTHERS).unwrap())
    };
    let (sequential, ewc, plus, replay) = thread::scope(|scope| {
        let plus = scope.spawn(|| chosen("EWC++, slow", Method::EwcPlusPlus { rate: 5.0e-4 }, [0.2, 0.4]));
        let sequential = report(&digits, "sequential", penalty(Method::Sequential, 0.0));
        let ewc = chosen("EWC", Method::Online { decay: 1.0 }, [0.06, 0.12]);
        let replay = report(&digits, "replay of 400", Arm::Replay { stored: 400 });
        (sequential, ewc, plus.join().unwrap(), replay)
    });
    assert!(sequential <= 0.70, "{sequential}");
    assert!(ewc >= 0.80, "{ewc}");
    assert!(plus >= 0.78, "{plus}");
    assert!(replay > sequential, "{replay}");
}
