//! What the charts are drawn of: the cells with their names, summaries and colours.
use super::{
    canvas::{DASHES, Dash},
    palette::{self, Color},
};
use crate::{
    event::Arm,
    metrics::MetricSummary,
    report::{
        label::{self, Axis},
        number,
        summary::{RunSummary, summarize},
        tables::BaselineCell,
    },
    results::{Manifest, RunRecord, TokenRow},
};

/// One cell.
pub(super) struct Cell<'a> {
    pub(super) record: &'a RunRecord,
    pub(super) tokens: &'a [TokenRow],
    pub(super) label: String,
    pub(super) summary: RunSummary,
    pub(super) color: Color,
    /// Its line style, which tells cells of one colour apart.
    pub(super) dash: Dash,
}

/// All cells.
pub(super) struct Cells<'a> {
    pub(super) list: Vec<Cell<'a>>,
    /// The one the others are compared with.
    pub(super) baseline: Option<usize>,
    /// What they have in common.
    pub(super) facts: String,
    /// Their recipe, or recipes.
    pub(super) recipe: String,
}

impl<'a> Cells<'a> {
    pub(super) fn new(records: &'a [(RunRecord, Vec<TokenRow>)], baseline: Option<&BaselineCell>) -> Self {
        let manifests: Vec<&Manifest> = records.iter().map(|(record, _)| &record.manifest).collect();
        let labels = label::cell_labels(&manifests);
        let baseline = baseline.and_then(|wanted| manifests.iter().position(|m| label::matches(&m.axes, wanted)));
        let groups = color_groups(&label::varying_axes(&manifests), records.len(), baseline);
        let mut recipes: Vec<&str> = manifests.iter().map(|manifest| manifest.recipe.as_str()).collect();
        recipes.dedup();
        let list = records
            .iter()
            .zip(labels)
            .enumerate()
            .map(|(at, ((record, tokens), label))| Cell {
                record,
                tokens,
                label,
                summary: summarize(record, Arm::Candidate),
                color: if baseline == Some(at) { palette::BASELINE } else { palette::series(groups[at]) },
                dash: DASHES[same_color(at, &groups, baseline) % DASHES.len()],
            })
            .collect();
        Self { list, baseline, facts: label::common_facts(&manifests), recipe: recipes.join(", ") }
    }

    /// Returns the workloads a metric was measured on, in order.
    pub(super) fn workloads(&self, metric: &str) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for summary in self.list.iter().flat_map(|cell| cell.summary.all(metric)) {
            let item = (summary.workload.clone(), summary.unit.clone());
            if !found.contains(&item) {
                found.push(item);
            }
        }
        found
    }

    /// Returns the numbers of launches behind a metric as text, such as `n = 5`.
    pub(super) fn launches<'b>(summaries: impl Iterator<Item = &'b MetricSummary>) -> String {
        let counts: Vec<usize> = summaries.map(|summary| summary.n).collect();
        format!("n = {}", number::range(&counts))
    }
}

/// Returns how many cells before this one have its colour.
fn same_color(at: usize, groups: &[usize], baseline: Option<usize>) -> usize {
    if groups.len() <= palette::SERIES_COUNT || baseline == Some(at) {
        return 0;
    }
    groups[..at].iter().filter(|group| **group == groups[at]).count()
}

/// Returns which colour each cell has: one each while there are enough, else one for each value of
/// the axis with the most values that still have a colour each.
fn color_groups(axes: &[Axis], cells: usize, baseline: Option<usize>) -> Vec<usize> {
    if cells <= palette::SERIES_COUNT {
        // The baseline is grey and takes no colour from the others.
        let after = |cell: usize| baseline.is_some_and(|baseline| baseline < cell);
        return (0..cells).map(|cell| cell - usize::from(after(cell))).collect();
    }
    let grouped = axes.iter().map(|axis| {
        let mut values: Vec<&String> = Vec::new();
        let groups: Vec<usize> = axis
            .values
            .iter()
            .map(|value| {
                values.iter().position(|known| *known == value).unwrap_or_else(|| {
                    values.push(value);
                    values.len() - 1
                })
            })
            .collect();
        (values.len(), groups)
    });
    let best = grouped.filter(|(values, _)| *values <= palette::SERIES_COUNT).max_by_key(|(values, _)| *values);
    best.map_or_else(|| (0..cells).map(|cell| cell % palette::SERIES_COUNT).collect(), |(_, groups)| groups)
}
