//! Which cell each cell of a run is compared with.
use super::tables::BaselineCell;
use crate::{recipe::schema::same_value, results::Manifest};

/// The cells that a recipe's `baseline.cell` means, and which of them each other cell is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twins {
    baselines: Vec<bool>,
    twins: Vec<Option<usize>>,
}

impl Twins {
    /// Returns the twins of these cells, all by their places here.
    ///
    /// A cell's twin has the axis values of `wanted`, and agrees with the cell on every axis that `wanted`
    /// does not name, and on the seed. A baseline cell has none, and neither has a cell that no baseline
    /// cell agrees with: what differs in more than was asked for is no comparison.
    #[must_use]
    pub fn new(manifests: &[&Manifest], wanted: Option<&BaselineCell>) -> Self {
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
            return Self { baselines: vec![false; manifests.len()], twins: vec![None; manifests.len()] };
        };
        let baselines: Vec<bool> = manifests.iter().map(|manifest| is_meant(manifest, wanted)).collect();
        let twin_of = |cell: &Manifest| {
            let mut places = manifests.iter().zip(&baselines);
            places.position(|(other, is_baseline)| *is_baseline && agree(other, cell, wanted))
        };
        let cells = manifests.iter().zip(&baselines);
        let twins = cells.map(|(cell, is_baseline)| if *is_baseline { None } else { twin_of(cell) }).collect();
        Self { baselines, twins }
    }

    /// Returns the place of the cell that this one is compared with.
    #[must_use]
    pub fn of(&self, cell: usize) -> Option<usize> {
        self.twins.get(cell).copied().flatten()
    }

    /// Returns whether others are compared with this cell.
    #[must_use]
    pub fn is_baseline(&self, cell: usize) -> bool {
        self.baselines.get(cell).copied().unwrap_or(false)
    }

    /// Returns the places of all baseline cells.
    pub fn baselines(&self) -> impl Iterator<Item = usize> {
        (0..self.baselines.len()).filter(|cell| self.is_baseline(*cell))
    }

    /// Returns how many cells are compared with none, though there are baseline cells.
    #[must_use]
    pub fn alone(&self) -> usize {
        let all = self.baselines.iter().zip(&self.twins);
        let alone = all.filter(|(is_baseline, twin)| !**is_baseline && twin.is_none()).count();
        if self.baselines.contains(&true) { alone } else { 0 }
    }
}

fn is_meant(manifest: &Manifest, wanted: &BaselineCell) -> bool {
    wanted.iter().all(|(key, value)| manifest.axes.get(key).is_some_and(|found| same_value(found, value)))
}

/// Returns whether two cells are the same in all that `wanted` does not name.
fn agree(a: &Manifest, b: &Manifest, wanted: &BaselineCell) -> bool {
    let same = |key: &String| match (a.axes.get(key), b.axes.get(key)) {
        (Some(a), Some(b)) => same_value(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let mut others = a.axes.keys().chain(b.axes.keys()).filter(|key| !wanted.contains_key(*key));
    (wanted.contains_key("seed") || a.seed == b.seed) && others.all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::manifest;

    fn cells(of: &[(Vec<(&str, &str)>, u64)]) -> Vec<Manifest> {
        let cell = |(axes, seed): &(Vec<(&str, &str)>, u64)| {
            let mut axes: indexmap::IndexMap<String, serde_json::Value> =
                axes.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
            axes.insert("seed".to_owned(), (*seed).into());
            Manifest { axes, seed: *seed, ..manifest() }
        };
        of.iter().map(cell).collect()
    }

    fn twins(cells: &[Manifest], wanted: &[(&str, serde_json::Value)]) -> Twins {
        let wanted = wanted.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Twins::new(&cells.iter().collect::<Vec<_>>(), Some(&wanted))
    }

    fn of(twins: &Twins, cells: usize) -> Vec<Option<usize>> {
        (0..cells).map(|cell| twins.of(cell)).collect()
    }

    #[test]
    fn a_twin_agrees_on_what_the_baseline_does_not_name() {
        let axes = |format, set| vec![("quantization.format", format), ("kernels.set", set)];
        let cells = cells(&[
            (axes("q8_0", "reference"), 0),
            (axes("q8_0", "auto"), 0),
            (axes("q4_k", "reference"), 0),
            (axes("q4_k", "auto"), 0),
            (axes("q2_k", "auto"), 0),
        ]);
        let partial = twins(&cells, &[("kernels.set", "reference".into())]);
        assert_eq!(of(&partial, 5), [None, Some(0), None, Some(2), None]);
        assert_eq!((partial.baselines().collect::<Vec<_>>(), partial.alone()), (vec![0, 2], 1));
        let whole = twins(&cells, &[("kernels.set", "reference".into()), ("quantization.format", "q8_0".into())]);
        assert_eq!(of(&whole, 5), [None, Some(0), Some(0), Some(0), Some(0)]);
        let absent = twins(&cells, &[("kernels.set", "neon".into())]);
        assert_eq!((of(&absent, 5), absent.alone()), (vec![None; 5], 0));
        assert_eq!(twins(&cells, &[]), Twins::new(&cells.iter().collect::<Vec<_>>(), None));
    }

    #[test]
    fn seeds_pair_with_equal_seeds_unless_they_are_what_is_compared() {
        let axes = |set| vec![("kernels.set", set)];
        let cells = cells(&[
            (axes("reference"), 0),
            (axes("reference"), 1),
            (axes("auto"), 1),
            (axes("auto"), 0),
            (axes("auto"), 2),
        ]);
        let by_kernels = twins(&cells, &[("kernels.set", "reference".into())]);
        assert_eq!(of(&by_kernels, 5), [None, None, Some(1), Some(0), None]);
        // Numbers by value, so 0 is 0.0.
        let by_seed = twins(&cells, &[("seed", serde_json::json!(0.0))]);
        assert_eq!(of(&by_seed, 5), [None, Some(0), Some(3), None, Some(3)]);
    }

    #[test]
    fn an_axis_that_only_one_has_is_no_agreement() {
        let cells =
            cells(&[(vec![("kernels.set", "reference")], 0), (vec![("kernels.set", "auto"), ("rope.factor", "2")], 0)]);
        assert_eq!(of(&twins(&cells, &[("kernels.set", "reference".into())]), 2), [None, None]);
    }
}
