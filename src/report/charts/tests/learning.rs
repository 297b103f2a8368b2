//! Charts of trainings, full caches and streams of requests.
use super::*;

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
fn a_full_cache_is_drawn_over_time_by_position_and_against_its_memory() {
    const WORKLOAD: &str = "kv_pressure(r4,p8,n8,heldout,c64,b2)";
    let mut records = two();
    for (number, (record, _)) in (0u32..).zip(&mut records) {
        let mut add = |metric: &str, step, value| add(record, WORKLOAD, metric, step, value);
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
        assert_inside(name, svg);
        let document = texts(svg).concat();
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
            let mut add = |step, value| add(&mut records[0].0, &label, &metric, step, value);
            (0..8).for_each(|step| add(Some(step), mean + shift + 0.001 * step as f64));
            add(None, mean + shift);
        }
    }
    let (charts, _) = draw(&records, None).unwrap();
    let chart = charts.iter().find(|chart| chart.name == "adaptation").unwrap();
    assert_inside(&chart.name, &chart.svg);
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
            (0..8).for_each(|step| add(record, STREAM, metric, Some(step), change));
            add(record, STREAM, metric, None, change);
        }
    }
    let (charts, _) = draw(&records, None).unwrap();
    let chart = |name: &str| charts.iter().find(|chart| chart.name == name).unwrap_or_else(|| panic!("no {name}"));
    for name in ["sona", "sona-stream"] {
        let svg = &chart(name).svg;
        assert_inside(name, svg);
        let words = texts(svg).concat();
        assert!(words.contains("no loop") && words.contains("instant"), "{words}");
    }
    let rows = &chart("sona").csv;
    assert_eq!(rows.lines().count(), 7);
    // The mean over seeds.
    assert!(rows.lines().any(|line| line.contains("sona_change,instant,2,-7")), "{rows}");
    assert_eq!(chart("sona-stream").csv.lines().count(), 17);
    assert!(draw(&two(), None).unwrap().0.iter().all(|chart| !chart.name.starts_with("sona")));
}
