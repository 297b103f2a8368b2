mod compared;
mod learning;

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

/// Adds a sample of the first repetition of the first launch.
fn add(record: &mut RunRecord, workload: &str, metric: &str, step: Option<u64>, value: f64) {
    record.samples.push(SampleRow { step, ..row(metric, workload, 0, 0, 0, value) });
}

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

/// Checks that nothing is cut off, and returns the size.
fn assert_inside(name: &str, svg: &str) -> usvg::Size {
    let tree = usvg::Tree::from_str(svg, &png::options()).unwrap();
    let (size, ink) = (tree.size(), tree.root().abs_bounding_box());
    let inside = ink.left() >= 0.0 && ink.top() >= 0.0 && ink.right() <= size.width() && ink.bottom() <= size.height();
    assert!(inside, "{name}: {ink:?} in {size:?}");
    size
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
        let size = assert_inside(&file.name, &svg);
        assert!(size.width() == 1000.0, "{}", file.name);
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
fn long_labels_stay_inside() {
    let (_kept, folder) = folder("long");
    let mut records = matrix(&["q8_0", "q4_k"], &["reference", "avx2"]);
    for (at, (record, _)) in records.iter_mut().enumerate() {
        let path =
            format!("hf:organisation/Some-Very-Long-Model-Name-{at}-Instruct@0123456789abcdef:model-q4_k_m.gguf");
        record.manifest.axes.insert("model.source".to_owned(), path.into());
        record.manifest.host.cpu = "AMD EPYC 9R14 96-Core Processor with a very long marketing name indeed".to_owned();
    }
    let mut wanted = baseline("kernels.set", "reference");
    wanted.insert("model.source".to_owned(), records[0].0.manifest.axes["model.source"].clone());
    let drawn = draw_all(&records, Some(&wanted), &folder).unwrap();
    check_files(&drawn);
    assert!(names(&drawn).contains(&"forest"), "{:?}", drawn.skipped);
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
