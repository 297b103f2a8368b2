//! Recipes held against each other, cell by cell.
use std::fs;

use serde_json::Value;

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
    let told = bench.json(&["compare", "tiny", "other"]);
    assert!(told["comparisons"][0]["metrics"].is_array() && told["comparisons"][1].is_null(), "{told}");
    for (side, set) in [("only_in_baseline", "reference"), ("only_in_candidate", "scalar")] {
        assert_eq!((&told[side][0]["axes"]["kernels.set"], &told[side][1]), (&set.into(), &Value::Null));
    }
    let same = bench.json(&["compare", "tiny", "tiny"]);
    let count = |key: &str| same[key].as_array().unwrap().len();
    assert_eq!((count("comparisons"), count("only_in_baseline"), count("only_in_candidate")), (2, 0, 0));
}

const READING: &str = "\
schema: ruvlab/v1
name: tiny
model: {source: builtin:pico}
workloads: [{perplexity: {text: a/test.txt, n_ctx: 64, chunks: 1}}]
kernels: {set: candle, verify: {reference: null}}
measure: {launches: {min: 1, max: 1}}
";

/// Labels name a text by its file alone, so only its content says whether it is the same.
#[test]
fn perplexities_of_different_texts_are_not_compared() {
    let bench = Bench::with(READING);
    let path = |name: &str| bench.folder.path().join(name);
    let (old, new) = ("The cat sat on the mat. ".repeat(50), "A dog ran through the rain. ".repeat(50));
    for folder in ["a", "b"] {
        fs::create_dir(path(folder)).unwrap();
        fs::write(path(folder).join("test.txt"), &old).unwrap();
    }
    fs::write(path("other.yaml"), READING.replace("name: tiny", "name: other").replace("a/test", "b/test")).unwrap();
    let run_id = |recipe: &str| {
        let told = bench.json(&["run", &format!("{recipe}.yaml")]);
        told["cells"][0]["run_id"].as_str().unwrap().to_owned()
    };
    let first = run_id("tiny");
    run_id("other");
    bench.ends(0, &["compare", "tiny", "other"]);

    let differs = |baseline: &str, candidate: &str| {
        let told = bench.ends(5, &["compare", baseline, candidate, "--format", "json"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        let difference = &told["comparisons"][0]["differences"][0];
        assert_eq!(difference["what"], "text perplexity.text of perplexity(test.txt,c64,k1)", "{difference}");
        assert_eq!(difference["effect"], "forbids");
    };
    fs::write(path("b").join("test.txt"), &new).unwrap();
    run_id("other");
    differs("tiny", "other");
    fs::write(path("a").join("test.txt"), &new).unwrap();
    let second = run_id("tiny");
    assert_ne!(first, second);
    differs(&first, &second);
    bench.ends(0, &["compare", "tiny", "other"]);
}
