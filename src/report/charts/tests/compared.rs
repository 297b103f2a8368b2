//! What counts in a chart, and what is compared with what.
use std::collections::BTreeSet;

use super::*;

fn chart<'a>(charts: &'a [Chart], name: &str) -> &'a Chart {
    charts.iter().find(|chart| chart.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Returns the fields of a column, those of all rows that begin so.
fn column<'a>(csv: &'a str, beginning: &str, name: &str) -> Vec<&'a str> {
    let fields = |line: &'a str| -> Vec<&'a str> {
        let mut is_quoted = false;
        let ends = |c: char| {
            is_quoted ^= c == '"';
            c == ',' && !is_quoted
        };
        line.split(ends).collect()
    };
    let at = fields(csv.lines().next().unwrap()).into_iter().position(|field| field == name).unwrap();
    let rows = csv.lines().skip(1).filter(|line| line.starts_with(beginning));
    rows.map(|line| fields(line)[at]).collect()
}

#[test]
fn tokens_of_launches_that_did_not_finish_are_not_drawn() {
    let mut records = two();
    for row in records[0].0.samples.iter_mut().filter(|row| row.launch == 0) {
        (row.valid, row.reason) = (false, Some("launch failed: out of memory".to_owned()));
    }
    let (charts, _) = draw(&records, None).unwrap();
    let csv = &chart(&charts, "itl_ecdf").csv;
    let gaps: BTreeSet<(&str, &str)> = ["reference", "avx2"]
        .into_iter()
        .flat_map(|cell| column(csv, cell, "gaps").into_iter().map(move |n| (cell, n)))
        .collect();
    // Five launches of 64 tokens, one of them failed.
    assert_eq!(gaps.into_iter().collect::<Vec<_>>(), [("avx2", "315"), ("reference", "252")]);
}

#[test]
fn cells_are_compared_with_the_baseline_cell_of_their_own_format() {
    let records = matrix(&["q8_0", "q4_k"], &["reference", "avx2"]);
    let (charts, _) = draw(&records, Some(&baseline("kernels.set", "reference"))).unwrap();
    for name in ["throughput", "forest"] {
        assert_inside(name, &chart(&charts, name).svg);
    }
    let forest = chart(&charts, "forest");
    assert_eq!(forest.title, "smoke: change against each cell's baseline");
    let changes: Vec<f64> =
        column(&forest.csv, "decode_tok_s", "change").iter().map(|change| change.parse().unwrap()).collect();
    // Both formats run 47 / 17 as fast on avx2; across formats it would be far from that.
    assert_eq!(changes.len(), 2, "{}", forest.csv);
    assert!(changes.iter().all(|change| (change - (47.0 / 17.0 - 1.0)).abs() <= 0.15), "{changes:?}");
    let told = texts(&chart(&charts, "throughput").svg).join(" ");
    assert!(told.contains("each cell's baseline") && told.contains("×2."), "{told}");
}

/// A method's matrix of two tasks with what is made of it.
fn course(record: &mut RunRecord, workload: &str, forgetting: f64) {
    add(record, workload, "forgetting", None, forgetting);
    add(record, workload, "plasticity_loss", None, 0.1 * forgetting);
    for (through, task, value) in
        [(0, "a", 4.0), (1, "a", 2.0), (2, "a", 2.0 + forgetting), (0, "b", 5.0), (2, "b", 3.0)]
    {
        let found = row("task_nll", workload, 0, 0, 0, value);
        record.samples.push(SampleRow { task: Some(task.to_owned()), trained_through: Some(through), ..found });
    }
}

const COURSES: [&str; 3] = ["continual(sequential,o0)", "continual(ewc_pp,l10,o0)", "continual(ewc_pp,l100,o0)"];

#[test]
fn only_cells_that_differ_in_their_seed_alone_are_averaged() {
    let mut records = two();
    records.extend(two());
    for (number, (record, _)) in records.iter_mut().enumerate() {
        // Two ranks of two seeds.
        let (rank, seed) = ([4, 16][number % 2], number as u64 / 2);
        record.manifest.seed = seed;
        record.manifest.axes = [("adapter.r", rank), ("seed", seed)]
            .into_iter()
            .map(|(axis, value)| (axis.to_owned(), value.into()))
            .collect();
        for (at, workload) in COURSES.iter().enumerate() {
            course(record, workload, 0.01 * rank as f64 + 0.002 * seed as f64 - 0.01 * at as f64);
        }
    }
    let (charts, _) = draw(&records, None).unwrap();
    for name in ["continual_frontier", "continual_lambda", "continual_matrix"] {
        let svg = &chart(&charts, name).svg;
        assert_inside(name, svg);
        let told = texts(svg).concat();
        assert!(told.contains("r=4") && told.contains("r=16"), "{name}: {told}");
    }
    let frontier = &chart(&charts, "continual_frontier").csv;
    assert_eq!(column(frontier, "sequential", "arm"), ["r=4", "r=16"]);
    assert_eq!(column(frontier, "ewc_pp", "n"), ["2"; 4]);
    let means = column(frontier, "sequential", "forgetting").into_iter().map(|mean| mean.parse::<f64>().unwrap());
    for (mean, expected) in means.zip([0.041, 0.161]) {
        assert!((mean - expected).abs() <= 1e-12, "{frontier}");
    }
    let matrix = &chart(&charts, "continual_matrix").csv;
    assert_eq!(matrix.lines().count(), 1 + 2 * 3 * 5, "{matrix}");
}

#[test]
fn one_experiment_of_several_seeds_has_plain_names() {
    let mut records = two();
    for (seed, (record, _)) in records.iter_mut().enumerate() {
        record.manifest.seed = seed as u64;
        record.manifest.axes = [("seed".to_owned(), seed.into())].into_iter().collect();
        course(record, COURSES[0], 0.1);
        course(record, COURSES[1], 0.05);
    }
    let (charts, _) = draw(&records, None).unwrap();
    let frontier = &chart(&charts, "continual_frontier").csv;
    assert_eq!((column(frontier, "ewc_pp", "arm"), column(frontier, "ewc_pp", "n")), (vec![""], vec!["2"]));
}
