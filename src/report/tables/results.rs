//! What was measured: the table of a run's cells, and the list of runs.
use std::collections::BTreeMap;

use super::{Column, Entry, Table, Tone};
use crate::{
    event::Arm,
    metrics::{self, METRICS, MetricSummary},
    report::{
        compare::{Comparison, MetricComparison, Side, compare},
        label::{self, Axis},
        number,
        summary::{RunSummary, summarize},
        twins::Twins,
    },
    results::{BaselinePointer, Manifest, RunRecord, RunState},
};

/// The cell all others are compared with, by its axis values, as in a recipe's `baseline.cell`.
pub type BaselineCell = BTreeMap<String, serde_json::Value>;

/// Metrics of the table, with the rank they are left out by on a narrow terminal.
const SHOWN: [(&str, u8); 18] = [
    ("prefill_tok_s", 0),
    ("decode_tok_s", 0),
    ("trace_tok_s", 0),
    ("train_eval_nll", 0),
    ("train_loss", 1),
    ("train_tok_s", 1),
    ("adapt_change_micro", 0),
    ("adapt_change_both", 1),
    ("adapt_both_to_neural", 1),
    ("adapt_both_to_micro", 2),
    ("ttft_ms", 2),
    ("itl_p99_ms", 3),
    ("perplexity", 1),
    ("kl_mean", 1),
    ("needle_accuracy", 2),
    ("top1_agreement", 3),
    ("peak_rss_bytes", 4),
    ("load_ms", 6),
];

/// Metrics whose change against the baseline cell has a column.
const COMPARED: [(&str, u8); 2] = [("prefill_tok_s", 1), ("decode_tok_s", 0)];

fn unit_heading(metric: &metrics::Metric) -> String {
    let unit = number::shown_unit(metric.unit).0;
    if unit.is_empty() { metric.title.to_owned() } else { format!("{}\n{unit}", metric.title) }
}

/// Returns one row a cell: what varies, speeds with the half width of their 95 % interval, latencies,
/// quality, memory, and the change against its baseline cell ([`Twins`]).
#[must_use]
pub fn results_table(records: &[RunRecord], baseline: Option<&BaselineCell>) -> Table {
    let manifests: Vec<&Manifest> = records.iter().map(|record| &record.manifest).collect();
    let axes = label::varying_axes(&manifests);
    let summaries: Vec<RunSummary> = records.iter().map(|record| summarize(record, Arm::Candidate)).collect();
    let twins = Twins::new(&manifests, baseline);
    let comparisons: Vec<Option<Comparison>> = records
        .iter()
        .enumerate()
        .map(|(cell, record)| Some(compare(&Side::of(&records[twins.of(cell)?]), &Side::of(record))))
        .collect();
    let reference = twins.baselines().next().map(|_| (&twins, comparisons.as_slice()));
    let mut table = Table { title: title(&manifests), ..Table::default() };
    table.rows = vec![Vec::new(); records.len()];
    axis_columns(&mut table, &axes, &manifests);
    for (metric, rank) in SHOWN {
        metric_columns(&mut table, metric, rank, &summaries, reference);
    }
    state_column(&mut table, &manifests);
    notes(&mut table, &summaries, &comparisons);
    if baseline.is_some() && reference.is_none() {
        table.notes.push("the baseline cell is not among these runs".to_owned());
    }
    if twins.alone() > 0 {
        let cells = number::count(twins.alone(), "cell has", "cells have");
        let note =
            format!("{cells} no baseline cell with the same seed and the same of what `baseline.cell` does not name");
        table.notes.push(note);
    }
    let mut commits: Vec<String> = manifests.iter().filter_map(|manifest| manifest.model.resolved()).collect();
    commits.dedup();
    table.notes.extend(commits);
    if manifests.iter().any(|manifest| manifest.model.synthetic) {
        let note = "synthetic weights: random numbers; speed and memory count, perplexity means nothing";
        table.notes.push(note.to_owned());
    }
    table
}

fn title(manifests: &[&Manifest]) -> String {
    let mut recipes: Vec<&str> = manifests.iter().map(|manifest| manifest.recipe.as_str()).collect();
    recipes.dedup();
    let facts = label::common_facts(manifests);
    if facts.is_empty() { recipes.join(", ") } else { format!("{}: {facts}", recipes.join(", ")) }
}

fn axis_columns(table: &mut Table, axes: &[Axis], manifests: &[&Manifest]) {
    if axes.is_empty() && manifests.len() > 1 {
        table.columns.push(Column::text("cell", 0));
        for (row, label) in table.rows.iter_mut().zip(label::cell_labels(manifests)) {
            row.push(label.into());
        }
    }
    for axis in axes {
        table.columns.push(Column::text(axis.key.clone(), 0));
        for (row, value) in table.rows.iter_mut().zip(&axis.values) {
            row.push(value.as_str().into());
        }
    }
}

/// Returns the workloads a metric was measured on, in the order of first appearance; parts of them, such
/// as the domains of a stream of requests, are for the charts.
fn workloads_of<'a>(metric: &str, summaries: &'a [RunSummary]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for summary in summaries.iter().flat_map(|summary| summary.metrics.iter().filter(|m| m.metric == metric)) {
        if !summary.workload.contains(")/") && !found.contains(&summary.workload.as_str()) {
            found.push(&summary.workload);
        }
    }
    found
}

type Reference<'a> = (&'a Twins, &'a [Option<Comparison>]);

fn metric_columns(
    table: &mut Table,
    metric: &str,
    rank: u8,
    summaries: &[RunSummary],
    reference: Option<Reference<'_>>,
) {
    let Some(definition) = METRICS.iter().find(|known| known.name == metric) else { return };
    let workloads = workloads_of(metric, summaries);
    for workload in &workloads {
        let place = if workloads.len() > 1 { format!("\n{workload}") } else { String::new() };
        table.columns.push(Column::number(format!("{}{place}", unit_heading(definition)), rank));
        for (row, summary) in table.rows.iter_mut().zip(summaries) {
            row.push(summary.find(metric, workload).map_or_else(Entry::missing, value_entry));
        }
        let compared = COMPARED.iter().find(|(name, _)| *name == metric);
        if let (Some((_, rank)), Some((twins, comparisons))) = (compared, reference) {
            table.columns.push(Column::number(format!("change{place}"), *rank));
            for (cell, (row, comparison)) in table.rows.iter_mut().zip(comparisons).enumerate() {
                let entry = match comparison {
                    _ if twins.is_baseline(cell) => Entry::new("baseline", Tone::Faint),
                    Some(comparison) => change_entry(comparison, metric, workload),
                    None => Entry::missing(),
                };
                row.push(entry);
            }
        }
    }
}

fn value_entry(summary: &MetricSummary) -> Entry {
    number::quantity(summary.mean, summary.interval, &summary.unit).into()
}

fn change_entry(comparison: &Comparison, metric: &str, workload: &str) -> Entry {
    let found = comparison.metrics.iter().find(|change| change.metric == metric && change.workload == workload);
    let Some(change) = found else { return Entry::missing() };
    change.ratio.as_ref().map_or_else(Entry::missing, |ratio| Entry::new(number::change(ratio), tone(change)))
}

/// Returns what a change means: good or bad only when its interval excludes zero.
pub(super) fn tone(change: &MetricComparison) -> Tone {
    let Some(worse) = change.worse() else { return Tone::Plain };
    let (low, high) = worse.interval.map_or((worse.estimate, worse.estimate), |i| (i.low, i.high));
    match (change.deterministic || worse.interval.is_some(), low > 0.0, high < 0.0) {
        (true, true, _) => Tone::Bad,
        (true, _, true) => Tone::Good,
        _ => Tone::Plain,
    }
}

fn state_entry(manifest: &Manifest) -> Entry {
    match manifest.state {
        RunState::Complete => "complete".into(),
        RunState::Running => Entry::new("running", Tone::Doubtful),
        RunState::Failed => Entry::new("failed", Tone::Bad),
        RunState::Invalid => Entry::new("invalid", Tone::Bad),
        RunState::Interrupted => Entry::new("interrupted", Tone::Doubtful),
    }
}

fn state_column(table: &mut Table, manifests: &[&Manifest]) {
    if manifests.iter().all(|manifest| manifest.state == RunState::Complete) {
        return;
    }
    table.columns.push(Column::text("state", 0));
    for (row, manifest) in table.rows.iter_mut().zip(manifests) {
        row.push(state_entry(manifest));
        if let Some(reason) = &manifest.reason {
            table.notes.push(format!("{}: {reason}", label::short_run_id(&manifest.run_id)));
        }
    }
}

fn notes(table: &mut Table, summaries: &[RunSummary], comparisons: &[Option<Comparison>]) {
    let timed = summaries.iter().flat_map(|s| s.metrics.iter().filter(|m| !m.deterministic).map(|m| m.n));
    let launches: Vec<usize> = timed.collect();
    if !launches.is_empty() {
        let n = number::range(&launches);
        table.notes.push(format!("± is half of the 95 % interval of the mean over n={n} launches"));
    }
    let mut single: Vec<String> = Vec::new();
    for (metric, _) in SHOWN {
        if let [workload] = workloads_of(metric, summaries).as_slice()
            && !workload.is_empty()
            && !single.contains(&(*workload).to_owned())
        {
            single.push((*workload).to_owned());
        }
    }
    if !single.is_empty() {
        table.notes.push(format!("workloads: {}", single.join(", ")));
    }
    if comparisons.iter().flatten().any(Comparison::is_advisory) {
        table.notes.push("changes are advisory: not all cells were measured interleaved on one machine".to_owned());
    }
    for (summary, problem) in summaries.iter().flat_map(|s| s.problems.iter().map(move |p| (s, p))) {
        let run = label::short_run_id(&summary.run_id);
        table.notes.push(format!("{run}: {} of {}: {}", problem.metric, problem.workload, problem.reason));
    }
}

/// Returns the list of stored runs, one row each, in the order given.
#[must_use]
pub fn runs_table(manifests: &[Manifest]) -> Table {
    let columns = vec![
        Column::text("run", 0),
        Column::text("recipe", 0),
        Column::text("cell", 1),
        Column::text("model", 3),
        Column::text("kernels", 4),
        Column::text("state", 0),
        Column::number("launches", 5),
        Column::text("started", 2),
    ];
    let rows = manifests
        .iter()
        .map(|manifest| {
            let cell = crate::plan::axes_label(&manifest.axes);
            vec![
                manifest.run_id.as_str().into(),
                manifest.recipe.as_str().into(),
                if cell.is_empty() { Entry::missing() } else { cell.into() },
                format!("{} {}", manifest.model.name, manifest.model.format).into(),
                label::kernel_set_name(manifest.kernel_set).into(),
                state_entry(manifest),
                manifest.launches_complete.to_string().into(),
                day_and_minute(&manifest.started_at).into(),
            ]
        })
        .collect();
    let notes = if manifests.is_empty() { vec!["no runs stored".to_owned()] } else { Vec::new() };
    Table { title: String::new(), columns, rows, notes }
}

/// Returns the list of baselines, one row each, in the order given.
#[must_use]
pub fn baselines_table(baselines: &[BaselinePointer], host_id: &str) -> Table {
    let columns = vec![
        Column::text("baseline", 0),
        Column::text("recipe", 0),
        Column::number("cells", 1),
        Column::text("set", 2),
        Column::text("machine", 3),
        Column::text("build", 4),
    ];
    let rows = baselines
        .iter()
        .map(|baseline| {
            let here = if baseline.host_id == host_id { "this one" } else { baseline.host_id.as_str() };
            vec![
                baseline.name.as_str().into(),
                baseline.recipe.as_str().into(),
                baseline.cells.len().to_string().into(),
                day_and_minute(&baseline.set_at).into(),
                here.into(),
                baseline.build.as_str().into(),
            ]
        })
        .collect();
    let notes = if baselines.is_empty() { vec!["no baselines are set".to_owned()] } else { Vec::new() };
    Table { columns, rows, notes, ..Table::default() }
}

fn day_and_minute(timestamp: &str) -> String {
    timestamp.get(..16).unwrap_or(timestamp).replace('T', " ")
}
