//! What one network forgets of five tasks, and what keeps it from that: a minute of plain Rust.
//!
//! `cargo run --release --example permuted_digits`
#![expect(clippy::print_stdout, reason = "an example shows what it found")]
use ruvlab::adapt::ewc::{Arm, Digits, Method, Outcome, Study, fisher::Kind};

const SEEDS: [u64; 3] = [0, 1, 2];

fn main() {
    let (digits, study) = (Digits::load(), Study::default());
    let penalty = |method, lambda, fisher| Arm::Penalty { method, lambda, fisher };
    let summed = Method::Online { decay: 1.0 };
    let arms = [
        ("sequential", penalty(Method::Sequential, 0.0, Kind::Exact)),
        ("L2 to the anchor", penalty(Method::Anchored, 0.1, Kind::Exact)),
        ("EWC, an anchor a task", penalty(Method::Ewc, 0.1, Kind::Exact)),
        ("EWC, summed", penalty(summed, 0.1, Kind::Exact)),
        ("EWC, sampled", penalty(summed, 0.1, Kind::Sampled)),
        ("EWC, empirical", penalty(summed, 0.1, Kind::Empirical)),
        ("EWC, batched", penalty(summed, 0.1, Kind::Batched(32))),
        ("EWC++, fast (0.9)", penalty(Method::EwcPlusPlus { rate: 0.9 }, 0.3, Kind::Exact)),
        ("EWC++, slow (0.0005)", penalty(Method::EwcPlusPlus { rate: 0.0005 }, 0.4, Kind::Exact)),
        ("RWalk, slow", penalty(Method::RWalk { rate: 0.0005, every: 10 }, 0.4, Kind::Exact)),
        ("replay of 100", Arm::Replay { stored: 100 }),
        ("replay of 400", Arm::Replay { stored: 400 }),
        ("joint", Arm::Joint),
    ];
    println!("{:22} {:>8} {:>10} {:>12}", "accuracy", "average", "forgetting", "when learned");
    for (name, arm) in arms {
        let outcomes: Vec<Outcome> = SEEDS.iter().map(|seed| study.run(&digits, arm, *seed)).collect();
        let mean = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
        let (average, forgetting) = (mean(Outcome::average), mean(Outcome::forgetting));
        println!("{name:22} {average:8.3} {forgetting:10.3} {:12.3}", mean(Outcome::learning));
    }
}
