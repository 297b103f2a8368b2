use serde_json::Value;

use super::*;
use crate::engine::Target;

const PLACE: Place = Place { layer: 0, target: Target::Query };

/// Returns an adapter of one matrix.
fn single(part: LowRank) -> Adapter {
    Adapter::from([(PLACE, part)])
}

fn part(rank: usize, outputs: usize, inputs: usize, seed: f32) -> LowRank {
    let numbers = |count: usize, seed: f32| (0..count).map(|i| ((i as f32 + 1.0) * 0.83 + seed * 3.7).sin()).collect();
    LowRank {
        rank,
        scale: 0.5 + seed,
        a: numbers(rank * inputs, seed),
        b: numbers(outputs * rank, seed + 0.5),
        magnitude: None,
    }
}

fn off(found: &Dense, right: &Dense) -> f64 {
    assert_eq!((found.rows, found.columns), (right.rows, right.columns));
    let difference: f64 = found.values.iter().zip(&right.values).map(|(a, b)| (a - b).powi(2)).sum();
    difference.sqrt() / right.norm()
}

fn weighted_sum(parts: &[(f64, &LowRank)]) -> Dense {
    let changes: Vec<(f64, Dense)> = parts.iter().map(|(weight, part)| (*weight, change(part))).collect();
    elect::sum(&changes)
}

/// The methods that work on changes, at full rank.
fn methods(rank: usize) -> [Method; 8] {
    let (density, seed) = (0.4, 9);
    [
        Method::Cat,
        Method::Svd { rank },
        Method::Ties { density, majority: Majority::Total, rank },
        Method::Ties { density, majority: Majority::Frequency, rank },
        Method::Dare { density, majority: None, rank, seed },
        Method::Dare { density, majority: Some(Majority::Total), rank, seed },
        Method::MagnitudePrune { density, rank },
        Method::Svd { rank: 2 },
    ]
}

#[test]
fn cat_and_full_rank_svd_are_the_weighted_sum() {
    for (outputs, inputs) in [(40, 30), (12, 200), (4, 7)] {
        let parts = [part(3, outputs, inputs, 0.1), part(5, outputs, inputs, 0.7), part(2, outputs, inputs, 1.9)];
        let weights = [0.7, -0.4, 1.3];
        let right = weighted_sum(&weights.into_iter().zip(&parts).collect::<Vec<_>>());
        let adapters = parts.clone().map(single);
        let weighted: Vec<Weighted<'_>> = weights.into_iter().zip(&adapters).collect();
        let cat = compose(&weighted, &Method::Cat).unwrap();
        assert_eq!(cat[&PLACE].rank, 10);
        let svd = compose(&weighted, &Method::Svd { rank: 10 }).unwrap();
        assert_eq!(svd[&PLACE].rank, 10.min(outputs).min(inputs));
        for found in [&cat, &svd] {
            let off = off(&change(&found[&PLACE]), &right);
            assert!(off <= 1e-6, "{off:e}");
        }
        // Of a lower rank it is the nearest: what is missing are the values left out.
        let low = compose(&weighted, &Method::Svd { rank: 2 }).unwrap();
        let values = Factors::sum(&weights.into_iter().zip(&parts).collect::<Vec<_>>()).svd().s;
        let missing = values[2..].iter().map(|s| s * s).sum::<f64>().sqrt() / right.norm();
        let found = off(&change(&low[&PLACE]), &right);
        assert!((found - missing).abs() <= 1e-6, "{found:e} {missing:e}");
        let told = lost(&weighted, &Method::Svd { rank: 2 }, &low).unwrap();
        let (_, by_values) = compose_to_rank(&weighted, &Method::Svd { rank: 2 }).unwrap();
        assert!((told - missing).abs() <= 1e-6 && (by_values - missing).abs() <= 1e-6);
    }
}

/// (B R, R⁻¹ A) is the same change, and must compose to the same.
#[test]
fn how_a_change_is_factored_does_not_matter() {
    let (outputs, inputs) = (9, 8);
    let (one, other) = (part(2, outputs, inputs, 0.2), part(2, outputs, inputs, 1.1));
    // R = [[2, 1], [0.5, 1]], of determinant 1.5.
    let (r, inverse) = ([[2.0, 1.0], [0.5, 1.0]], [[1.0 / 1.5, -1.0 / 1.5], [-0.5 / 1.5, 2.0 / 1.5]]);
    let mut again = one.clone();
    for (new, old) in again.b.chunks_exact_mut(2).zip(one.b.chunks_exact(2)) {
        (0..2).for_each(|j| new[j] = (f64::from(old[0]) * r[0][j] + f64::from(old[1]) * r[1][j]) as f32);
    }
    for (i, inverse) in inverse.iter().enumerate() {
        for column in 0..inputs {
            let old = |row: usize| f64::from(one.a[row * inputs + column]);
            again.a[i * inputs + column] = (inverse[0] * old(0) + inverse[1] * old(1)) as f32;
        }
    }
    assert!(off(&change(&again), &change(&one)) <= 1e-6);
    let [one, again, other] = [one, again, other].map(single);
    for method in methods(8) {
        let of = |first: &Adapter| change(&compose(&[(0.8, first), (0.5, &other)], &method).unwrap()[&PLACE]);
        let off = off(&of(&again), &of(&one));
        assert!(off <= 2e-6, "{method:?}: {off:e}");
    }
    // The test sees a method that is not so.
    let of = |first: &Adapter| change(&compose(&[(0.8, first), (0.5, &other)], &Method::Linear).unwrap()[&PLACE]);
    assert!(off(&of(&again), &of(&one)) > 1e-2);
}

/// (A, B) and (−A, −B) change the same: together twice as much, where sums of factors would be nothing.
#[test]
fn a_change_with_both_signs_turned_is_the_same_change() {
    let one = part(3, 10, 12, 0.4);
    let mut turned = one.clone();
    turned.a.iter_mut().chain(&mut turned.b).for_each(|x| *x = -*x);
    let mut twice = change(&one);
    twice.values.iter_mut().for_each(|x| *x *= 2.0);
    let (one, turned) = (single(one), single(turned));
    for method in [Method::Cat, Method::Svd { rank: 3 }, Method::Svd { rank: 6 }] {
        let found = compose(&[(1.0, &one), (1.0, &turned)], &method).unwrap();
        assert!(off(&change(&found[&PLACE]), &twice) <= 1e-6, "{method:?}");
    }
    // TIES averages those that agree, and they all do.
    let ties = Method::Ties { density: 1.0, majority: Majority::Total, rank: 3 };
    let found = compose(&[(1.0, &one), (1.0, &turned)], &ties).unwrap();
    assert!(off(&change(&found[&PLACE]), &change(&one[&PLACE])) <= 1e-6);
    // Task arithmetic: what is taken away is gone.
    let nothing = compose(&[(1.0, &one), (-1.0, &turned)], &Method::Cat).unwrap();
    assert!(change(&nothing[&PLACE]).norm() <= 1e-6 * change(&one[&PLACE]).norm());
}

/// `add_weighted_adapter` of PEFT (`scripts/golden-adapters`).
#[test]
fn merges_are_those_of_peft() {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/it/golden/adapters/merges.json")).unwrap();
    let numbers = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let read = |key: &str| {
        let part = &golden[key];
        let scale = part["scale"].as_f64().unwrap() as f32;
        single(LowRank { rank: 2, scale, a: numbers(&part["a"]), b: numbers(&part["b"]), magnitude: None })
    };
    let (a, b) = (read("a"), read("b"));
    let weights: Vec<f64> = serde_json::from_value(golden["weights"].clone()).unwrap();
    let density = golden["density"].as_f64().unwrap();
    let rank = 5;
    for (way, method) in [
        ("cat", Method::Cat),
        ("svd", Method::Svd { rank }),
        ("linear", Method::Linear),
        ("magnitude_prune_svd", Method::MagnitudePrune { density, rank }),
        ("ties_svd", Method::Ties { density, majority: Majority::Total, rank }),
        ("ties_svd frequency", Method::Ties { density, majority: Majority::Frequency, rank }),
    ] {
        let found = compose(&[(weights[0], &a), (weights[1], &b)], &method).unwrap();
        let values = numbers(&golden["merged"][way]).into_iter().map(f64::from).collect();
        let right = Dense { rows: 5, columns: 7, values };
        let off = off(&change(&found[&PLACE]), &right);
        assert!(off <= 1e-5, "{way}: {off:e}");
    }
}

/// The mean of many draws is the weighted sum, within four standard errors of every entry.
#[test]
fn dare_keeps_the_mean_and_drops_its_share() {
    let parts = [part(2, 5, 6, 0.3), part(2, 5, 6, 1.4)];
    let adapters = parts.clone().map(single);
    let (weights, density, draws) = ([0.7, 0.3], 0.3, 2000);
    let weighted: Vec<Weighted<'_>> = weights.into_iter().zip(&adapters).collect();
    let (mut sum, mut squares, mut zeros) = (vec![0.0; 30], vec![0.0; 30], 0usize);
    for seed in 0..draws {
        let method = Method::Dare { density, majority: None, rank: 5, seed };
        let found = merged(PLACE, &places(&weighted).unwrap()[&PLACE], &method);
        for (at, x) in found.values.iter().enumerate() {
            sum[at] += x;
            squares[at] += x * x;
            zeros += usize::from(*x == 0.0);
        }
    }
    let right = weighted_sum(&weights.into_iter().zip(&parts).collect::<Vec<_>>());
    let n = draws as f64;
    for at in 0..30 {
        let mean = sum[at] / n;
        let error = ((squares[at] / n - mean * mean) / n).sqrt();
        assert!((mean - right.values[at]).abs() <= 4.0 * error, "{at}: {mean} {} ± {error}", right.values[at]);
    }
    let share = zeros as f64 / (n * 30.0);
    assert!((share - 0.7 * 0.7).abs() <= 0.01, "{share} of the entries are dropped in both");
    let one = |seed| compose(&weighted, &Method::Dare { density, majority: None, rank: 5, seed }).unwrap();
    assert!(one(1) == one(1) && one(1) != one(2));
}

/// The subspace iteration against the whole decomposition, on a matrix whose values fall slowly.
#[test]
fn the_leading_values_of_a_large_matrix_are_found() {
    let (m, n) = (150, 140);
    let values = (0..m * n).map(|i| ((i as f64) * 12.9898).sin() * 43_758.545_3).map(|x| x - x.floor() - 0.5).collect();
    let matrix = Dense { rows: m, columns: n, values };
    let (whole, found) = (svd(&matrix), change::leading(&matrix, 6));
    for at in 0..6 {
        assert!((found.s[at] / whole.s[at] - 1.0).abs() <= 0.05, "{at}: {} {}", found.s[at], whole.s[at]);
    }
}

#[test]
fn arrow_gives_each_token_the_adapters_it_resembles() {
    let (outputs, inputs) = (6, 5);
    // Two changes of rank 1 that answer to the first and the second input, and nothing else.
    let one = |which: usize, scale: f32| {
        let mut a = vec![0.0; inputs];
        a[which] = 1.0;
        single(LowRank { rank: 1, scale, a, b: (0..outputs).map(|i| i as f32 + 1.0).collect(), magnitude: None })
    };
    let (first, second) = (one(0, 2.0), one(1, 3.0));
    let arrow = Arrow::new(&[(1.0, &first), (0.5, &second)], 1, 1.0).unwrap();
    for which in 0..2 {
        let prototype = arrow.prototype(which, PLACE).unwrap();
        assert!((prototype[which].abs() - 1.0).abs() <= 1e-12, "{prototype:?}");
    }
    let token = [0.2, -4.0, 9.0, 9.0, 9.0];
    assert_eq!(arrow.shares(PLACE, &token), [(1, 1.0)]);
    let routed = change(&arrow.routed(PLACE, &token).unwrap());
    let mut right = change(&second[&PLACE]);
    right.values.iter_mut().for_each(|x| *x *= 0.5);
    assert!(off(&routed, &right) <= 1e-6);
    // Both, by the softmax of |x v|.
    let both = Arrow::new(&[(1.0, &first), (0.5, &second)], 2, 2.0).unwrap();
    let shares = both.shares(PLACE, &token);
    let share = 1.0 / (1.0 + ((0.2f64 - 4.0) / 2.0).exp());
    assert!((shares[0].1 - share).abs() <= 1e-6 && (shares[0].1 + shares[1].1 - 1.0).abs() <= 1e-12);
    // Neither sign nor factoring of a change counts.
    let turned = |adapter: &Adapter| {
        let mut other = adapter.clone();
        let part = other.get_mut(&PLACE).unwrap();
        part.a.iter_mut().chain(&mut part.b).for_each(|x| *x *= -3.0);
        part.scale /= 9.0;
        other
    };
    let other = Arrow::new(&[(1.0, &turned(&first)), (0.5, &turned(&second))], 2, 2.0).unwrap();
    assert!((other.shares(PLACE, &token)[0].1 - share).abs() <= 1e-6);
    assert!(arrow.routed(Place { layer: 1, target: Target::Query }, &token).is_none());
    assert!(Arrow::new(&[(1.0, &first)], 0, 1.0).is_err() && Arrow::new(&[], 1, 1.0).is_err());
}

#[test]
fn weights_follow_their_stages() {
    let stages = |gradual| {
        let stage = |from, weights: [f64; 2]| Stage { from, weights: weights.to_vec() };
        Stages::new(vec![stage(0, [1.0, 0.0]), stage(10, [0.0, 2.0])], gradual).unwrap()
    };
    for (step, at_once, gradual) in [
        (0, [1.0, 0.0], [1.0, 0.0]),
        (5, [1.0, 0.0], [0.5, 1.0]),
        (10, [0.0, 2.0], [0.0, 2.0]),
        (99, [0.0, 2.0], [0.0, 2.0]),
    ] {
        assert_eq!(stages(false).weights(step), at_once);
        assert_eq!(stages(true).weights(step), gradual);
    }
    let (one, other) = (single(part(2, 4, 5, 0.1)), single(part(3, 4, 5, 0.6)));
    let found = stages(true).at(5, &[&one, &other]).unwrap();
    let right = weighted_sum(&[(0.5, &one[&PLACE]), (1.0, &other[&PLACE])]);
    assert!(off(&change(&found[&PLACE]), &right) <= 1e-6);
    assert_eq!(stages(true).at(0, &[&one, &other]).unwrap()[&PLACE].rank, 2);
    let sequence = Stages::sequential(3, 4).unwrap();
    let active = |step| sequence.weights(step).iter().position(|weight| *weight == 1.0);
    assert_eq!([0, 3, 4, 8, 100].map(active), [Some(0), Some(0), Some(1), Some(2), Some(2)]);
    assert!(Stages::new(vec![], false).is_err() && Stages::sequential(2, 0).is_err());
}

/// The loss is that of factors: with A₁ = A₂ and B₁ = B₂, ΔW = (w₁ + w₂)² B A.
#[test]
fn the_search_finds_weights_and_is_never_worse_than_nothing() {
    let adapter = single(LowRank { rank: 1, scale: 1.0, a: vec![1.0], b: vec![1.0], magnitude: None });
    let search = Search { evaluations: 120, l1: 0.0, ..Search::default() };
    let mut tried = 0;
    let mut loss = |made: &Adapter| {
        tried += 1;
        Ok((change(&made[&PLACE]).values[0] - 1.0).powi(2))
    };
    let (weights, made, found) = lora_hub(&[&adapter, &adapter], &search, &mut loss).unwrap();
    assert!(found <= 1e-3, "{found} with {weights:?}");
    assert!(((weights[0] + weights[1]).powi(2) - change(&made[&PLACE]).values[0]).abs() <= 1e-6);
    assert_eq!(tried, 120);
    let mut worse = |made: &Adapter| Ok(change(&made[&PLACE]).norm());
    assert_eq!(lora_hub(&[&adapter], &search, &mut worse).unwrap().0, [0.0]);
    let mut broken = |_: &Adapter| Ok(f64::NAN);
    assert!(lora_hub(&[&adapter], &search, &mut broken).is_err());
}

#[test]
fn effective_ranks_count_directions() {
    assert!((effective_rank(&[2.0, 2.0, 2.0, 0.0]) - 3.0).abs() <= 1e-12);
    assert!((effective_rank(&[5.0, 0.0]) - 1.0).abs() <= 1e-12);
    assert!(effective_rank(&[0.0]).abs() <= 0.0);
    let doubled = LowRank {
        rank: 2,
        scale: 1.0,
        a: [[1.0, 2.0], [1.0, 2.0]].concat(),
        b: vec![1.0, 1.0, 0.5, 0.5],
        magnitude: None,
    };
    assert!((effective_rank(&singular_values(&doubled)) - 1.0).abs() <= 1e-6);
}

#[test]
fn what_cannot_be_composed_is_said() {
    let (one, other) = (single(part(2, 4, 5, 0.1)), single(part(3, 4, 5, 0.1)));
    let wide = single(part(2, 4, 6, 0.1));
    let fails = |adapters: &[Weighted<'_>], method: Method| compose(adapters, &method).unwrap_err();
    assert_eq!(fails(&[], Method::Cat), ComposeError::Nothing);
    assert!(matches!(fails(&[(f64::NAN, &one)], Method::Cat), ComposeError::Weight(_)));
    assert_eq!(fails(&[(1.0, &one), (1.0, &wide)], Method::Cat), ComposeError::Shapes(PLACE));
    assert_eq!(fails(&[(1.0, &one), (1.0, &other)], Method::Linear), ComposeError::Ranks(PLACE, 2, 3));
    assert_eq!(fails(&[(1.0, &one)], Method::Svd { rank: 0 }), ComposeError::Rank);
    for density in [0.0, 1.5, f64::NAN] {
        let error = fails(&[(1.0, &one)], Method::MagnitudePrune { density, rank: 2 });
        assert!(matches!(error, ComposeError::Density(_)));
    }
    // A place that one does not change is a change of zero.
    let more = Adapter::from([(Place { layer: 1, target: Target::Query }, part(2, 4, 5, 0.9))]);
    assert_eq!(compose(&[(1.0, &one), (1.0, &more)], &Method::Svd { rank: 2 }).unwrap().len(), 2);
}
