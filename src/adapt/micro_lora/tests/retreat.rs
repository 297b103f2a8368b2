//! What an adapter costs text that it did not learn from, and how far it is taken back for that.
use super::*;

#[test]
fn other_text_loses_no_more_than_it_may() {
    let head = Head::new();
    let (own, other) = (text(1), text(2));
    let new = || head.micro(Settings { top_k: VOCAB, ..settings(1.0) });
    // As it is read without what is learned.
    let (reserve, before) = (head.request(&new(), &other), head.loss(&new(), &other));
    let learned = || {
        let mut micro = new();
        (0..5).for_each(|_| _ = micro.step(&head.request(&micro, &own), 1.0));
        micro
    };
    let mut micro = learned();
    let cost = head.loss(&micro, &other) - before;
    assert!(cost > 0.0, "{cost}: nothing to hold back");
    assert!((micro.cost(&reserve) - cost).abs() <= 1e-3 * cost + 1e-5, "{} for {cost}", micro.cost(&reserve));
    let b = micro.low_rank().b;
    assert!((micro.retreat(&reserve, 2.0 * cost) - 1.0).abs() <= 0.0 && micro.low_rank().b == b);
    let share = micro.retreat(&reserve, 0.3 * cost);
    assert!(share > 0.0 && share < 1.0 && micro.norm() > 0.0, "{share}");
    let left = head.loss(&micro, &other) - before;
    assert!(left <= 0.301 * cost, "{left} of {cost} are left");
    // Where nothing may be lost nothing is left.
    let mut micro = learned();
    assert!(micro.retreat(&reserve, 0.0).abs() <= 0.0 && micro.norm().abs() <= 0.0);
}
