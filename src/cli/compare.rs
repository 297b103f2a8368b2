//! `ruvlab compare`
use clap::Args;
use serde_json::json;

use crate::{
    exit,
    plan::axes_label,
    report::{self, Comparison, Side, tables},
    results::{RunKind, RunRecord},
    ui::Printer,
};

use super::{Failure, Format, Global, stored};

/// Compare two runs, or two recipes cell by cell: differences with 95 % intervals.
///
/// Cells that only one of the two has are listed at the end.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What is held against: a run, a cell, or a recipe's name.
    #[arg(value_name = "A")]
    baseline: String,
    /// What is looked at.
    #[arg(value_name = "B")]
    candidate: String,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    let baselines = stored::records(&store, &store.select(&arguments.baseline)?)?;
    let candidates = stored::records(&store, &store.select(&arguments.candidate)?)?;
    let pairs = pair(&baselines, &candidates);
    if pairs.is_empty() {
        let message = format!("no cell of {} has the axes of one of {}", arguments.candidate, arguments.baseline);
        return Err(Failure::new(exit::BASELINE, "not-comparable", message, Some("name two runs by their ids")));
    }
    let comparisons: Vec<Comparison> =
        pairs.iter().map(|(baseline, candidate)| report::compare(&Side::of(baseline), &Side::of(candidate))).collect();
    let (old, new): (Vec<&RunRecord>, Vec<&RunRecord>) = pairs.iter().copied().unzip();
    let lonely = [(&arguments.baseline, lonely(&baselines, &old)), (&arguments.candidate, lonely(&candidates, &new))];
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let [old, new] = lonely.each_ref().map(|(_, records)| records.iter().map(|record| lonely_json(record)));
            out.json(&json!({
                "comparisons": comparisons,
                "only_in_baseline": old.collect::<Vec<_>>(),
                "only_in_candidate": new.collect::<Vec<_>>(),
            }))?;
        }
        Format::Human => {
            for comparison in &comparisons {
                out.table(&tables::differences_table(comparison))?;
                out.table(&tables::comparison_table(comparison))?;
            }
            for (selector, records) in &lonely {
                for record in records {
                    out.text(&format!("only in {selector}: {}\n", name(record)))?;
                }
            }
        }
    }
    let comparable = comparisons.iter().all(Comparison::is_comparable);
    Ok(if comparable { exit::OK } else { exit::BASELINE })
}

/// Returns two single runs as they are, several by their axes.
fn pair<'a>(baselines: &'a [RunRecord], candidates: &'a [RunRecord]) -> Vec<(&'a RunRecord, &'a RunRecord)> {
    if let ([baseline], [candidate]) = (baselines, candidates) {
        return vec![(baseline, candidate)];
    }
    candidates
        .iter()
        .filter(|candidate| candidate.manifest.kind == RunKind::Run)
        .filter_map(|candidate| {
            let twin = baselines.iter().find(|baseline| baseline.manifest.axes == candidate.manifest.axes)?;
            Some((twin, candidate))
        })
        .collect()
}

/// Returns the records that have no pair.
fn lonely<'a>(records: &'a [RunRecord], paired: &[&RunRecord]) -> Vec<&'a RunRecord> {
    let is_of = |record: &RunRecord, other: &RunRecord| record.manifest.run_id == other.manifest.run_id;
    records.iter().filter(|record| paired.iter().all(|other| !is_of(record, other))).collect()
}

/// Returns what to call a cell: its axis values, or its run where it has none.
fn name(record: &RunRecord) -> String {
    let label = axes_label(&record.manifest.axes);
    if label.is_empty() { format!("run {}", record.manifest.run_id) } else { label }
}

fn lonely_json(record: &RunRecord) -> serde_json::Value {
    let manifest = &record.manifest;
    json!({"recipe": manifest.recipe, "axes": manifest.axes, "run_id": manifest.run_id})
}
