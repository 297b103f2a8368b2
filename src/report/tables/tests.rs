use std::collections::BTreeMap;

use super::*;
use crate::{
    report::{
        compare::{Side, compare},
        gate::{GateReport, Thresholds, gate},
        testing::{Truth, cell, check, manifest},
    },
    results::{RunRecord, RunState},
};

/// The table as text without `ui`, which `report` may not import: fields between bars.
fn plain(table: &Table) -> String {
    let mut lines = vec![table.title.clone()];
    lines.push(table.columns.iter().map(|c| c.heading.replace('\n', " / ")).collect::<Vec<_>>().join(" | "));
    for row in &table.rows {
        assert_eq!(row.len(), table.columns.len());
        lines.push(row.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>().join(" | "));
    }
    lines.extend(table.notes.iter().map(|note| format!("* {note}")));
    lines.join("\n")
}

fn records() -> Vec<RunRecord> {
    let slow = Truth { decode_tok_s: 21.0, prefill_tok_s: 96.0, ..Truth::default() };
    let axes = |kernels: &'static str| [("kernels.set", kernels), ("quantization.format", "q8_0")];
    vec![cell(&axes("reference"), 1, slow).0, cell(&axes("avx2"), 2, Truth::default()).0]
}

fn reference() -> BaselineCell {
    BTreeMap::from([("kernels.set".to_owned(), "reference".into())])
}

fn report(candidate: Truth) -> GateReport {
    let run = check(Truth::default(), candidate, 11);
    gate(compare(&Side::rerun(&manifest(), &run), &Side::of(&run)), &Thresholds::default()).unwrap()
}

#[test]
fn results_show_what_varies_speeds_and_changes() {
    insta::assert_snapshot!("results", plain(&results_table(&records(), Some(&reference()))));
}

#[test]
fn changes_are_against_the_baseline_cell_of_the_same_format() {
    let measured = |kernels: &str, format: &str, number: u32, decode_tok_s: f64| {
        let axes = [("kernels.set", kernels), ("quantization.format", format)];
        cell(&axes, number, Truth { decode_tok_s, ..Truth::default() }).0
    };
    let records = [
        measured("reference", "q8_0", 1, 20.0),
        measured("reference", "q4_k", 2, 40.0),
        measured("avx2", "q8_0", 3, 40.0),
        measured("avx2", "q4_k", 4, 80.0),
        measured("avx2", "f16", 5, 30.0),
    ];
    let table = results_table(&records, Some(&reference()));
    let at = 1 + table.columns.iter().position(|c| c.heading.starts_with("generation speed")).unwrap();
    let changes: Vec<&str> = table.rows.iter().map(|row| row[at].text.as_str()).collect();
    assert_eq!([changes[0], changes[1], changes[4]], ["baseline", "baseline", "-"]);
    // Twice as fast each, within the noise of five launches.
    assert!(changes[2..4].iter().all(|text| text.starts_with("+9") || text.starts_with("+10")), "{changes:?}");
    assert!(table.notes.iter().any(|note| note.starts_with("1 cell has no baseline cell")), "{:?}", table.notes);
}

#[test]
fn results_of_one_cell_have_no_axis_and_no_change() {
    let table = results_table(&records()[..1], None);
    assert_eq!(table.columns[0].heading, "prompt speed\ntokens/s");
    assert!(table.columns.iter().all(|column| !column.heading.starts_with("change")));
}

#[test]
fn what_failed_is_shown_with_its_reason() {
    let mut records = records();
    records[1].manifest.state = RunState::Invalid;
    records[1].manifest.reason = Some("nmse 0.2 exceeds 0.0005".to_owned());
    let table = results_table(&records, Some(&reference()));
    assert_eq!(table.columns.last().unwrap().heading, "state");
    assert_eq!(table.rows[1].last().unwrap(), &Entry::new("invalid", Tone::Bad));
    assert!(table.notes.iter().any(|note| note.ends_with("nmse 0.2 exceeds 0.0005")), "{:?}", table.notes);
}

#[test]
fn two_workloads_of_a_metric_are_two_columns() {
    let mut records = records();
    let more: Vec<_> = records[0].samples.iter().filter(|row| row.metric == "decode_tok_s").cloned().collect();
    records[0].samples.extend(more.into_iter().map(|mut row| {
        row.workload = "decode(p8,n8)".to_owned();
        row
    }));
    let table = results_table(&records, None);
    let decode: Vec<_> = table.columns.iter().filter(|c| c.heading.starts_with("generation")).collect();
    assert_eq!(decode.len(), 2);
    assert!(decode[1].heading.ends_with("decode(p8,n8)"));
    assert_eq!(table.rows[1].iter().filter(|entry| entry.text == "-").count(), 1);
}

#[test]
fn a_comparison_shows_both_sides() {
    let records = records();
    let comparison = compare(&Side::of(&records[0]), &Side::of(&records[1]));
    insta::assert_snapshot!("comparison", plain(&comparison_table(&comparison)));
    insta::assert_snapshot!("differences", plain(&differences_table(&comparison)));
}

#[test]
fn gates_show_thresholds_and_verdicts() {
    let candidate = Truth { decode_tok_s: 44.0, noise: 0.004, ..Truth::default() };
    insta::assert_snapshot!("gates", plain(&gate_table(&report(candidate))));
}

#[test]
fn tones_say_what_is_sure() {
    let table = gate_table(&report(Truth { decode_tok_s: 44.0, noise: 0.004, ..Truth::default() }));
    let verdict = |gate: &str| {
        let row = table.rows.iter().find(|row| row[0].text == gate).unwrap();
        row.last().unwrap().tone
    };
    assert_eq!((verdict("generation speed"), verdict("peak memory")), (Tone::Bad, Tone::Good));
}

#[test]
fn runs_are_listed_in_the_order_given() {
    let manifests: Vec<_> = records().into_iter().map(|record| record.manifest).collect();
    let table = runs_table(&manifests);
    assert_eq!(table.rows[0][0].text, manifests[0].run_id);
    assert_eq!(table.rows[1][2].text, "kernels.set=avx2 quantization.format=q8_0");
    assert_eq!(table.rows[0].last().unwrap().text, "2026-11-22 10:00");
    assert_eq!(runs_table(&[]).notes, ["no runs stored"]);
}
