//! Recipes held against each other, cell by cell.
use std::fs;

use super::{Bench, RECIPE};

#[test]
fn cells_that_only_one_recipe_has_are_listed() {
    let quick = RECIPE
        .replace("{launches: {min: 3, max: 3}, warmup: 0}", "{launches: {min: 1, max: 1}, warmup: 0}")
        .replace("cell: {kernels.set: reference}", "cell: {}");
    let bench = Bench::with(&quick);
    let other = quick.replace("name: tiny", "name: other").replace("[reference, candle]", "[candle, scalar]");
    fs::write(bench.folder.path().join("other.yaml"), other).unwrap();
    bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
    bench.ends(0, &["run", "other.yaml", "--quiet"]);
    let told = bench.ends(0, &["compare", "tiny", "other"]);
    for line in ["only in tiny: kernels.set=reference", "only in other: kernels.set=scalar"] {
        assert!(told.lines().any(|found| found == line), "{line:?} is not in\n{told}");
    }
    assert_eq!(told.matches("only in").count(), 2, "{told}");
    let list = bench.json(&["compare", "tiny", "other"]);
    let [compared, old, new] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
    assert!(compared["metrics"].is_array());
    for (cell, side, set) in [(old, "baseline", "reference"), (new, "candidate", "scalar")] {
        assert_eq!((&cell["only_in"], &cell["axes"]["kernels.set"]), (&side.into(), &set.into()));
    }
    let same = bench.json(&["compare", "tiny", "tiny"]);
    assert_eq!(same.as_array().unwrap().len(), 2);
}
