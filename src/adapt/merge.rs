//! Adapters merged into the matrices they change, and taken out again.
use std::collections::BTreeMap;

use super::file::Stored;
use crate::{
    engine::{Adapter, LowRank, Place, Target},
    model::weights::{TensorType, Weights, WeightsError},
};

/// Why an adapter could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The weights cannot be read, or not be stored.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The head is the embedding.
    #[error("the head is the token embedding, and would change it: such an adapter runs unmerged only")]
    TiedHead,
    /// A decomposed change that is not merged as a whole.
    #[error("the {0} is a decomposed change (DoRA), which has no multiples: merge it with the weight 1")]
    Decomposed(Place),
    /// Of another model.
    #[error("the model has no {0}")]
    NoPlace(String),
}

/// What became of the change of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The tensor.
    pub tensor: String,
    /// How it is stored now.
    pub kind: TensorType,
    /// `‖ΔW‖`.
    pub size: f64,
    /// `‖(W' − W) − ΔW‖ / ‖ΔW‖`, of what W' and W stand for as they are stored: how much of the change
    /// storing it lost, rounding of W itself included.
    pub lost: f64,
}

/// Adds `factor · ΔW` to a matrix `[O, I]`; −1 takes out what 1 merged.
///
/// # Numerics
///
/// Each value is summed in f64 and rounded once.
///
/// # Panics
///
/// If the matrix has another shape than the change.
pub fn add(matrix: &mut [f32], part: &LowRank, factor: f64) {
    let LowRank { rank, scale, a, b, .. } = part;
    let columns = a.len() / rank;
    assert_eq!(matrix.len(), b.len() / rank * columns);
    let factor = factor * f64::from(*scale);
    let mut row = vec![0.0; columns];
    for (values, b) in matrix.chunks_exact_mut(columns).zip(b.chunks_exact(*rank)) {
        row.fill(0.0);
        for (b, a) in b.iter().zip(a.chunks_exact(columns)) {
            let b = f64::from(*b);
            row.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * f64::from(*a));
        }
        values.iter_mut().zip(&row).for_each(|(value, change)| *value = (f64::from(*value) + factor * change) as f32);
    }
}

/// Brings the rows of a matrix with a decomposed change in it to their magnitudes; others stay. `before` is
/// the matrix without the change.
fn rescale(matrix: &mut [f32], before: &[f32], part: &LowRank) {
    let columns = part.a.len() / part.rank;
    let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&before[row * columns..][..columns]);
    for (values, factor) in matrix.chunks_exact_mut(columns).zip(part.factors(row).unwrap_or_default()) {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Returns a model with `factor · ΔW` in its matrices, and what became of each. Tensors that change are
/// stored as `kind`, or as they were.
///
/// # Errors
///
/// If the adapter is of another model, its head is the embedding, it is decomposed (DoRA) and `factor` not
/// 1, or a value cannot be stored.
pub fn merge(
    weights: &Weights,
    adapter: &Adapter,
    factor: f64,
    kind: Option<TensorType>,
) -> Result<(Weights, Vec<Merged>), MergeError> {
    let spec = weights.spec();
    let mut tensors: BTreeMap<String, Vec<(Stored, &LowRank)>> = BTreeMap::new();
    for (place, part) in adapter {
        if part.magnitude.is_some() && factor.to_bits() != 1.0f64.to_bits() {
            return Err(MergeError::Decomposed(*place));
        }
        if place.target == Target::Head && spec.tied_embeddings {
            return Err(MergeError::TiedHead);
        }
        let stored = Stored::of(spec, *place).ok_or_else(|| MergeError::NoPlace(place.to_string()))?;
        tensors.entry(stored.tensor.clone()).or_default().push((stored, part));
    }
    let (mut replaced, mut report) = (BTreeMap::new(), Vec::new());
    for (tensor, parts) in tensors {
        let before = weights.values(&tensor)?;
        let (mut after, mut change) = (before.clone(), vec![0.0; before.len()]);
        for (Stored { rows, of, .. }, part) in parts {
            let columns = before.len() / of;
            let range = rows.start * columns..rows.end * columns;
            add(&mut after[range.clone()], part, factor);
            add(&mut change[range.clone()], part, factor);
            rescale(&mut after[range.clone()], &before[range.clone()], part);
            if part.magnitude.is_some() {
                let moved = after[range.clone()].iter().zip(&before[range.clone()]);
                change[range].iter_mut().zip(moved).for_each(|(change, (after, before))| *change = after - before);
            }
        }
        let own = weights.index().tensors.get(&tensor).map_or(TensorType::F32, |info| info.kind);
        let (kind, bytes, found) = weights.stored_as(&tensor, kind.unwrap_or(own), &after)?;
        let (mut error, mut size) = (0.0, 0.0);
        for ((found, before), change) in found.iter().zip(&before).zip(&change) {
            error += (f64::from(*found) - f64::from(*before) - f64::from(*change)).powi(2);
            size += f64::from(*change).powi(2);
        }
        let lost = if size > 0.0 { (error / size).sqrt() } else { 0.0 };
        report.push(Merged { tensor: tensor.clone(), kind, size: size.sqrt(), lost });
        replaced.insert(tensor, (kind, bytes));
    }
    Ok((weights.with_tensors(replaced)?, report))
}

/// Returns how much of the whole change was lost: the root of the sum of squares over all tensors.
#[must_use]
pub fn lost(report: &[Merged]) -> f64 {
    let sum = |of: &dyn Fn(&Merged) -> f64| report.iter().map(|merged| of(merged).powi(2)).sum::<f64>();
    let size = sum(&|merged| merged.size);
    if size > 0.0 { (sum(&|merged| merged.size * merged.lost) / size).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::train::fresh;

    fn example(weights: &Weights, targets: &[Target]) -> Adapter {
        let mut adapter = fresh(weights.spec(), targets, 3, 2.0, 4);
        for part in adapter.values_mut() {
            part.b.iter_mut().enumerate().for_each(|(i, b)| *b = 0.1 * (i as f32 * 0.71).sin());
        }
        adapter
    }

    #[test]
    fn what_is_merged_comes_out_again() {
        for source in ["builtin:pico", "tests/it/golden/phi3-longrope"] {
            let dense = Weights::open(source).unwrap().requantized(TensorType::F32).unwrap();
            let adapter = example(&dense, &Target::ALL[..7]);
            let (merged, report) = merge(&dense, &adapter, 1.0, None).unwrap();
            assert!(lost(&report) <= 1e-5, "{}", lost(&report));
            let (back, _) = merge(&merged, &adapter, -1.0, None).unwrap();
            for Merged { tensor, size, .. } in report {
                let [before, between, after] = [&dense, &merged, &back].map(|weights| weights.values(&tensor).unwrap());
                let norm = |a: &[f32], b: &[f32]| {
                    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
                };
                let whole = norm(&before, &vec![0.0; before.len()]);
                assert!(norm(&after, &before) <= 1e-6 * whole, "{tensor}");
                assert!((norm(&between, &before) / size - 1.0).abs() <= 1e-4 && size > 0.0, "{tensor}");
            }
        }
    }

    #[test]
    fn rows_of_decomposed_changes_are_as_long_as_their_magnitudes() {
        let dense = Weights::open("builtin:pico").unwrap().requantized(TensorType::F32).unwrap();
        let mut adapter = example(&dense, &[Target::Query, Target::Down]);
        for part in adapter.values_mut() {
            part.magnitude = Some((0..part.b.len() / part.rank).map(|row| 0.5 + 0.01 * row as f32).collect());
        }
        let (merged, report) = merge(&dense, &adapter, 1.0, None).unwrap();
        assert!(lost(&report) <= 1e-5 && report.iter().all(|tensor| tensor.size > 0.0));
        let (place, part) = adapter.first_key_value().unwrap();
        let values = merged.values(&Stored::of(dense.spec(), *place).unwrap().tensor).unwrap();
        for (row, magnitude) in values.chunks_exact(part.a.len() / part.rank).zip(part.magnitude.as_ref().unwrap()) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm - magnitude).abs() <= 1e-5 * magnitude, "{norm} {magnitude}");
        }
        assert!(matches!(merge(&dense, &adapter, -1.0, None), Err(MergeError::Decomposed(_))));
    }

    #[test]
    fn fewer_bits_keep_less_of_the_change() {
        let dense = Weights::open("builtin:pico").unwrap().requantized(TensorType::F32).unwrap();
        let adapter = example(&dense, &[Target::Query, Target::Down]);
        let kept = |kind| lost(&merge(&dense, &adapter, 1.0, Some(kind)).unwrap().1);
        let found = [TensorType::F32, TensorType::F16, TensorType::Q8_0, TensorType::Q4_0].map(kept);
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        let (merged, report) = merge(&dense, &adapter, 1.0, Some(TensorType::Q8_0)).unwrap();
        for Merged { tensor, kind, .. } in &report {
            assert_eq!(merged.index().tensors[tensor].kind, *kind);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("merged.gguf");
        merged.write_file(&path).unwrap();
        let read = Weights::open(path.to_str().unwrap()).unwrap();
        assert!(report.iter().all(|of| read.values(&of.tensor).unwrap() == merged.values(&of.tensor).unwrap()));
    }

    #[test]
    fn a_tied_head_is_refused() {
        let weights = Weights::open("builtin:pico").unwrap();
        let adapter = example(&weights, &[Target::Head]);
        assert!(matches!(merge(&weights, &adapter, 1.0, None), Err(MergeError::TiedHead)));
    }
}
