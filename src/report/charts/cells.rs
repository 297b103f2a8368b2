//! What the charts are drawn of: the cells with their names, summaries and colours.
use super::{
    canvas::{DASHES, Dash},
    palette::{self, Color},
};
use crate::{
    event::Arm as Side,
    metrics::MetricSummary,
    report::{
        label::{self, Axis},
        number,
        summary::{RunSummary, summarize},
        tables::BaselineCell,
        twins::Twins,
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

/// Cells that differ in their seed alone: replicates of one experiment.
pub(super) struct Arm<'a> {
    /// What tells it from the other arms; empty for the only one.
    pub(super) label: String,
    pub(super) cells: Vec<&'a Cell<'a>>,
}

/// All cells.
pub(super) struct Cells<'a> {
    pub(super) list: Vec<Cell<'a>>,
    /// Which of them the others are compared with.
    pub(super) twins: Twins,
    /// What they have in common.
    pub(super) facts: String,
    /// Their recipe, or recipes.
    pub(super) recipe: String,
}

impl<'a> Cells<'a> {
    pub(super) fn new(records: &'a [(RunRecord, Vec<TokenRow>)], baseline: Option<&BaselineCell>) -> Self {
        let manifests: Vec<&Manifest> = records.iter().map(|(record, _)| &record.manifest).collect();
        let labels = label::cell_labels(&manifests);
        let twins = Twins::new(&manifests, baseline);
        let groups = color_groups(&label::varying_axes(&manifests), records.len(), &twins);
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
                summary: summarize(record, Side::Candidate),
                color: if twins.is_baseline(at) { palette::BASELINE } else { palette::series(groups[at]) },
                dash: DASHES[same_color(at, &groups, &twins) % DASHES.len()],
            })
            .collect();
        Self { list, twins, facts: label::common_facts(&manifests), recipe: recipes.join(", ") }
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

    /// Returns what cells are compared with, in words: the baseline cell's label, or that there are several.
    pub(super) fn reference(&self) -> Option<&str> {
        let mut baselines = self.twins.baselines();
        let first = baselines.next()?;
        Some(if baselines.next().is_none() { self.list[first].label.as_str() } else { "each cell's baseline" })
    }

    /// Returns the cells that measured any of these metrics, arm by arm.
    pub(super) fn arms(&self, metrics: &[&str]) -> Vec<Arm<'_>> {
        let mut arms: Vec<(Manifest, Vec<&Cell<'_>>)> = Vec::new();
        let measured = |cell: &&Cell<'_>| cell.summary.metrics.iter().any(|m| metrics.contains(&m.metric.as_str()));
        for cell in self.list.iter().filter(measured) {
            let mut own = Manifest { seed: 0, ..cell.record.manifest.clone() };
            own.axes.shift_remove("seed");
            let is_same = |other: &Manifest| {
                (&other.recipe, &other.axes) == (&own.recipe, &own.axes) && other.model.is_same_content(&own.model)
            };
            match arms.iter_mut().find(|(other, _)| is_same(other)) {
                Some((_, cells)) => cells.push(cell),
                None => arms.push((own, vec![cell])),
            }
        }
        let labels = label::cell_labels(&arms.iter().map(|(manifest, _)| manifest).collect::<Vec<_>>());
        let is_only = arms.len() == 1;
        let labelled = arms.into_iter().zip(labels);
        labelled.map(|((_, cells), label)| Arm { label: if is_only { String::new() } else { label }, cells }).collect()
    }

    /// Returns the numbers of launches behind a metric as text, such as `n = 5`.
    pub(super) fn launches<'b>(summaries: impl Iterator<Item = &'b MetricSummary>) -> String {
        let counts: Vec<usize> = summaries.map(|summary| summary.n).collect();
        format!("n = {}", number::range(&counts))
    }
}

/// Returns how many cells before this one have its colour.
fn same_color(at: usize, groups: &[usize], twins: &Twins) -> usize {
    if twins.is_baseline(at) {
        return twins.baselines().take_while(|baseline| *baseline < at).count();
    }
    if groups.len() <= palette::SERIES_COUNT {
        return 0;
    }
    groups[..at].iter().filter(|group| **group == groups[at]).count()
}

/// Returns which colour each cell has: one each while there are enough, else one for each value of
/// the axis with the most values that still have a colour each.
fn color_groups(axes: &[Axis], cells: usize, twins: &Twins) -> Vec<usize> {
    if cells <= palette::SERIES_COUNT {
        // Baselines are grey and take no colour from the others.
        let before = |cell: usize| twins.baselines().take_while(|baseline| *baseline < cell).count();
        return (0..cells).map(|cell| cell - before(cell)).collect();
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
