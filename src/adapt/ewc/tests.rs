//! What must hold of penalties and of Fisher information, on networks small enough to know all of them.
mod defects;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    fisher::{Classifier, Kind, diagonal},
    *,
};

/// A linear classifier of 3 labels over 4 features.
struct Toy {
    weights: Vec<f64>,
    examples: Vec<([f64; 4], usize)>,
}

impl Toy {
    fn new(count: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let weights = (0..12).map(|_| random.random_range(-1.0..1.0)).collect();
        let mut example = |at: usize| (std::array::from_fn(|_| random.random_range(-1.0..1.0)), at % 3);
        Self { weights, examples: (0..count).map(&mut example).collect() }
    }
}

impl Classifier for Toy {
    fn parameters(&self) -> usize {
        12
    }
    fn examples(&self) -> usize {
        self.examples.len()
    }
    fn label(&self, example: usize) -> usize {
        self.examples[example].1
    }
    fn probabilities(&self, example: usize) -> Vec<f64> {
        let logit = |row: &[f64]| row.iter().zip(self.examples[example].0).map(|(w, x)| w * x).sum::<f64>().exp();
        let raised: Vec<f64> = self.weights.chunks(4).map(logit).collect();
        raised.iter().map(|x| x / raised.iter().sum::<f64>()).collect()
    }
    fn add_score(&self, example: usize, label: usize, weight: f64, sum: &mut [f64]) {
        for (at, (p, row)) in self.probabilities(example).iter().zip(sum.chunks_mut(4)).enumerate() {
            let slope = weight * (f64::from(u8::from(at == label)) - p);
            row.iter_mut().zip(self.examples[example].0).for_each(|(sum, x)| *sum += slope * x);
        }
    }
}

/// Of a linear model, `F_ki = E x_i² p_k (1 - p_k)`: in closed form.
fn known(toy: &Toy) -> Vec<f64> {
    let mut fisher = vec![0.0; 12];
    for (at, (x, _)) in toy.examples.iter().enumerate() {
        for (k, p) in toy.probabilities(at).iter().enumerate() {
            (0..4).for_each(|i| fisher[4 * k + i] += x[i] * x[i] * p * (1.0 - p) / toy.examples.len() as f64);
        }
    }
    fisher
}

/// Returns mean and standard error of the mean of each number over draws.
fn moments(draws: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let n = draws.len() as f64;
    let mean: Vec<f64> = (0..draws[0].len()).map(|i| draws.iter().map(|draw| draw[i]).sum::<f64>() / n).collect();
    let variance = |i: usize| draws.iter().map(|draw| (draw[i] - mean[i]).powi(2)).sum::<f64>() / (n - 1.0);
    let error = (0..mean.len()).map(|i| (variance(i) / n).sqrt()).collect();
    (mean, error)
}

#[test]
fn exact_information_is_that_of_the_formula() {
    let toy = Toy::new(20);
    let found = diagonal(&toy, Kind::Exact, &mut ChaCha8Rng::seed_from_u64(0));
    for (found, known) in found.iter().zip(known(&toy)) {
        assert!((found - known).abs() <= 1.0e-12, "{found} for {known}");
    }
}

#[test]
fn labels_drawn_from_the_model_are_unbiased_one_by_one_and_in_batches() {
    let toy = Toy::new(20);
    let known = known(&toy);
    for kind in [Kind::Sampled, Kind::SampledBatch(5), Kind::SampledBatch(20)] {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let draws: Vec<_> = (0..2000).map(|_| diagonal(&toy, kind, &mut random)).collect();
        let (mean, error) = moments(&draws);
        for i in 0..12 {
            assert!((mean[i] - known[i]).abs() <= 4.0 * error[i], "{kind:?}: {} for {}", mean[i], known[i]);
        }
    }
}

#[test]
fn the_data_s_labels_are_another_thing_and_a_batch_of_them_a_third() {
    let toy = Toy::new(20);
    let mut random = ChaCha8Rng::seed_from_u64(2);
    // As defined, written out.
    let score = |example: usize| {
        let mut sum = vec![0.0; 12];
        toy.add_score(example, toy.label(example), 1.0, &mut sum);
        sum
    };
    let empirical = diagonal(&toy, Kind::Empirical, &mut random);
    let batched = diagonal(&toy, Kind::Batched(5), &mut random);
    for i in 0..12 {
        let squares = (0..20).map(|example| score(example)[i].powi(2)).sum::<f64>() / 20.0;
        assert!((empirical[i] - squares).abs() <= 1.0e-12);
        let mean = |batch: usize| (0..5).map(|at| score(5 * batch + at)[i]).sum::<f64>() / 5.0;
        let of_means = (0..4).map(|batch| mean(batch).powi(2)).sum::<f64>() / 4.0;
        assert!((batched[i] - of_means).abs() <= 1.0e-12);
    }
    // A batch's sum of true-label gradients, squared over its size, has no randomness that could average
    // out: it is wrong by its cross terms, and far more than drawn labels ever are in the mean.
    let exact = known(&toy);
    let off = |found: &[f64]| found.iter().zip(&exact).map(|(f, e)| (f - e).abs()).sum::<f64>();
    let true_batch: Vec<f64> = batched.iter().map(|value| value * 5.0).collect();
    let draws: Vec<_> = (0..2000).map(|_| diagonal(&toy, Kind::SampledBatch(5), &mut random)).collect();
    let (mean, _) = moments(&draws);
    assert!(off(&true_batch) >= 5.0 * off(&mean), "{} against {}", off(&true_batch), off(&mean));
}

fn drawn(count: usize, seed: u64) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn positive(count: usize, seed: u64) -> Vec<f64> {
    drawn(count, seed).iter().map(|x| x.abs() + 0.01).collect()
}

const HALF: Convention = Convention::Half;

/// A space with a block of each kind.
fn mixed() -> Space {
    let (outputs, inputs, rank, scale) = (5, 4, 2, 1.5);
    Space {
        blocks: vec![
            Block::Plain { count: 3 },
            Block::Product { outputs, inputs, rank, scale },
            Block::Outer { outputs, inputs, rank, scale },
        ],
    }
}

#[test]
fn the_penalty_rests_at_the_anchor_restores_elsewhere_and_is_gone_without_importance() {
    let space = mixed();
    let (anchor, fisher) = (drawn(space.parameters(), 5), positive(space.importances(), 6));
    for method in [
        Method::Anchored,
        Method::Ewc,
        Method::Online { decay: 0.9 },
        Method::EwcPlusPlus { rate: 0.5 },
        Method::RWalk { rate: 0.5, every: 2 },
    ] {
        let only_plain = matches!(method, Method::RWalk { .. });
        let space = if only_plain { Space::plain(20) } else { space.clone() };
        let (anchor, fisher) =
            (&anchor[..space.parameters().min(anchor.len())], &fisher[..space.importances().min(fisher.len())]);
        for convention in [Convention::Half, Convention::Full] {
            let strength = Strength { lambda: 3.0, convention };
            let mut own = method.begin::<f64>(true);
            assert!(own.terms().is_empty() && own.penalty(&space, strength, anchor) == 0.0, "{method:?}");
            let still = vec![1.0e-3; space.importances()];
            for _ in 0..3 {
                own.observe(&Observation { fisher, gradient: &still, moved: &still });
            }
            own.consolidate(&space, anchor, fisher);
            let gradient = |at: &[f64]| {
                let mut gradient = vec![0.0; at.len()];
                own.add_gradient(&space, strength, at, &mut gradient);
                gradient
            };
            assert!(gradient(anchor).iter().all(|g| g.abs() <= 1.0e-12), "{method:?}");
            assert!(own.penalty(&space, strength, anchor) <= 1.0e-12);
            // By central differences, and down it the penalty shrinks.
            let away: Vec<f64> = anchor.iter().zip(drawn(anchor.len(), 7)).map(|(a, d)| a + 0.3 * d).collect();
            let (found, h) = (gradient(&away), 1.0e-6);
            for i in 0..away.len() {
                let at = |sign: f64| {
                    let mut moved = away.clone();
                    moved[i] += sign * h;
                    own.penalty(&space, strength, &moved)
                };
                let slope = (at(1.0) - at(-1.0)) / (2.0 * h);
                assert!((found[i] - slope).abs() <= 1.0e-6 * (1.0 + slope.abs()), "{method:?}: {} {slope}", found[i]);
            }
            let down: Vec<f64> = away.iter().zip(&found).map(|(x, g)| x - 1.0e-4 * g).collect();
            assert!(own.penalty(&space, strength, &down) < own.penalty(&space, strength, &away));
        }
    }
    let mut nothing = Method::Ewc.begin::<f64>(true);
    nothing.consolidate(&space, &anchor, &vec![0.0; space.importances()]);
    let mut gradient = vec![0.0; anchor.len()];
    nothing.add_gradient(&space, Strength { lambda: 1.0e9, convention: HALF }, &drawn(anchor.len(), 8), &mut gradient);
    assert!(gradient.iter().all(|g| *g == 0.0));
}

#[test]
fn the_conventions_differ_by_two() {
    let space = Space::plain(4);
    let mut ewc = Method::Ewc.begin::<f64>(false);
    ewc.consolidate(&space, &[0.0; 4], &[2.0, 0.0, 1.0, 1.0]);
    let of = |convention| ewc.penalty(&space, Strength { lambda: 3.0, convention }, &[1.0, 5.0, 2.0, 0.0]);
    assert!((of(Convention::Half) - 9.0).abs() <= 1.0e-12 && (of(Convention::Full) - 18.0).abs() <= 1.0e-12);
}

/// Returns factors of the same product: `A ← R⁻¹ A`, `B ← B R`.
fn regauged(a: &[f64], b: &[f64], r: [f64; 4]) -> Vec<f64> {
    let determinant = r[0] * r[3] - r[1] * r[2];
    let inverse = [r[3], -r[1], -r[2], r[0]].map(|x| x / determinant);
    let n = a.len() / 2;
    let row = |k: usize| (0..n).map(move |j| inverse[2 * k] * a[j] + inverse[2 * k + 1] * a[n + j]);
    let left = (0..2).flat_map(row).collect::<Vec<f64>>();
    let right = b.chunks(2).flat_map(|b| [b[0] * r[0] + b[1] * r[2], b[0] * r[1] + b[1] * r[3]]);
    left.into_iter().chain(right).collect()
}

#[test]
fn the_penalty_of_a_product_is_blind_to_the_gauge_and_that_of_factors_is_not() {
    let (outputs, inputs, rank, scale) = (7, 6, 2, 2.0);
    let count = rank * (outputs + inputs);
    let product = Space { blocks: vec![Block::Product { outputs, inputs, rank, scale }] };
    let outer = Space { blocks: vec![Block::Outer { outputs, inputs, rank, scale }] };
    let (anchor, at) = (drawn(count, 11), drawn(count, 12));
    let mut random = ChaCha8Rng::seed_from_u64(13);
    for _ in 0..20 {
        let r: [f64; 4] = std::array::from_fn(|_| random.random_range(-2.0..2.0));
        if (r[0] * r[3] - r[1] * r[2]).abs() < 0.2 {
            continue;
        }
        let turned = regauged(&at[..rank * inputs], &at[rank * inputs..], r);
        for space in [&product, &outer] {
            let fisher = positive(space.importances(), 14);
            let (before, after) =
                (space.half_square(&fisher, &anchor, &at), space.half_square(&fisher, &anchor, &turned));
            assert!((before - after).abs() <= 1.0e-5 * before, "{before} and {after}");
            let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
            let single = space.half_square(&narrow(&fisher), &narrow(&anchor), &narrow(&turned));
            assert!((before - single).abs() <= 1.0e-5 * before, "{before} and {single}");
        }
        let plain = Space::plain(count);
        let fisher = positive(count, 15);
        let (before, after) = (plain.half_square(&fisher, &anchor, &at), plain.half_square(&fisher, &anchor, &turned));
        assert!((before - after).abs() >= 1.0e-3 * before);
    }
}

#[test]
fn importances_of_rank_one_are_those_of_their_product_written_out() {
    let (outputs, inputs, rank, scale) = (5, 4, 2, 1.5);
    let product = Space { blocks: vec![Block::Product { outputs, inputs, rank, scale }] };
    let outer = Space { blocks: vec![Block::Outer { outputs, inputs, rank, scale }] };
    let (thin, count) = (positive(outputs + inputs, 21), rank * (outputs + inputs));
    let full: Vec<f64> = (0..outputs * inputs).map(|at| thin[at / inputs] * thin[outputs + at % inputs]).collect();
    let (anchor, at) = (drawn(count, 22), drawn(count, 23));
    let close = |x: f64, y: f64| assert!((x - y).abs() <= 1.0e-10 * (1.0 + x.abs()), "{x} and {y}");
    close(product.half_square(&full, &anchor, &at), outer.half_square(&thin, &anchor, &at));
    let gradient = |space: &Space, fisher: &[f64]| {
        let mut gradient = vec![0.0; count];
        space.add_gradient(2.0, fisher, &anchor, &at, &mut gradient);
        gradient
    };
    gradient(&product, &full).iter().zip(gradient(&outer, &thin)).for_each(|(x, y)| close(*x, y));
    let pulled = |space: &Space, importance: &[f64]| {
        let mut at = at.clone();
        let term = Term { anchor: anchor.clone(), importance: importance.to_vec() };
        space.pull(5.0, &[term.clone(), term], &mut at);
        at
    };
    pulled(&product, &full).iter().zip(pulled(&outer, &thin)).for_each(|(x, y)| close(*x, y));
    let (mut full, mut thin) = (full, thin);
    let (one, other) = (normalize(&product, &mut full), normalize(&outer, &mut thin));
    close(one.mean, other.mean);
    close(one.most, other.most);
    close(full[7], thin[1] * thin[outputs + 3]);
    close(full.iter().sum::<f64>(), (outputs * inputs) as f64);
}

#[test]
fn pulls_are_stable_at_any_strength_where_plain_descent_explodes() {
    // η λ F = 100.
    let (rate, strength) = (0.1, Strength { lambda: 1000.0, convention: HALF });
    for space in [Space::plain(6), mixed()] {
        let mut ewc = Method::Ewc.begin::<f64>(true);
        let (anchor, fisher) = (drawn(space.parameters(), 31), vec![1.0; space.importances()]);
        ewc.consolidate(&space, &anchor, &fisher);
        let start: Vec<f64> = anchor.iter().zip(drawn(anchor.len(), 32)).map(|(a, d)| a + d).collect();
        let (mut pulled, mut descending) = (start.clone(), start.clone());
        let first = ewc.penalty(&space, strength, &start);
        let mut last = first;
        for _ in 0..50 {
            ewc.pull(&space, strength, rate, &mut pulled);
            let now = ewc.penalty(&space, strength, &pulled);
            assert!(now <= last * (1.0 + 1.0e-9) + 1.0e-9, "{now} after {last}");
            last = now;
            let mut gradient = vec![0.0; anchor.len()];
            ewc.add_gradient(&space, strength, &descending, &mut gradient);
            descending.iter_mut().zip(&gradient).for_each(|(x, g)| *x -= rate * g);
        }
        assert!(last <= 1.0e-6 * first, "{last} of {first}");
        let exploded = ewc.penalty(&space, strength, &descending);
        assert!(!exploded.is_finite() || exploded > 1.0e6 * first, "{exploded}");
    }
    // One number: the least of (θ - θ')² / 2η + (λ/2) F (θ' - θ*)².
    let mut one = Method::Ewc.begin::<f64>(false);
    let space = Space::plain(1);
    one.consolidate(&space, &[2.0], &[10.0]);
    let mut at = [5.0];
    one.pull(&space, Strength { lambda: 100.0, convention: HALF }, 0.1, &mut at);
    assert!((at[0] - (5.0 + 100.0 * 2.0) / 101.0).abs() <= 1.0e-12);
}

#[test]
fn anchors_and_averages_are_kept_as_each_method_says() {
    let space = Space::plain(2);
    let mut ewc = Method::Ewc.begin::<f64>(false);
    let mut online = Method::Online { decay: 0.5 }.begin::<f64>(false);
    for method in [&mut ewc, &mut online] {
        method.consolidate(&space, &[1.0, 1.0], &[2.0, 4.0]);
        method.consolidate(&space, &[3.0, 3.0], &[1.0, 0.0]);
    }
    assert_eq!(ewc.terms().len(), 2);
    let [Term { anchor, importance }] = online.terms() else { panic!("one anchor") };
    assert_eq!((anchor.as_slice(), importance.as_slice()), (&[3.0, 3.0][..], &[2.0, 2.0][..]));
    // Weights α and α (1 - α) of both batches, brought to a sum of 1: 4/7 and 3/7.
    let mut average = Method::EwcPlusPlus { rate: 0.25 }.begin::<f64>(false);
    for fisher in [[4.0, 0.0], [0.0, 8.0]] {
        average.observe(&Observation { fisher: &fisher, gradient: &[0.0; 2], moved: &[0.0; 2] });
    }
    average.consolidate(&space, &[0.0; 2], &[]);
    let found = &average.terms()[0].importance;
    let expected = [4.0 * 3.0 / 7.0, 8.0 * 4.0 / 7.0];
    assert!(found.iter().zip(expected).all(|(x, y)| (x - y).abs() <= 1.0e-12), "{found:?}");
    // Two steps: ΔL = -(g₁ Δ₁ + g₂ Δ₂) = 0.5, and -0.2 which counts as none; ½ F Δ² = ½ 2 (0.5)² = 0.25.
    // A window that the task's end cuts short counts as it is.
    for every in [2, 5] {
        let mut walk = Method::RWalk { rate: 1.0, every }.begin::<f64>(false);
        for (gradient, moved) in [([-1.0, 1.0], [0.25, 0.1]), ([-1.0, 1.0], [0.25, 0.1])] {
            walk.observe(&Observation { fisher: &[2.0, 1.0], gradient: &gradient, moved: &moved });
        }
        walk.consolidate(&space, &[0.0; 2], &[]);
        let found = &walk.terms()[0].importance;
        assert!((found[0] - 2.0).abs() <= 1.0e-6 && (found[1] - 0.5).abs() <= 1.0e-6, "{every}: {found:?}");
    }
}

#[test]
fn digits_are_those_of_the_file() {
    let digits = Digits::load();
    assert_eq!((digits.images.len(), digits.labels.len()), (1797, 1797));
    let first: Vec<f64> = digits.images[0][..8].iter().map(|pixel| pixel * 16.0).collect();
    assert_eq!((first.as_slice(), digits.labels[0]), (&[0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0][..], 0));
    let sum: f64 = digits.images.iter().flatten().sum();
    assert!((sum * 16.0 - 561_718.0).abs() <= 1.0e-6);
    assert_eq!(digits.labels.iter().filter(|label| **label == 3).count(), 183);
}
