use std::{collections::BTreeMap, path::PathBuf};

use resvg::{tiny_skia, usvg, usvg::roxmltree};

use super::*;
use crate::{
    metrics::{SampleRow, testing::row},
    report::{
        compare::{Side, compare},
        gate::{Thresholds, gate},
        testing::{DECODE, Truth, cell, check, manifest},
    },
};

type Records = Vec<(RunRecord, Vec<TokenRow>)>;

/// Where the pictures go: a folder to look at them when `RUVLAB_PICTURES` names one.
fn folder(name: &str) -> (Option<tempfile::TempDir>, PathBuf) {
    match std::env::var_os("RUVLAB_PICTURES") {
        Some(root) => (None, PathBuf::from(root).join(name)),
        None => {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path().to_owned();
            (Some(temporary), path)
        }
    }
}

fn two() -> Records {
    let slow = Truth { decode_tok_s: 21.0, prefill_tok_s: 96.0, ..Truth::default() };
    let fast = Truth { decode_tok_s: 52.0, prefill_tok_s: 410.0, ..Truth::default() };
    vec![cell(&[("kernels.set", "reference")], 1, slow), cell(&[("kernels.set", "avx2")], 2, fast)]
}

fn matrix(formats: &[&str], kernels: &[&str]) -> Records {
    let mut records = Vec::new();
    for kernel in kernels {
        for format in formats {
            let speed = match *format {
                "f16" => 0.55,
                "q8_0" => 1.0,
                "q6_k" => 1.15,
                "q5_k" => 1.28,
                _ => 1.62,
            };
            let kernel_speed = match *kernel {
                "reference" => 17.0,
                "candle" => 29.0,
                _ => 47.0,
            };
            let perplexity = match *format {
                "f16" => 7.31,
                "q8_0" => 7.32,
                "q6_k" => 7.36,
                "q5_k" => 7.41,
                _ => 7.62,
            };
            let truth = Truth {
                decode_tok_s: speed * kernel_speed,
                prefill_tok_s: 7.5 * kernel_speed * speed.sqrt(),
                perplexity: Some(perplexity),
                noise: 0.012,
                launches: 8,
            };
            let number = records.len() as u32 + 1;
            records.push(cell(&[("kernels.set", *kernel), ("quantization.format", *format)], number, truth));
        }
    }
    records
}

fn baseline(key: &str, value: &str) -> BaselineCell {
    BTreeMap::from([(key.to_owned(), value.into())])
}

fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let nodes = document.descendants().filter(|node| node.has_tag_name("text"));
    nodes.filter_map(|node| node.text().map(|text| text.trim().to_owned())).collect()
}

/// Checks what is true of every chart: well-formed, nothing cut off, a picture of the right size that
/// is not blank, numbers beside it.
fn check_files(drawn: &Drawn) {
    for file in &drawn.files {
        let svg = fs::read_to_string(&file.svg).unwrap();
        assert!(texts(&svg).iter().any(|text| text.contains("95 %")
            || text.contains("launches")
            || text.contains("gaps")
            || text.contains("nats/token")));
        let tree = usvg::Tree::from_str(&svg, &png::options()).unwrap();
        let (size, ink) = (tree.size(), tree.root().abs_bounding_box());
        assert!(size.width() == 1000.0, "{}", file.name);
        let inside =
            ink.left() >= 0.0 && ink.top() >= 0.0 && ink.right() <= size.width() && ink.bottom() <= size.height();
        assert!(inside, "{}: {ink:?} in {size:?}", file.name);
        let pixels = tiny_skia::Pixmap::decode_png(&fs::read(&file.png).unwrap()).unwrap();
        assert_eq!(pixels.width(), 2000, "{}", file.name);
        assert_eq!(pixels.height(), (size.height() * 2.0).ceil() as u32, "{}", file.name);
        let white = pixels.pixels().iter().filter(|p| (p.red(), p.green(), p.blue()) == (255, 255, 255)).count();
        let share = white as f64 / pixels.pixels().len() as f64;
        assert!((0.2..0.99).contains(&share), "{}: {share} white", file.name);
        let csv = fs::read_to_string(&file.csv).unwrap();
        assert!(csv.lines().count() > 1, "{}", file.name);
    }
}

fn names(drawn: &Drawn) -> Vec<&str> {
    drawn.files.iter().map(|file| file.name.as_str()).collect()
}

#[test]
fn two_cells_are_drawn_with_labels_and_units() {
    let (_kept, folder) = folder("two");
    let drawn = draw_all(&two(), Some(&baseline("kernels.set", "reference")), &folder).unwrap();
    check_files(&drawn);
    assert_eq!(names(&drawn), ["throughput", "itl_ecdf", "pareto", "forest"]);
    assert_eq!(drawn.skipped.len(), 1, "{:?}", drawn.skipped);
    let throughput = texts(&fs::read_to_string(&drawn.files[0].svg).unwrap());
    for expected in ["reference", "avx2", &format!("generation speed, tokens/s · {DECODE}")] {
        assert!(throughput.iter().any(|text| text == expected), "{expected} in {throughput:?}");
    }
    let ecdf = texts(&fs::read_to_string(&drawn.files[1].svg).unwrap());
    assert!(ecdf.iter().any(|text| text.starts_with("gap between tokens, ms")));
    for expected in ["p50", "p95", "p99", "share of gaps, %"] {
        assert!(ecdf.iter().any(|text| text == expected), "{expected}");
    }
}

#[test]
fn a_matrix_of_twelve_gets_every_chart() {
    let (_kept, folder) = folder("twelve");
    let records = matrix(&["f16", "q8_0", "q5_k", "q4_k"], &["reference", "candle", "avx2"]);
    let wanted = BTreeMap::from([
        ("kernels.set".to_owned(), "reference".into()),
        ("quantization.format".to_owned(), "q8_0".into()),
    ]);
    let drawn = draw_all(&records, Some(&wanted), &folder).unwrap();
    check_files(&drawn);
    assert_eq!(names(&drawn), ["throughput", "itl_ecdf", "pareto", "heatmap", "forest"]);
    assert!(drawn.skipped.is_empty(), "{:?}", drawn.skipped);
    let heatmap = fs::read_to_string(&drawn.files[3].csv).unwrap();
    assert_eq!(heatmap.lines().count(), 13);
}

#[test]
fn four_cells_with_a_hole_mark_what_is_missing() {
    let (_kept, folder) = folder("four");
    let mut records = matrix(&["q8_0", "q4_k"], &["reference", "avx2"]);
    records[3].0.samples.retain(|row| row.workload != DECODE);
    let drawn = draw_all(&records, None, &folder).unwrap();
    check_files(&drawn);
    assert_eq!(names(&drawn), ["throughput", "itl_ecdf", "pareto", "heatmap"]);
    for at in [0, 3] {
        let texts = texts(&fs::read_to_string(&drawn.files[at].svg).unwrap());
        assert!(texts.iter().any(|text| text == "not measured"), "{}", drawn.files[at].name);
    }
    assert_eq!(drawn.skipped[0].reason, "no baseline cell to compare with (baseline.cell)");
}

#[test]
fn one_cell_without_perplexity_says_what_it_lacks() {
    let (_kept, folder) = folder("one");
    let records = vec![cell(&[], 1, Truth { perplexity: None, ..Truth::default() })];
    let drawn = draw_all(&records, None, &folder).unwrap();
    check_files(&drawn);
    assert_eq!(names(&drawn), ["throughput", "itl_ecdf"]);
    let skipped: Vec<_> = drawn.skipped.iter().map(|skip| (skip.name.as_str(), skip.reason.as_str())).collect();
    assert_eq!(skipped[0], ("pareto", "no perplexity was measured"));
}

/// Adds what a divergence from f32 measures: its windows and the whole.
fn with_kl(records: &mut Records) {
    const KL: &str = "kl_divergence(heldout,c256,k8,vs f32)";
    for (record, _) in records {
        let mean = match record.manifest.model.format.as_str() {
            "f16" => 3.1e-6,
            "q8_0" => 1.2e-4,
            "q6_k" => 1.6e-3,
            "q5_k" => 6.3e-3,
            _ => 2.4e-2,
        };
        let mut add = |metric: &str, value: f64, step: Option<u64>| {
            let mut row = row(metric, KL, 0, 80, 0, value);
            row.step = step;
            record.manifest.run_id.clone_into(&mut row.run_id);
            record.samples.push(row);
        };
        for window in 0..8u32 {
            let around = 1.0 + 0.06 * (f64::from(window) - 3.5);
            add("kl_mean", mean * around, Some(window.into()));
            add("top1_agreement", 1.0 - mean.sqrt() * 0.4 * around, Some(window.into()));
        }
        for (metric, value) in [("kl_mean", mean), ("kl_p50", mean * 0.3), ("kl_p99", mean * 9.0)] {
            add(metric, value, None);
        }
        add("top1_agreement", 1.0 - mean.sqrt() * 0.4, None);
    }
}

#[test]
fn divergences_are_drawn_and_stand_for_quality() {
    let (_kept, folder) = folder("ladder");
    let mut records = matrix(&["f16", "q8_0", "q6_k", "q5_k", "q4_k"], &["avx2"]);
    with_kl(&mut records);
    let drawn = draw_all(&records, Some(&baseline("quantization.format", "f16")), &folder).unwrap();
    check_files(&drawn);
    assert_eq!(names(&drawn), ["throughput", "itl_ecdf", "pareto", "kl_divergence", "forest"]);
    let pareto = texts(&fs::read_to_string(&drawn.files[2].svg).unwrap());
    for expected in ["KL divergence from the reference, nats (lower is better, logarithmic)", "q6_k · 105.6 MiB"] {
        assert!(pareto.iter().any(|text| text == expected), "{expected} in {pareto:?}");
    }
    let divergences = texts(&fs::read_to_string(&drawn.files[3].svg).unwrap());
    for expected in ["q8_0", "1.20e-4 ±0.15e-4", "top-1 agreement, %", "KL divergence, nats (logarithmic)"] {
        assert!(divergences.iter().any(|text| text == expected), "{expected} in {divergences:?}");
    }
    let csv = fs::read_to_string(&drawn.files[3].csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 5 * 4, "{csv}");
}

#[test]
fn a_divergence_of_zero_has_a_place() {
    let (_kept, folder) = folder("zero");
    let mut records = two();
    with_kl(&mut records);
    for row in &mut records[0].0.samples {
        if row.metric.starts_with("kl_") {
            row.value = 0.0;
        }
    }
    check_files(&draw_all(&records, None, &folder).unwrap());
}

#[test]
fn trainings_are_drawn_step_by_step_with_the_loss_under_the_schedule() {
    let mut records = two();
    for (at, (record, _)) in records.iter_mut().enumerate() {
        let value = |metric: &str, step: u64| match metric {
            "train_learning_rate" => 1.0e-3 * (1.0 - step as f64 / 40.0),
            _ => 2.0 + 1.5 * (-(step as f64) / (10.0 + 5.0 * at as f64)).exp(),
        };
        for metric in ["train_learning_rate", "train_loss", "train_eval_nll"] {
            // A launch that was stopped after ten steps, and the one that ended.
            for (launch, steps) in [(0, 10), (1, 40)] {
                let rows = (0..steps).map(|step| SampleRow {
                    step: Some(step),
                    ..row(metric, "train(french.train)", 0, launch, 0, value(metric, step))
                });
                record.samples.extend(rows);
            }
            record.samples.push(row(metric, "train(french.train)", 0, 1, 0, value(metric, 39)));
        }
    }
    let (_guard, path) = folder("training");
    let drawn = draw_all(&records, None, &path).unwrap();
    check_files(&drawn);
    let file = drawn.files.iter().find(|file| file.name == "training").unwrap();
    let svg = fs::read_to_string(&file.svg).unwrap();
    let texts = texts(&svg).join("\n");
    for expected in ["learning rate", "loss, nats/token", "held-out loss, nats/token", "step"] {
        assert!(texts.contains(expected), "{expected}: {texts}");
    }
    let csv = fs::read_to_string(&file.csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 3 * 40);
}

#[test]
fn long_labels_stay_inside() {
    let (_kept, folder) = folder("long");
    let mut records = matrix(&["q8_0", "q4_k"], &["reference", "avx2"]);
    for (at, (record, _)) in records.iter_mut().enumerate() {
        let path =
            format!("hf:organisation/Some-Very-Long-Model-Name-{at}-Instruct@0123456789abcdef:model-q4_k_m.gguf");
        record.manifest.axes.insert("model.source".to_owned(), path.into());
        record.manifest.host.cpu = "AMD EPYC 9R14 96-Core Processor with a very long marketing name indeed".to_owned();
    }
    let wanted = baseline("kernels.set", "reference");
    check_files(&draw_all(&records, Some(&wanted), &folder).unwrap());
}

#[test]
fn without_anything_measured_nothing_is_drawn() {
    let (mut record, _) = cell(&[], 1, Truth::default());
    record.samples.clear();
    let (charts, skipped) = draw(&[(record, Vec::new())], None).unwrap();
    assert!(charts.is_empty());
    assert_eq!(skipped.len(), 5);
    assert!(draw(&[], None).unwrap().0.is_empty());
}

#[test]
fn gates_are_drawn_with_their_thresholds() {
    let (_kept, folder) = folder("gates");
    let candidate = Truth { decode_tok_s: 44.0, perplexity: Some(7.47), ..Truth::default() };
    let run = check(Truth::default(), candidate, 4);
    let stored = manifest();
    let report = gate(compare(&Side::rerun(&stored, &run), &Side::of(&run)), &Thresholds::default()).unwrap();
    let chart = draw_gates(&[report]).unwrap().unwrap();
    let drawn = Drawn { files: vec![write(&chart, &folder).unwrap()], skipped: Vec::new() };
    check_files(&drawn);
    let texts = texts(&chart.svg);
    assert!(texts.iter().any(|text| text.contains("threshold 3 %")), "{texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("regression")), "{texts:?}");
    assert!(chart.csv.contains("perplexity") && chart.csv.contains("regression"));
}

#[test]
fn text_is_as_wide_as_we_think() {
    let sample = "decode(p128,n64) 38.2 ±1.1 tokens/s ×3.44 · AMD EPYC 9R14 q4_k_m, 95 % (Student's t); ABC xyz";
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="2000" height="50"><text x="0" y="30" font-family="{}" font-size="20">{sample}</text></svg>"#,
        text::FAMILY
    );
    let tree = usvg::Tree::from_str(&svg, &png::options()).unwrap();
    let real = f64::from(tree.root().abs_bounding_box().width());
    let ours = text::width(sample, 20.0);
    assert!((ours / real - 1.0).abs() <= 0.02, "{ours} against {real}");
}

#[test]
fn equal_records_give_equal_drawings() {
    let wanted = baseline("kernels.set", "reference");
    assert_eq!(draw(&two(), Some(&wanted)).unwrap(), draw(&two(), Some(&wanted)).unwrap());
}

#[test]
fn a_full_cache_is_drawn_over_time_by_position_and_against_its_memory() {
    const WORKLOAD: &str = "kv_pressure(r4,p8,n8,heldout,c64,b2)";
    let mut records = two();
    for (number, (record, _)) in (0u32..).zip(&mut records) {
        let mut add = |metric: &str, step: Option<u64>, value: f64| {
            let mut row = row(metric, WORKLOAD, 0, 0, 0, value);
            row.step = step;
            record.samples.push(row);
        };
        for step in 0..20 {
            add("kv_used_bytes", Some(step), f64::from(number + 1) * 1_048_576.0 * (step + 1) as f64);
            add("step_ms", Some(step), if step == 7 { 9.0 } else { 1.0 });
            add("nll_at_position", Some(step * 4 + 1), 3.0 - f64::from(number));
        }
        add("kv_stall_ms", Some(7), 8.0);
        add("kv_peak_bytes", None, f64::from(number + 1) * 20.0 * 1_048_576.0);
        add("kl_mean", None, 0.01 * f64::from(number));
    }
    let (charts, _) = draw(&records, None).unwrap();
    let chart = |name: &str| charts.iter().find(|chart| chart.name == name).unwrap_or_else(|| panic!("no {name}"));
    for name in ["cache_memory", "cache_steps", "cache_quality", "cache_position"] {
        let svg = &chart(name).svg;
        let (tree, document) = (usvg::Tree::from_str(svg, &png::options()).unwrap(), texts(svg).concat());
        let (size, ink) = (tree.size(), tree.root().abs_bounding_box());
        assert!(ink.left() >= 0.0 && ink.right() <= size.width() && ink.bottom() <= size.height(), "{name}: {ink:?}");
        assert!(document.contains("reference") && document.contains("avx2"), "{name}: {document}");
    }
    let memory = &chart("cache_memory").csv;
    assert_eq!(memory.lines().count(), 41);
    assert!(memory.lines().any(|line| line.ends_with(",19,40") || line.ends_with(",19.0,40.0")), "{memory}");
    let steps = &chart("cache_steps").csv;
    assert_eq!(steps.lines().filter(|line| line.ends_with("true")).count(), 2, "{steps}");
    let (plain, _) = draw(&two(), None).unwrap();
    assert!(plain.iter().all(|chart| !chart.name.starts_with("cache")), "nothing is missing where nothing was full");
}

#[test]
fn streams_of_requests_are_drawn_by_arm_and_domain() {
    const STREAM: &str = "adapt(2x8,p8,n8,interleaved)";
    let mut records = two();
    records.truncate(1);
    for (label, shift) in [(STREAM.to_owned(), 0.0), (format!("{STREAM}/a"), -0.02), (format!("{STREAM}/b"), 0.02)] {
        for (metric, mean) in
            [("unigram", -0.01), ("neural", -0.09), ("micro", -0.04), ("both", -0.11), ("placebo", 0.01)]
        {
            let metric = format!("adapt_change_{metric}");
            let mut add = |step: Option<u64>, value: f64| {
                let mut row = row(&metric, &label, 0, 0, 0, value);
                row.step = step;
                records[0].0.samples.push(row);
            };
            (0..8).for_each(|step| add(Some(step), mean + shift + 0.001 * step as f64));
            add(None, mean + shift);
        }
    }
    let (charts, _) = draw(&records, None).unwrap();
    let chart = charts.iter().find(|chart| chart.name == "adaptation").unwrap();
    let tree = usvg::Tree::from_str(&chart.svg, &png::options()).unwrap();
    let (size, ink) = (tree.size(), tree.root().abs_bounding_box());
    assert!(ink.left() >= 0.0 && ink.right() <= size.width() && ink.bottom() <= size.height(), "{ink:?}");
    let words = texts(&chart.svg).concat();
    assert!(words.contains("all domains") && words.contains("MicroLoRA") && words.contains("placebo"), "{words}");
    assert_eq!(chart.csv.lines().count(), 16);
    let row = chart.csv.lines().find(|line| line.contains(",b,neural cache,")).unwrap();
    assert!(row.contains(",-0.0699") || row.contains(",-0.07,"), "{row}");
    assert_eq!(charts.iter().filter(|chart| chart.name.starts_with("adaptation")).count(), 1);
}

#[test]
fn learning_loops_are_drawn_by_arm_over_seeds() {
    const STREAM: &str = "sona(2x8,p8,n8,blocked)";
    let mut records = two();
    records.extend(two());
    for (number, (record, _)) in records.iter_mut().enumerate() {
        // Two arms of two seeds.
        let axes = [("sona.instant.enabled", (number % 2 == 1).into()), ("seed", (number / 2).into())];
        record.manifest.axes = axes.into_iter().map(|(axis, value)| (axis.to_owned(), value)).collect();
        let change = if number % 2 == 1 { -0.05 - 0.01 * number as f64 } else { 0.0 };
        for metric in ["sona_change", "sona_test_change", "sona_general_drift"] {
            let mut add = |step: Option<u64>, value: f64| {
                let mut row = row(metric, STREAM, 0, 0, 0, value);
                row.step = step;
                record.samples.push(row);
            };
            (0..8).for_each(|step| add(Some(step), change));
            add(None, change);
        }
    }
    let (charts, _) = draw(&records, None).unwrap();
    let chart = |name: &str| charts.iter().find(|chart| chart.name == name).unwrap_or_else(|| panic!("no {name}"));
    for name in ["sona", "sona-stream"] {
        let svg = &chart(name).svg;
        let tree = usvg::Tree::from_str(svg, &png::options()).unwrap();
        let (size, ink, words) = (tree.size(), tree.root().abs_bounding_box(), texts(svg).concat());
        assert!(ink.left() >= 0.0 && ink.right() <= size.width() && ink.bottom() <= size.height(), "{name}: {ink:?}");
        assert!(words.contains("no loop") && words.contains("instant"), "{words}");
    }
    let rows = &chart("sona").csv;
    assert_eq!(rows.lines().count(), 7);
    // The mean over seeds.
    assert!(rows.lines().any(|line| line.contains("sona_change,instant,2,-7")), "{rows}");
    assert_eq!(chart("sona-stream").csv.lines().count(), 17);
    assert!(draw(&two(), None).unwrap().0.iter().all(|chart| !chart.name.starts_with("sona")));
}
