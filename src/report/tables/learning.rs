//! What learning came to: a row for each method, or each set of loops, over all seeds and orders of tasks.
use indexmap::IndexMap;

use super::{Column, Entry, Table};
use crate::{
    event::Arm,
    metrics::{
        METRICS, MetricSummary,
        stats::{self, CONFIDENCE, Interval},
    },
    report::{
        label::{self, Axis},
        number,
        summary::{RunSummary, summarize},
    },
    results::RunRecord,
};

/// A number of things, which has no unit either.
const COUNT: &str = "sona_commits";

/// Metrics of the table, with the rank they are left out by on a narrow terminal.
const SHOWN: [(&str, u8); 16] = [
    ("average_accuracy", 0),
    ("average_nll", 2),
    ("forgetting", 0),
    ("accuracy_backward_transfer", 1),
    ("plasticity_loss", 0),
    ("general_drift", 3),
    ("sona_change", 0),
    ("sona_test_change", 1),
    ("sona_against_control", 0),
    ("sona_test_against_control", 2),
    ("sona_general_drift", 0),
    ("sona_retained_gain", 1),
    ("sona_commits", 3),
    ("sona_itl_p50_overhead", 2),
    ("sona_itl_p99_overhead", 1),
    ("sona_slice_p99_ms", 3),
];

/// Values of the axes that vary, but for the seed, and a workload but for the order of its tasks.
type Row = (Vec<String>, String);

/// Returns one row for each method of `continual` and each stream of `sona`, in each cell but for its seed: means over
/// seeds and orders of tasks, with 95 % intervals (Student's t), or of one run with the interval it has of itself.
/// Nothing where nothing learned so.
#[must_use]
pub fn learning_table(records: &[RunRecord]) -> Option<Table> {
    let summaries: Vec<RunSummary> = records.iter().map(|record| summarize(record, Arm::Candidate)).collect();
    let manifests: Vec<_> = records.iter().map(|record| &record.manifest).collect();
    let axes: Vec<Axis> = label::varying_axes(&manifests).into_iter().filter(|axis| axis.key != "seed").collect();
    let mut found: IndexMap<Row, Vec<&MetricSummary>> = IndexMap::new();
    for (at, summary) in summaries.iter().enumerate() {
        let values = || axes.iter().map(|axis| axis.values[at].clone()).collect();
        // Parts of a workload, such as the domains of a stream, are for the charts.
        let shown = |of: &&MetricSummary| is_shown(&of.metric) && !of.workload.contains(")/");
        for of in summary.metrics.iter().filter(shown) {
            found.entry((values(), without_order(&of.workload))).or_default().push(of);
        }
    }
    if found.is_empty() {
        return None;
    }
    let columns = axes.iter().map(|axis| Column::text(axis.key.replace('.', "\n"), 0));
    let mut table = Table { columns: columns.chain([Column::text("workload", 0)]).collect(), ..Table::default() };
    table.rows = found.keys().map(|(values, workload)| row(values, workload)).collect();
    for (name, rank) in SHOWN {
        let Some(metric) = METRICS.iter().find(|known| known.name == name) else { continue };
        if found.values().flatten().all(|of| of.metric != name) {
            continue;
        }
        let unit = if is_ratio(name, metric.unit) { "%" } else { metric.unit };
        table.columns.push(Column::number(format!("{}\n{unit}", metric.title), rank));
        for (row, all) in table.rows.iter_mut().zip(found.values()) {
            let of: Vec<&MetricSummary> = all.iter().filter(|of| of.metric == name).copied().collect();
            row.push(value(&of));
        }
    }
    table.notes.push(note(found.values()));
    Some(table)
}

fn note<'a>(rows: impl Iterator<Item = &'a Vec<&'a MetricSummary>>) -> String {
    let replicates = |all: &Vec<&MetricSummary>| all.iter().filter(|of| of.metric == all[0].metric).count();
    let counts: Vec<usize> = rows.map(replicates).collect();
    if counts.iter().all(|count| *count == 1) {
        return "one seed and order of tasks; ± is half of the 95 % interval over requests".to_owned();
    }
    format!("± is half of the 95 % interval of the mean over n={} seeds and orders of tasks", number::range(&counts))
}

fn is_ratio(metric: &str, unit: &str) -> bool {
    unit.is_empty() && metric != COUNT
}

fn is_shown(metric: &str) -> bool {
    SHOWN.iter().any(|(name, _)| *name == metric)
}

/// Returns a workload's label without the number of the order of its tasks: `continual(ewc,l10,o1)` is `continual(ewc,l10)`.
fn without_order(workload: &str) -> String {
    let order = workload.strip_suffix(')').and_then(|inside| inside.rsplit_once(",o"));
    match order {
        Some((rest, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("{rest})"),
        _ => workload.to_owned(),
    }
}

fn row(values: &[String], workload: &str) -> Vec<Entry> {
    values.iter().map(String::as_str).chain([workload]).map(Entry::from).collect()
}

/// Returns a metric of several runs; ratios in percent.
fn value(of: &[&MetricSummary]) -> Entry {
    let Some(first) = of.first() else { return Entry::missing() };
    let factor = if is_ratio(&first.metric, &first.unit) { 100.0 } else { 1.0 };
    let values: Vec<f64> = of.iter().map(|of| of.mean * factor).collect();
    let scaled = |of: Interval| Interval { low: of.low * factor, high: of.high * factor };
    let interval = match values.len() {
        1 => first.interval.map(scaled),
        _ => stats::mean_interval(&values, CONFIDENCE).ok().flatten(),
    };
    stats::mean(&values).map_or_else(|_| Entry::missing(), |mean| number::with_interval(mean, interval).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::testing, report::testing::record};

    fn learned(seed: u64, values: [f64; 2]) -> RunRecord {
        let mut samples = Vec::new();
        for (order, forgetting) in values.into_iter().enumerate() {
            for (method, factor) in [("sequential", 1.0), ("ewc,l10", 0.5)] {
                let workload = format!("continual({method},o{order})");
                let at = |metric: &str, value: f64| testing::row(metric, &workload, 0, 0, 0, value);
                samples.extend([at("forgetting", forgetting * factor), at("plasticity_loss", 0.1 * (1.0 - factor))]);
            }
        }
        let mut record = record(samples);
        record.manifest.seed = seed;
        record.manifest.axes.insert("seed".to_owned(), seed.into());
        record
    }

    #[test]
    fn seeds_and_orders_are_one_row_of_each_method() {
        let table = learning_table(&[learned(0, [1.0, 2.0]), learned(1, [1.0, 2.0])]).unwrap();
        let headings: Vec<&str> = table.columns.iter().map(|column| column.heading.as_str()).collect();
        assert_eq!(headings, ["workload", "forgetting\nnats/token", "plasticity loss\n%"]);
        let text = |row: usize| table.rows[row].iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>();
        // Of 1, 2, 1, 2: a deviation of 1/√3, and t of 3 degrees of freedom is 3.18.
        assert_eq!(text(0), ["continual(sequential)", "1.5 ±0.9", "0"]);
        assert_eq!(text(1), ["continual(ewc,l10)", "0.8 ±0.5", "5.000"]);
        assert!(table.notes[0].contains("n=4"), "{:?}", table.notes);
    }

    #[test]
    fn what_did_not_learn_has_no_table() {
        assert!(
            learning_table(&[record(vec![testing::row("decode_tok_s", "decode(p8,n8)", 0, 0, 0, 40.0)])]).is_none()
        );
    }
}
