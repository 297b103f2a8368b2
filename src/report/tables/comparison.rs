//! How two sides differ, and what the gate says.
use super::{Column, Entry, Table, Tone, results::tone};
use crate::{
    metrics::{self, Direction},
    report::{
        compare::{Comparison, Effect, MetricComparison, Pairing},
        gate::{Gate, GateReport, Outcome, ThresholdSource, Verdict},
        number,
    },
};

fn metric_text(metric: &str) -> String {
    metrics::find(metric).map_or_else(|| metric.to_owned(), |metric| metric.title.to_owned())
}

fn unit_text(unit: &str) -> String {
    number::shown_unit(unit).0.to_owned()
}

fn value_entry(value: Option<f64>, unit: &str) -> Entry {
    value.map_or_else(Entry::missing, |value| number::quantity(value, None, unit).into())
}

fn change_entry(change: &MetricComparison) -> Entry {
    if change.direction == Direction::Neutral {
        return match (change.baseline, change.candidate) {
            (Some(old), Some(new)) if old.to_bits() == new.to_bits() => "same".into(),
            (Some(_), Some(_)) => Entry::new("differs", Tone::Doubtful),
            _ => Entry::missing(),
        };
    }
    change.ratio.as_ref().map_or_else(Entry::missing, |ratio| Entry::new(number::change(ratio), tone(change)))
}

fn heading(comparison: &Comparison) -> String {
    format!("{}: {} against {}", comparison.recipe, comparison.candidate_label, comparison.baseline_label)
}

/// Returns one row a metric and workload: both sides and the change with the half width of its 95 %
/// interval. What forbids or weakens the comparison is said below.
#[must_use]
pub fn comparison_table(comparison: &Comparison) -> Table {
    let columns = vec![
        Column::text("metric", 0),
        Column::text("workload", 1),
        Column::text("unit", 2),
        Column::number("baseline", 0),
        Column::number("candidate", 0),
        Column::number("change", 0),
        Column::number("n", 3),
    ];
    let rows = comparison
        .metrics
        .iter()
        .map(|change| {
            vec![
                metric_text(&change.metric).into(),
                change.workload.as_str().into(),
                unit_text(&change.unit).into(),
                value_entry(change.baseline, &change.unit),
                value_entry(change.candidate, &change.unit),
                change_entry(change),
                change.ratio.map_or_else(Entry::missing, |ratio| ratio.n.to_string().into()),
            ]
        })
        .collect();
    let mut notes = vec![match comparison.pairing {
        Pairing::Paired => "± is half of the 95 % interval over n pairs of interleaved launches".to_owned(),
        Pairing::Unpaired => {
            "advisory: not interleaved; ± is half of Welch's 95 % interval, and drift of the machine is not in it"
                .to_owned()
        }
    }];
    notes.extend(comparison.metrics.iter().filter_map(|change| {
        let reason = change.reason.as_ref()?;
        Some(format!("{} {}: {reason}", metric_text(&change.metric), change.workload).replace(" : ", ": "))
    }));
    Table { title: heading(comparison), columns, rows, notes }
}

/// Returns one row a difference between the two sides besides their results.
#[must_use]
pub fn differences_table(comparison: &Comparison) -> Table {
    let columns = vec![
        Column::text("what differs", 0),
        Column::text("baseline", 0),
        Column::text("candidate", 0),
        Column::text("so", 0),
    ];
    let rows = comparison
        .differences
        .iter()
        .map(|difference| {
            let effect = match difference.effect {
                Effect::Forbids => Entry::new("not comparable", Tone::Bad),
                Effect::Advisory => Entry::new("timings advisory", Tone::Doubtful),
                Effect::Subject => Entry::from("compared"),
                Effect::Note => Entry::new("noted", Tone::Faint),
            };
            vec![
                difference.what.as_str().into(),
                difference.baseline.as_str().into(),
                difference.candidate.as_str().into(),
                effect,
            ]
        })
        .collect();
    Table { title: String::new(), columns, rows, notes: Vec::new() }
}

fn verdict_entry(gate: &Gate) -> Entry {
    match gate.verdict {
        Verdict::Regression if gate.advisory => Entry::new("regression (advisory)", Tone::Doubtful),
        Verdict::Regression if gate.needs_confirmation => Entry::new("regression (to confirm)", Tone::Bad),
        Verdict::Regression => Entry::new("regression", Tone::Bad),
        Verdict::Pass => Entry::new("pass", Tone::Good),
        Verdict::Inconclusive => Entry::new("inconclusive", Tone::Doubtful),
    }
}

/// Returns one row a gate, and the outcome below.
#[must_use]
pub fn gate_table(report: &GateReport) -> Table {
    let columns = vec![
        Column::text("gate", 0),
        Column::text("workload", 1),
        Column::text("unit", 4),
        Column::number("baseline", 2),
        Column::number("candidate", 2),
        Column::number("change", 0),
        Column::number("fails at", 0),
        Column::number("n", 3),
        Column::text("verdict", 0),
    ];
    let rows = report
        .gates
        .iter()
        .map(|gate| {
            vec![
                metric_text(&gate.metric).into(),
                gate.workload.as_str().into(),
                unit_text(&gate.unit).into(),
                value_entry(gate.baseline, &gate.unit),
                value_entry(gate.candidate, &gate.unit),
                gate.ratio.as_ref().map_or_else(Entry::missing, |ratio| number::change(ratio).into()),
                gate.limit().into(),
                gate.ratio.map_or_else(Entry::missing, |ratio| ratio.n.to_string().into()),
                verdict_entry(gate),
            ]
        })
        .collect();
    let mut notes: Vec<String> = report
        .gates
        .iter()
        .filter_map(|gate| {
            let place = if gate.workload.is_empty() { String::new() } else { format!(" {}", gate.workload) };
            Some(format!("{}{place}: {}", metric_text(&gate.metric), gate.reason.as_ref()?))
        })
        .collect();
    notes.push(
        match report.outcome {
            Outcome::Pass => "pass: no gate got worse by its threshold",
            Outcome::Regression if report.gates.iter().any(|gate| gate.needs_confirmation) => {
                "regression, to be confirmed by a second set of launches"
            }
            Outcome::Regression => "regression: the candidate is worse",
            Outcome::Inconclusive => "inconclusive: more launches, or a quieter machine, would tell",
            Outcome::NotComparable => "not comparable: the two sides did not measure the same thing",
        }
        .to_owned(),
    );
    Table { title: heading(&report.comparison), columns, rows, notes }
}

/// Returns one row a comparison: what all its gates say together, and the gate that decides.
#[must_use]
pub fn verdicts_table(reports: &[GateReport]) -> Table {
    let columns = vec![Column::text("cell", 0), Column::text("verdict", 0), Column::text("decided by", 1)];
    let rows = reports.iter().map(|report| {
        let (verdict, deciding) = match report.outcome {
            Outcome::Pass => (Entry::new("pass", Tone::Good), None),
            Outcome::Regression if worst(report).all(|gate| gate.needs_confirmation) => {
                (Entry::new("worse, unconfirmed", Tone::Doubtful), Some(Verdict::Regression))
            }
            Outcome::Regression => (Entry::new("regression", Tone::Bad), Some(Verdict::Regression)),
            Outcome::Inconclusive => (Entry::new("inconclusive", Tone::Doubtful), Some(Verdict::Inconclusive)),
            Outcome::NotComparable => (Entry::new("not comparable", Tone::Doubtful), None),
        };
        let gates = report.gates.iter().filter(|gate| deciding.is_none_or(|wanted| gate.verdict == wanted));
        let texts: Vec<String> = gates.map(gate_text).collect();
        vec![report.comparison.candidate_label.as_str().into(), verdict, texts.join(", ").into()]
    });
    let others = reports.iter().map(|report| &report.comparison).filter(|own| own.baseline_run != own.candidate_run);
    let mut others: Vec<&str> = others.map(|comparison| comparison.baseline_label.as_str()).collect();
    others.dedup();
    let title = match others.as_slice() {
        // Cells that were held to bounds stand for themselves.
        [] => "verdict on bounds".to_owned(),
        [baseline] => format!("verdict against {baseline}"),
        _ => "verdict against each cell's baseline".to_owned(),
    };
    Table { title, columns, rows: rows.collect(), notes: Vec::new() }
}

fn worst(report: &GateReport) -> impl Iterator<Item = &Gate> {
    report.gates.iter().filter(|gate| gate.verdict == Verdict::Regression)
}

/// Returns a gate in a few words: `generation speed +38 % ±1.1 (fails at -20 %)`, and a bound with the
/// value it holds.
fn gate_text(gate: &Gate) -> String {
    let told = match gate.candidate.filter(|_| gate.threshold_source == ThresholdSource::Bound) {
        Some(value) => number::quantity(value, None, &gate.unit),
        None => gate.ratio.as_ref().map_or_else(|| "not measured".to_owned(), number::change),
    };
    format!("{} {told} (fails at {})", metric_text(&gate.metric), gate.limit())
}
