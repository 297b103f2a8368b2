use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

const WIDTH: usize = 24;

/// About normal: the sum of twelve uniform draws.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|x| x * x).sum::<f32>().sqrt();
    values.iter().map(|x| x / length).collect()
}

/// Returns keys around as many directions as there are counts, with the direction each is of.
fn planted(counts: &[usize], noise: f32, random: &mut ChaCha8Rng) -> (Vec<Vec<f32>>, Vec<usize>) {
    let mut draw = || (0..WIDTH).map(|_| normal(random)).collect::<Vec<f32>>();
    let directions: Vec<Vec<f32>> = counts.iter().map(|_| unit(&draw())).collect();
    let mut keys: Vec<(Vec<f32>, usize)> = Vec::new();
    for (of, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let around: Vec<f32> = directions[of].iter().zip(draw()).map(|(d, n)| d + noise * n).collect();
            keys.push((unit(&around), of));
        }
    }
    // In turn, as requests come.
    keys.sort_by_key(|(key, _)| key[0].to_bits());
    keys.into_iter().unzip()
}

fn views(keys: &[Vec<f32>]) -> Vec<&[f32]> {
    keys.iter().map(Vec::as_slice).collect()
}

fn places(bank: &Bank, keys: &[Vec<f32>]) -> Vec<usize> {
    keys.iter().map(|key| bank.nearest(key).unwrap().unwrap().0).collect()
}

fn bank(most: usize) -> Bank {
    Bank::new(most, vec![0.0; WIDTH])
}

/// Returns how well two partitions agree: 1 for the same, 0 for mean on chance (Hubert and Arabie 1985).
fn adjusted_rand_index(a: &[usize], b: &[usize]) -> f64 {
    let pairs = |count: usize| (count * count.saturating_sub(1)) as f64 / 2.0;
    let (most_a, most_b) = (a.iter().max().unwrap() + 1, b.iter().max().unwrap() + 1);
    let mut table = vec![vec![0usize; most_b]; most_a];
    a.iter().zip(b).for_each(|(a, b)| table[*a][*b] += 1);
    let both: f64 = table.iter().flatten().map(|count| pairs(*count)).sum();
    let rows: f64 = table.iter().map(|row| pairs(row.iter().sum())).sum();
    let columns: f64 = (0..most_b).map(|at| pairs(table.iter().map(|row| row[at]).sum())).sum();
    let expected = rows * columns / pairs(a.len());
    (both - expected) / ((rows + columns) / 2.0 - expected)
}

#[test]
fn the_index_of_agreement_is_its_definition() {
    let close = |a: &[usize], b: &[usize], right: f64| assert!((adjusted_rand_index(a, b) - right).abs() <= 1e-12);
    close(&[0, 0, 1, 1], &[1, 1, 0, 0], 1.0);
    close(&[0, 0, 1, 1], &[0, 1, 0, 1], -0.5);
    // Scikit-learn's example.
    close(&[0, 0, 1, 2], &[0, 0, 1, 1], 4.0 / 7.0);
}

#[test]
fn planted_kinds_are_found() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for seed in 0..10 {
        let (keys, kinds) = planted(&[40, 25, 60, 15, 30], 0.08, &mut random);
        let mut bank = bank(5);
        let new = bank.extract(&views(&keys), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(new, [0, 1, 2, 3, 4]);
        let index = adjusted_rand_index(&places(&bank, &keys), &kinds);
        assert!(index >= 0.95, "{index} with seed {seed}");
        assert_eq!(bank.patterns().iter().map(|pattern| pattern.count).sum::<u64>(), 170);
        // Keys of other kinds are no kinds: what is found is not in any grouping.
        let shuffled: Vec<usize> = (0..kinds.len()).map(|at| kinds[(at * 37 + 11) % kinds.len()]).collect();
        assert!(adjusted_rand_index(&places(&bank, &keys), &shuffled).abs() <= 0.2);
    }
}

#[test]
fn one_pattern_is_the_direction_of_the_mean() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (keys, _) = planted(&[30, 30], 0.1, &mut random);
    let mut bank = bank(1);
    bank.extract(&views(&keys), &mut random).unwrap();
    let mean: Vec<f32> = (0..WIDTH).map(|at| keys.iter().map(|key| key[at]).sum::<f32>() / 60.0).collect();
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&bank.patterns()[0].centroid, &unit(&mean)) <= 1e-5);
    // And it is where single keys, one after the other, leave it.
    let mut online = Bank::new(1, vec![0.0; WIDTH]);
    online.extract(&[&keys[0]], &mut random).unwrap();
    keys[1..].iter().for_each(|key| assert_eq!(online.observe(key).unwrap(), Some(0)));
    assert!(apart(&online.patterns()[0].centroid, &unit(&mean)) <= 1e-5);
    assert_eq!(online.patterns()[0].count, 60);
}

#[test]
fn extracting_again_replaces_and_changes_nothing_where_nothing_is_new() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (keys, kinds) = planted(&[30, 20, 10], 0.1, &mut random);
    let mut bank = bank(3);
    bank.extract(&views(&keys), &mut random).unwrap();
    let before = bank.clone();
    for _ in 0..3 {
        assert!(bank.extract(&views(&keys), &mut random).unwrap().is_empty());
        assert!(bank == before, "{} patterns", bank.patterns().len());
    }
    // Other keys: their patterns are there in place of the old ones, not beside them.
    let (others, other_kinds) = planted(&[20, 20, 20], 0.1, &mut random);
    bank.extract(&views(&others), &mut random).unwrap();
    assert_eq!(bank.patterns().len(), 3);
    assert!(adjusted_rand_index(&places(&bank, &others), &other_kinds) >= 0.5);
    assert_eq!(bank.patterns().iter().map(|pattern| pattern.count).sum::<u64>(), 60);
    assert!(adjusted_rand_index(&places(&before, &keys), &kinds) >= 0.95);
}

#[test]
fn a_pattern_without_keys_begins_anew() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let (keys, kinds) = planted(&[30, 30], 0.05, &mut random);
    let mut bank = bank(2);
    // Both begin in one kind, the second far from any key.
    let far: Vec<f32> = keys[0].iter().map(|x| -x).collect();
    bank.patterns = vec![Pattern::at(&keys[0]), Pattern::at(&far)];
    let mut first: Vec<Vec<f32>> = Vec::new();
    first.extend(keys.iter().zip(&kinds).filter(|(_, kind)| **kind == kinds[0]).map(|(key, _)| key.clone()));
    assert_eq!(bank.extract(&views(&first), &mut random).unwrap(), [1]);
    assert!(bank.patterns().iter().all(|pattern| pattern.count > 0));
    bank.extract(&views(&keys), &mut random).unwrap();
    assert!(adjusted_rand_index(&places(&bank, &keys), &kinds) >= 0.95);
}

#[test]
fn a_key_is_the_direction_of_the_mean_less_what_all_have_in_common() {
    let bank = Bank::new(2, vec![1.0, 0.0, 0.0]);
    let key = bank.key(&[1.0, 2.0, 0.0, 1.0, 0.0, 2.0]).unwrap();
    assert!(key.iter().zip([0.0, 0.5f32.sqrt(), 0.5f32.sqrt()]).all(|(a, b)| (a - b).abs() <= 1e-6), "{key:?}");
    assert!(matches!(bank.key(&[1.0, 0.0, 0.0]), Err(SonaError::Directionless)));
    assert!(matches!(bank.key(&[f32::NAN; 3]), Err(SonaError::Directionless)));
}

/// Numbers of another model must not be left out in silence.
#[test]
fn another_width_is_an_error_everywhere() {
    let mut bank = bank(2);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let right = unit(&[1.0; WIDTH]);
    let wrong = unit(&[1.0; WIDTH - 1]);
    assert!(matches!(bank.key(&wrong), Err(SonaError::Width { .. })));
    assert!(matches!(bank.key(&[]), Err(SonaError::Width { .. })));
    assert!(matches!(bank.nearest(&wrong), Err(SonaError::Width { .. })));
    assert!(matches!(bank.extract(&[&right, &wrong], &mut random), Err(SonaError::Width { .. })));
    assert!(bank.patterns().is_empty());
    assert_eq!(bank.extract(&[&right], &mut random).unwrap(), [0]);
    assert!(matches!(bank.observe(&wrong), Err(SonaError::Width { .. })));
    assert_eq!(bank.patterns()[0].count, 1);
}
