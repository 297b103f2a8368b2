//! Tokens that choose among adapters.
use std::sync::Arc;

use ruvlab::{
    adapt::compose::{Arrow, Method, compose},
    engine::{self, Adapter, EngineError, EngineKind, LowRank, Place, Target},
    model::weights::{TensorType, Weights},
};

use super::{
    super::logits::{heldout, load_exact, logits, native, pico},
    adapter, capable, relative, with_adapter,
};

/// Returns each engine that takes mixtures, with weights that it computes smoothly with: beside blocks candle rounds
/// activations to 8 bits, and the last bit of a sum, which is another one on other processors, decides which way.
fn smooth() -> impl Iterator<Item = (EngineKind, Weights)> {
    let weights = |kind| if kind == EngineKind::Candle { pico().requantized(TensorType::F32).unwrap() } else { pico() };
    capable().map(move |kind| (kind, weights(kind)))
}

/// Returns the logits of a model whose tokens choose among adapters.
fn with_choice(kind: EngineKind, weights: &Weights, arrow: &Arrow, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<f32>> {
    let mut engine = engine::mixed(load_exact(kind, weights, 2), Arc::new(arrow.mixture().unwrap())).unwrap();
    logits(engine.as_mut(), tokens, sizes)
}

/// Where there is one adapter to choose, it is what every token chooses.
#[test]
fn one_adapter_to_choose_is_that_adapter() {
    let weights = pico();
    let tokens = &heldout(&weights)[..40];
    let one = Arc::new(adapter(weights.spec(), 6, 3));
    let arrow = Arrow::new(&[(1.0, &one)], 2, 1.0).unwrap();
    for (kind, weights) in smooth() {
        let mut engine = load_exact(kind, &weights, 2);
        for sizes in [&[40][..], &[20, 3, 1, 1, 15]] {
            let right = with_adapter(engine.as_mut(), Some(&one), tokens, sizes);
            let found = with_choice(kind, &weights, &arrow, tokens, sizes);
            if kind == EngineKind::Candle {
                assert!(relative(&right, &found) <= 1e-5, "{}", relative(&right, &found));
            } else {
                assert!(found == right, "{kind:?}");
            }
        }
    }
}

/// Tokens choose for themselves: what comes out is neither adapter, nor both, and the same however many rows a
/// step has.
#[test]
fn tokens_that_choose_change_what_comes_out() {
    let weights = pico();
    let tokens = &heldout(&weights)[..40];
    let two = [6, 7].map(|seed| adapter(weights.spec(), seed, 3));
    let weighted = [(1.0, &two[0]), (1.0, &two[1])];
    let both = compose(&weighted, &Method::Cat).unwrap();
    let others = [two[0].clone(), two[1].clone(), both].map(Arc::new);
    for (kind, weights) in smooth() {
        let mut engine = load_exact(kind, &weights, 2);
        for top_k in [1, 2] {
            let arrow = Arrow::new(&weighted, top_k, 1.0).unwrap();
            let found = with_choice(kind, &weights, &arrow, tokens, &[40]);
            for other in &others {
                let apart = relative(&found, &with_adapter(engine.as_mut(), Some(other), tokens, &[40]));
                assert!(apart >= 1e-3, "{kind:?}, {top_k}: {apart:e}");
            }
        }
        // Shares that scores hardly move, so that neither does rounding.
        let arrow = Arrow::new(&weighted, 2, 100.0).unwrap();
        let [found, few] =
            [&[40][..], &[20, 3, 1, 1, 15]].map(|sizes| with_choice(kind, &weights, &arrow, tokens, sizes));
        assert!(relative(&found, &few) <= 1e-3, "{kind:?}: {}", relative(&found, &few));
    }
    let mut engine = engine::load(EngineKind::Reference, &weights, None).unwrap();
    let sequence = engine.open().unwrap();
    let mixture = Arc::new(Arrow::new(&weighted, 1, 1.0).unwrap().mixture().unwrap());
    assert!(matches!(engine.attach_mixture(sequence, mixture), Err(EngineError::Unsupported { .. })));
}

/// At the head, whose inputs an engine shows: each row is what the router's own definition makes of it.
#[test]
fn every_token_gets_what_its_choice_adds() {
    let weights = pico();
    let spec = weights.spec();
    let tokens = &heldout(&weights)[..40];
    let place = Place { layer: spec.layers, target: Target::Head };
    let two = [6, 7].map(|seed| Adapter::from([(place, adapter(spec, seed, 3)[&place].clone())]));
    let arrow = Arrow::new(&[(1.0, &two[0]), (0.7, &two[1])], 1, 0.5).unwrap();
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 2);
        engine.keep_hidden(true).unwrap();
        let mut right = logits(engine.as_mut(), tokens, &[40]);
        let inputs: Vec<Vec<f32>> = engine.hidden().chunks(spec.hidden_size).map(<[f32]>::to_vec).collect();
        let mut chosen = [0; 2];
        for (row, x) in right.iter_mut().zip(&inputs) {
            chosen[arrow.shares(place, x)[0].0] += 1;
            let LowRank { rank, scale, a, b, .. } = arrow.routed(place, x).unwrap();
            let dot = |a: &[f32]| scale * a.iter().zip(x).map(|(a, x)| a * x).sum::<f32>();
            let narrow: Vec<f32> = a.chunks_exact(x.len()).map(dot).collect();
            for (logit, b) in row.iter_mut().zip(b.chunks_exact(rank)) {
                *logit += b.iter().zip(&narrow).map(|(b, x)| b * x).sum::<f32>();
            }
        }
        assert!(chosen.iter().all(|count| *count >= 3), "{chosen:?}");
        let found = with_choice(kind, &weights, &arrow, tokens, &[40]);
        assert!(relative(&right, &found) <= 1e-4, "{kind:?}: {}", relative(&right, &found));
    }
}
