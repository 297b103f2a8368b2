//! What sequences share that begin alike, and with the same adapter.
use std::sync::Arc;

use ruvlab::{
    engine::{Adapter, LanguageModel, Settings},
    model::weights::Weights,
};

use super::{
    super::{
        adapters::adapter,
        logits::{heldout, pico},
    },
    feed, load,
};

#[test]
fn a_shared_prefix_is_not_computed_again_and_changes_nothing() {
    let weights = pico();
    let tokens = &heldout(&weights)[..110];
    let mut engine = load(&weights, &Settings { share_prefixes: true, ..Settings::default() });
    let mut last = Vec::new();
    for expected in [0, 96, 96] {
        let admitted = engine.admit(tokens, 120).unwrap();
        assert_eq!(admitted.cached, expected);
        last.push(feed(engine.as_mut(), admitted.sequence, &tokens[expected..]).unwrap());
        engine.close(admitted.sequence);
    }
    assert!(last.iter().all(|found| *found == last[0]));
}

fn sharing(weights: &Weights, share_prefixes: bool) -> Box<dyn LanguageModel> {
    load(weights, &Settings { share_prefixes, ..Settings::default() })
}

/// Keys and values are of the adapter they were computed with, so a prefix is only shared among
/// sequences of one, or of copies of it.
#[test]
fn a_prefix_is_shared_among_sequences_of_the_same_adapter_only() {
    let weights = pico();
    let tokens = &heldout(&weights)[..110];
    let mut engine = sharing(&weights, true);
    let [one, two] = [1, 2].map(|seed| Arc::new(adapter(weights.spec(), seed, 4)));
    let copy = Arc::new(Adapter::clone(&one));
    let mut newer = Adapter::clone(&one);
    newer.values_mut().next().unwrap().b[0] += 0.125;
    let newer = Arc::new(newer);
    let right = |adapter: Option<&Arc<Adapter>>| {
        let mut engine = sharing(&weights, false);
        let sequence = engine.open().unwrap();
        engine.attach(sequence, adapter.cloned()).unwrap();
        feed(engine.as_mut(), sequence, tokens).unwrap()
    };
    let all = [
        (None, 0),
        (Some(&one), 0),
        (Some(&one), 96),
        (Some(&two), 0),
        (Some(&copy), 96),
        (Some(&newer), 0),
        (None, 96),
        (Some(&two), 96),
    ];
    for (at, (adapter, cached)) in all.into_iter().enumerate() {
        let admitted = match adapter {
            Some(adapter) => engine.admit_with(tokens, 120, Arc::clone(adapter)).unwrap(),
            None => engine.admit(tokens, 120).unwrap(),
        };
        assert_eq!(admitted.cached, cached, "request {at}");
        let found = feed(engine.as_mut(), admitted.sequence, &tokens[cached..]).unwrap();
        assert!(found == right(adapter), "request {at}");
        engine.close(admitted.sequence);
    }
    assert!(right(Some(&one)) != right(Some(&two)) && right(Some(&one)) != right(None));
}

/// An adapter that comes later changes what follows: nobody may find that by the tokens.
#[test]
fn a_sequence_that_changes_its_adapter_shares_no_more() {
    let weights = pico();
    let tokens = &heldout(&weights)[..110];
    let mut engine = sharing(&weights, true);
    let one = Arc::new(adapter(weights.spec(), 1, 4));
    let sequence = engine.open().unwrap();
    feed(engine.as_mut(), sequence, &tokens[..40]).unwrap();
    engine.attach(sequence, Some(Arc::clone(&one))).unwrap();
    feed(engine.as_mut(), sequence, &tokens[40..]).unwrap();
    assert_eq!(engine.admit(tokens, 120).unwrap().cached, 32, "the page before the adapter came");
    assert_eq!(engine.admit_with(tokens, 120, Arc::clone(&one)).unwrap().cached, 0);
    // Attached to an empty sequence it is as if it was admitted with it, and a fork goes on with both.
    let sequence = engine.open().unwrap();
    engine.attach(sequence, Some(Arc::clone(&one))).unwrap();
    feed(engine.as_mut(), sequence, &tokens[..40]).unwrap();
    let child = engine.fork(sequence).unwrap();
    engine.attach(child, Some(Arc::clone(&one))).unwrap();
    feed(engine.as_mut(), child, &tokens[40..]).unwrap();
    assert_eq!(engine.admit_with(tokens, 120, one).unwrap().cached, 96);
}
