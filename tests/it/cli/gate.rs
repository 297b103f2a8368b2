//! Gates: what is the same passes, what is worse or out of bounds fails.
use std::fs;

use serde_json::Value;

use super::{Bench, RECIPE, text};

#[test]
fn the_gate_passes_what_is_the_same_and_fails_what_is_worse() {
    let one_cell =
        RECIPE.replace("[reference, candle]", "[candle]").replace("cell: {kernels.set: reference}", "name: main");
    let bench = Bench::with(&one_cell);
    bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
    let set = bench.json(&["baseline", "set", "main", "tiny"]);
    assert_eq!(set["cells"].as_array().unwrap().len(), 1);
    assert_eq!(bench.json(&["baseline", "list"]).as_array().unwrap().len(), 1);
    bench.ends(0, &["baseline", "check", "tiny.yaml", "--quiet", "--junit", "gates.xml"]);
    assert!(fs::read_to_string(bench.folder.path().join("gates.xml")).unwrap().contains("<testsuite"));
    // 4-bit weights are another quality, the same in every launch.
    let arguments =
        ["baseline", "check", "tiny.yaml", "--quiet", "--set", "quantization.format=q4_0", "--format", "json"];
    let report: Value = serde_json::from_str(&bench.ends(10, &arguments)).unwrap();
    assert_eq!(report["outcome"], "regression");
    let gates = report["cells"][0]["report"]["gates"].as_array().unwrap();
    let perplexity = gates.iter().find(|gate| gate["metric"] == "perplexity").unwrap();
    assert_eq!(perplexity["verdict"], "regression");
    assert!(perplexity["candidate"].as_f64().unwrap() > perplexity["baseline"].as_f64().unwrap());
    // The same texts and workloads are needed on both sides.
    bench.ends(5, &["baseline", "check", "tiny.yaml", "--quiet", "--set", "workloads=[{decode: {output_tokens: 9}}]"]);
    bench.ends(0, &["baseline", "rm", "main"]);
    bench.ends(5, &["baseline", "check", "tiny.yaml"]);
}

#[test]
fn what_no_gate_tells_of_is_in_the_junit_file() {
    // Only what does not vary is gated, so no noise decides.
    let gated = RECIPE.replace("cell: {kernels.set: reference}", "gates: {perplexity: 50%}");
    let bench = Bench::with(&gated);
    bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
    bench.ends(0, &["baseline", "set", "main", "tiny"]);
    fs::write(bench.folder.path().join("less.yaml"), gated.replace("[reference, candle]", "[candle]")).unwrap();
    let check = ["baseline", "check", "less.yaml", "--baseline", "main", "--quiet", "--junit", "gates.xml"];
    let told = |code: i32, more: &[&str]| {
        bench.ends(code, &[&check[..], more].concat());
        fs::read_to_string(bench.folder.path().join("gates.xml")).unwrap()
    };
    let unmatched = r#"<testcase name="kernels.set=reference" classname="tiny">"#;
    let xml = told(0, &[]);
    assert!(xml.contains(unmatched) && xml.contains("<skipped message=\"the baseline has this cell"), "{xml}");
    let xml = told(11, &["--strict"]);
    assert!(xml.contains(unmatched) && xml.contains("<failure message=\"the baseline has this cell"), "{xml}");
    let xml = told(12, &["--baseline-exe", "/bin/false"]);
    assert!(xml.contains(r#"<testcase name="kernels.set=candle" classname="tiny">"#), "{xml}");
    assert!(xml.contains("<error message=\"launch ") && xml.contains(r#"type="failed""#), "{xml}");
}

const LADDER: &str = "\
schema: ruvlab/v1
name: tiny
model: {source: builtin:pico}
matrix: {axes: {quantization.format: [q8_0, q4_0]}}
workloads:
  - decode: {prompt_tokens: 8, output_tokens: 8, repetitions: 1}
  - kl_divergence: {n_ctx: 64, chunks: 2, reference: {format: f32}}
kernels: {verify: {reference: null}}
measure: {launches: {min: 2, max: 2}, warmup: 0}
baseline: {cell: {quantization.format: q8_0}, bounds: {kl_mean: 0.5, top1_agreement: 0.5}}
";

#[test]
fn divergences_are_stored_shown_drawn_and_held_to_bounds() {
    let bench = Bench::with(LADDER);
    let table = bench.ends(0, &["run", "tiny.yaml"]);
    for part in ["KL divergence", "top-1 agreement", "q4_0", "verdict against q8_0"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    let charts = bench.folder.path().join("results/tiny/charts");
    assert!(charts.join("kl_divergence.png").is_file());
    assert!(fs::read_to_string(charts.join("pareto.csv")).unwrap().starts_with("cell,run_id,decode_tok_s,kl_mean,"));
    let show = bench.json(&["show", "tiny"]);
    let metrics = show[1]["summary"]["metrics"].as_array().unwrap();
    let mean = metrics.iter().find(|metric| metric["metric"] == "kl_mean").unwrap();
    assert!(mean["interval"]["high"].as_f64() > mean["mean"].as_f64(), "{mean}");
    // A bound is no part of the experiment: the results are there, only the verdict is another.
    let again = bench.run(&["run", "tiny.yaml", "--set", "baseline.bounds.kl_mean=1.0e-4"]);
    assert_eq!(again.status.code(), Some(10), "{}", text(&again.stdout));
    assert!(text(&again.stderr).contains("cached"), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains("> 1e-4 nats"), "{}", text(&again.stdout));
    bench.ends(3, &["plan", "tiny.yaml", "--set", "baseline.bounds.decode_tok_s=5"]);
    let itself = bench.run(&["plan", "tiny.yaml", "--set", "workloads[1].kl_divergence.reference.format=q4_0"]);
    assert_eq!(itself.status.code(), Some(3));
    assert!(text(&itself.stderr).contains("the cell `quantization.format=q4_0` would be held against itself"));

    let arguments = ["perplexity", "-m", "builtin:pico", "--ctx", "64", "--chunks", "2", "--kl-format", "f32"];
    let found = bench.json(&arguments);
    let divergence = &found["kl_divergence"];
    for key in ["mean", "p50", "p99", "p99.9", "max", "top1_agreement", "reference_perplexity", "perplexity_log_ratio"]
    {
        assert!(divergence[key].is_f64(), "{key} of {divergence}");
    }
    assert!(divergence["mean_interval"]["low"].is_f64() && found["perplexity"].is_f64(), "{found}");
    let told = bench.ends(0, &arguments);
    assert!(told.contains("KL divergence ") && told.contains("top-1 agreement ") && told.contains('±'), "{told}");
    bench.ends(2, &["perplexity", "-m", "builtin:pico", "--kl-format", "q9"]);
}

#[test]
fn a_bound_holds_without_a_baseline_cell_and_whatever_becomes_of_the_charts() {
    let recipe = RECIPE.replace("[reference, candle]", "[candle]");
    let bench = Bench::with(&recipe.replace("cell: {kernels.set: reference}", "bounds: {perplexity: 1.0}"));
    let folder = bench.folder.path().join("results/tiny");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("charts"), "in the way").unwrap();
    let output = bench.run(&["run", "tiny.yaml"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(10), "{out}\n{err}");
    for part in ["prompt speed", "verdict on bounds", "regression", "fails at > 1"] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    assert!(err.contains("warning: the charts could not be drawn: cannot write"), "{err}");
    let kept = ["run", "tiny.yaml", "--set", "baseline.bounds.perplexity=1.0e9"];
    let told = bench.json(&kept);
    assert_eq!((&told["charts"], &told["verdicts"][0]["outcome"]), (&Value::Null, &"pass".into()));
}

const SQUARE: &str = "\
schema: ruvlab/v1
name: tiny
model: {source: builtin:pico}
matrix: {axes: {quantization.format: [q8_0, q4_0], kernels.set: [reference, candle]}}
workloads: [{perplexity: {n_ctx: 64, chunks: 1}}]
measure: {launches: {min: 1, max: 1}}
baseline: {cell: {kernels.set: reference}, gates: {perplexity: 50%}}
";

#[test]
fn a_cell_is_held_against_the_baseline_cell_that_agrees_with_it_in_all_else() {
    let bench = Bench::with(SQUARE);
    let table = bench.ends(0, &["run", "tiny.yaml", "--quiet"]);
    assert!(table.contains("verdict against each cell's baseline"), "{table}");
    let pairs = |told: &Value| {
        let label = |verdict: &Value, side: &str| verdict["comparison"][side].as_str().unwrap().to_owned();
        let pair = |verdict: &Value| (label(verdict, "candidate_label"), label(verdict, "baseline_label"));
        told["verdicts"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>()
    };
    let of = |candidate: &str, baseline: &str| (candidate.to_owned(), baseline.to_owned());
    let twins = [of("q8_0 candle", "q8_0 reference"), of("q4_0 candle", "q4_0 reference")];
    assert_eq!(pairs(&bench.json(&["run", "tiny.yaml"])), twins);
    // With a bound, baseline cells are held to it as well.
    let bounded = pairs(&bench.json(&["run", "tiny.yaml", "--set", "baseline.bounds.perplexity=1.0e9"]));
    let [reference, first, other, second] = bounded.as_slice() else { panic!("{bounded:?}") };
    assert_eq!([first, second], [&twins[0], &twins[1]]);
    assert_eq!([reference, other], [&of("q8_0 reference", "q8_0 reference"), &of("q4_0 reference", "q4_0 reference")]);
}
