//! What is near is found, and counts for what it is worth.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{sketch::WORDS, *};

const WIDTH: usize = 48;

fn normal(random: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

/// Vectors around a few directions, more or less near to them.
fn inputs(count: usize, random: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let kinds: Vec<Vec<f32>> = (0..12).map(|_| (0..WIDTH).map(|_| normal(random)).collect()).collect();
    let one = |at: usize| kinds[at % kinds.len()].iter().map(|x| x + 0.6 * normal(random) + 0.5).collect();
    (0..count).map(one).collect()
}

fn settings() -> CacheSettings {
    CacheSettings { tokens: 400, neighbours: 32, theta: 20.0, share: 0.2, general_weight: 1.0 }
}

fn filled(inputs: &[Vec<f32>]) -> Recall {
    let mut recall = Recall::new(settings(), vec![0.5; WIDTH]);
    let mut room = Recollection::default();
    inputs.iter().zip(0..).for_each(|(input, token)| recall.push(input, token % 97, &mut room));
    recall
}

#[test]
fn what_is_recalled_is_nearly_what_all_that_is_held_says() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let all = inputs(460, &mut random);
    let (held, asked) = all.split_at(400);
    let recall = filled(held);
    let mut exact = crate::adapt::caches::NeuralCache::new(400, WIDTH, 20.0);
    let centered = |input: &[f32]| input.iter().map(|x| x - 0.5).collect::<Vec<f32>>();
    held.iter().zip(0..).for_each(|(input, token)| exact.push(&centered(input), token % 97));
    let (mut found, mut likely) = (Recollection::default(), Vec::new());
    let mut apart = 0.0;
    for input in asked {
        recall.look(input, 0.3, &mut found);
        exact.likely(&centered(input), &mut likely);
        assert!((found.tokens.iter().map(|(_, share)| share).sum::<f32>() - 1.0).abs() <= 1e-5);
        let distance = likely.iter().map(|(token, share)| (share - found.of(*token).likely).abs()).sum::<f64>() / 2.0;
        apart += distance / asked.len() as f64;
    }
    assert!(apart <= 0.1, "{apart}: the nearest are not found");
    // What is held is found, itself.
    recall.look(&held[37], 0.3, &mut found);
    assert!(found.nearest > 0.999 && found.of(37).likely > 0.0);
}

#[test]
fn the_nearest_sketches_are_found_in_order() {
    let mut sketches = Sketches::default();
    (0..9u32).for_each(|at| sketches.put(at as usize, [(1 << (at % 4)) - 1, u64::from(at >= 8)]));
    let mut places = Places::default();
    for (count, right) in [(2, &[0, 4][..]), (4, &[0, 1, 4, 5, 8]), (100, &[0, 1, 2, 3, 4, 5, 6, 7, 8])] {
        sketches.nearest([0; WORDS], count, &mut places);
        assert_eq!(places.nearest, right);
    }
}

#[test]
fn the_oldest_makes_room_and_a_state_goes_on() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let all = inputs(500, &mut random);
    let whole = filled(&all);
    let mut first = filled(&all[..450]);
    let (next, keys, tokens) = first.held();
    assert_eq!((next, tokens.len()), (50, 400));
    let (keys, tokens) = (keys, tokens.to_vec());
    let mut second = Recall::new(settings(), vec![0.5; WIDTH]);
    second.hold(next, keys.clone(), tokens.clone()).unwrap();
    let mut room = Recollection::default();
    for recall in [&mut first, &mut second] {
        for (input, token) in all[450..].iter().zip(450..) {
            recall.push(input, token % 97, &mut room);
        }
        assert!(*recall == whole);
    }
    assert!(second.hold(400, keys.clone(), tokens.clone()).is_err());
    assert!(second.hold(0, keys[1..].to_vec(), tokens).is_err());
}

#[test]
fn what_is_near_comes_to_count_and_what_is_far_does_not() {
    let mut gate = Gate::new(0.2);
    let (near, far, sure) = (0.95, 0.1, 0.3);
    let before = [gate.share(near, sure), gate.share(far, sure)];
    assert!(before[0] > before[1] && gate.share(-1.0, sure) <= 0.0);
    for at in 0..400 {
        gate.learn(Recalled { nearest: near, sure, likely: if at % 2 == 0 { 0.9 } else { 0.0 } }, 0.1, 1.0);
        gate.learn(Recalled { nearest: far, sure, likely: 0.0 }, 0.1, 1.0);
    }
    // The best mixture where half of the tokens are held likely by 0.9 and the others by nothing: the derivative of
    // the mean loss is zero at λ = 0.4375.
    assert!((gate.share(near, sure) - 0.4375).abs() <= 0.03, "{}", gate.share(near, sure));
    assert!(gate.share(far, sure) < 0.1 * before[1]);
    // Where the model is surer of itself nothing is known yet.
    assert!((gate.share(near, 0.9) - before[0]).abs() <= 0.0);
    let mut off = Gate::new(0.0);
    off.learn(Recalled { nearest: near, sure, likely: 1.0 }, 0.1, 1.0);
    assert!(off.share(near, sure) <= 0.0);
}
