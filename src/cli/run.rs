//! `ruvlab run`
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    exit,
    host::Host,
    plan::set_name,
    recipe::schema::Baseline,
    report::{self, Gate, GateReport, Side, ThresholdSource, Thresholds, Twins, Verdict, tables},
    results::{Manifest, RunRecord, RunState, Store},
    run::{self, CellOutcome, Context, Interrupt, Rerun},
    ui::{Printer, Progress},
};

use super::{Failure, Format, Global, access::Access, plot, resolve, stored};

/// Measure every cell of a recipe that has no results yet, then show and draw them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe.
    recipe: PathBuf,
    /// Change a value of the recipe: `--set kernels.threads=1`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    access: Access,
    /// Measure again what failed, or everything.
    #[arg(long, value_name = "WHAT", default_value = "missing")]
    rerun: RerunChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RerunChoice {
    /// Only cells without enough launches.
    Missing,
    /// Failed cells too.
    Failed,
    /// All cells.
    All,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { recipe, sets, access, rerun } = arguments;
    // Before signals are watched: a signal while a model is fetched ends the program, and the next
    // run goes on with what was fetched.
    let (loaded, plan) = resolve::resolve(recipe, sets, Some(*access), global.quiet)?;
    let interrupt = Interrupt::watch().map_err(run::RunError::Signals)?;
    let store = stored::open(global)?;
    let host = Host::detect();
    let rerun = match rerun {
        RerunChoice::Missing => Rerun::Missing,
        RerunChoice::Failed => Rerun::Failed,
        RerunChoice::All => Rerun::All,
    };
    let context = Context { store: &store, host: &host, source_text: &plan.source_text, interrupt: &interrupt };
    let mut progress = Progress::new(global.quiet);
    let outcomes = run::execute(&plan, &context, rerun, &mut progress)?;
    progress.finish();
    let regressed = show(global, &context, loaded.recipe.baseline.as_ref(), &outcomes, rerun)?;
    let interrupted = outcomes.iter().any(|outcome| outcome.manifest.state == RunState::Interrupted);
    Ok(match (interrupt.signal(), exit_code(&outcomes)) {
        (Some(signal), _) if interrupted => u8::try_from(128 + signal).unwrap_or(exit::UNEXPECTED),
        (_, exit::NUMERICS) => exit::NUMERICS,
        (_, _) if regressed => exit::REGRESSION,
        (_, code) => code,
    })
}

fn exit_code(outcomes: &[CellOutcome]) -> u8 {
    let any = |wanted: RunState| outcomes.iter().any(|outcome| outcome.manifest.state == wanted);
    if any(RunState::Invalid) {
        exit::NUMERICS
    } else if any(RunState::Failed) {
        let codes: Vec<u8> = outcomes.iter().filter_map(|outcome| outcome.exit_code).collect();
        let all_missing = codes.len() == outcomes.len() && codes.iter().all(|code| *code == exit::RESOURCE);
        if all_missing { exit::RESOURCE } else { exit::CELLS_FAILED }
    } else {
        exit::OK
    }
}

/// Shows results, charts and verdicts; returns whether a gate the recipe names has failed.
fn show(
    global: &Global,
    &Context { store, host, .. }: &Context<'_>,
    baseline: Option<&Baseline>,
    outcomes: &[CellOutcome],
    rerun: Rerun,
) -> Result<bool, Failure> {
    let measured: Vec<Manifest> = outcomes
        .iter()
        .map(|outcome| outcome.manifest.clone())
        .filter(|manifest| manifest.launches_complete > 0)
        .collect();
    let records = stored::records(store, &measured)?;
    let reports = match baseline {
        Some(baseline) => verdicts(baseline, &records)?,
        None => Vec::new(),
    };
    let cell = baseline.map(|baseline| &baseline.cell).filter(|cell| !cell.is_empty());
    let charts = draw_charts(store, cell, &measured);
    match global.format {
        Format::Json => {
            let cells: Vec<_> = outcomes.iter().map(|outcome| cell_json(store, outcome)).collect();
            Printer::stdout().json(&json!({
                "cells": cells,
                "verdicts": reports,
                "charts": charts.as_ref().map(|(folder, _)| folder),
            }))?;
        }
        Format::Human if measured.is_empty() => {}
        Format::Human => {
            let out = Printer::stdout();
            out.table(&tables::results_table(&records, cell))?;
            if let Some(table) = tables::learning_table(&records) {
                out.text("\n")?;
                out.table(&table)?;
            }
            if !reports.is_empty() {
                out.text("\n")?;
                out.table(&tables::verdicts_table(&reports))?;
            }
        }
    }
    notes(outcomes, host, charts, rerun);
    let gates_are_named = baseline.is_some_and(|baseline| !baseline.gates.is_empty());
    let named = |gate: &Gate| gates_are_named || gate.threshold_source == ThresholdSource::Bound;
    // What only a second set of launches would confirm is for `baseline check` to fail on.
    let sure = |gate: &Gate| gate.verdict == Verdict::Regression && !gate.advisory && !gate.needs_confirmation;
    Ok(reports.iter().flat_map(|report| &report.gates).any(|gate| named(gate) && sure(gate)))
}

/// Holds every cell against its baseline cell, and to the bounds alone where it has none.
fn verdicts(baseline: &Baseline, records: &[RunRecord]) -> Result<Vec<GateReport>, Failure> {
    let manifests: Vec<&Manifest> = records.iter().map(|record| &record.manifest).collect();
    let (twins, labels) = (Twins::new(&manifests, Some(&baseline.cell)), report::cell_labels(&manifests));
    let Baseline { gates, bounds, .. } = baseline.clone();
    let thresholds = Thresholds { gates, bounds, ..Thresholds::default() };
    let judge = |reference: usize, cell: usize| {
        let mut comparison = report::compare(&Side::of(&records[reference]), &Side::of(&records[cell]));
        comparison.baseline_label.clone_from(&labels[reference]);
        comparison.candidate_label.clone_from(&labels[cell]);
        report::gate(comparison, &thresholds)
            .map_err(|error| Failure::new(exit::RECIPE, "gate", error.to_string(), None))
    };
    let mut reports = Vec::new();
    for cell in 0..records.len() {
        let report = twins.of(cell).map(|twin| judge(twin, cell)).transpose()?;
        let is_judged = report.as_ref().is_some_and(|report| report.comparison.is_comparable());
        if is_judged || thresholds.bounds.is_empty() {
            reports.extend(report);
            continue;
        }
        // A bound holds a cell's own value, so the cell may stand in for the other side.
        let own = judge(cell, cell)?;
        let is_bound = |gate: &&Gate| gate.threshold_source == ThresholdSource::Bound;
        let bounds = own.gates.iter().filter(is_bound).cloned().collect();
        reports.extend(report);
        reports.push(own.with_gates(bounds));
    }
    Ok(reports)
}

/// Says on standard error what the tables do not.
fn notes(outcomes: &[CellOutcome], host: &Host, charts: Option<(PathBuf, usize)>, rerun: Rerun) {
    let err = Printer::stderr();
    for outcome in outcomes {
        let Manifest { state, reason, .. } = &outcome.manifest;
        if matches!(state, RunState::Failed | RunState::Invalid) {
            let earlier = if outcome.cached { "earlier, try again with --rerun failed" } else { "now" };
            let label = outcome.cell.label();
            let label = if label.is_empty() { set_name(outcome.cell.kernel_set).to_owned() } else { label };
            err.note(&format!(
                "failed ({earlier}): {label}: {}",
                reason.as_deref().unwrap_or("no reason was recorded")
            ));
        }
    }
    let older =
        outcomes.iter().filter(|outcome| outcome.cached && outcome.manifest.host.build() != host.build()).count();
    if older > 0 {
        err.note(&format!(
            "note: {older} cached cells were measured by another build; --rerun all measures them again"
        ));
    }
    if outcomes.iter().any(|outcome| outcome.manifest.state == RunState::Interrupted) {
        let without = if rerun == Rerun::All { " without --rerun" } else { "" };
        err.note(&format!("stopped before all launches were done; the same command{without} goes on"));
    }
    if let Some((folder, count)) = charts {
        err.note(&format!("{count} charts in {}", folder.display()));
    }
}

/// Draws what was measured; returns where, and how many charts. Results do not wait for their pictures.
fn draw_charts(
    store: &Store,
    baseline: Option<&tables::BaselineCell>,
    measured: &[Manifest],
) -> Option<(PathBuf, usize)> {
    let folder = store.charts_dir(&measured.first()?.recipe);
    match plot::draw(store, measured, baseline, &folder) {
        Ok(drawn) => Some((folder, drawn.files.len())),
        Err(failure) => {
            Printer::stderr().note(&format!("warning: the charts could not be drawn: {failure}"));
            None
        }
    }
}

fn cell_json(store: &Store, outcome: &CellOutcome) -> serde_json::Value {
    json!({
        "axes": outcome.cell.axes,
        "cell_hash": outcome.cell.hash,
        "run_id": outcome.manifest.run_id,
        "state": outcome.manifest.state,
        "cached": outcome.cached,
        "reason": outcome.manifest.reason,
        "path": store.run_dir(&outcome.manifest),
    })
}
