//! `ruvlab run`
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    exit,
    host::Host,
    plan::set_name,
    recipe::{self, schema::Baseline},
    report::{self, Gate, GateReport, Side, ThresholdSource, Thresholds, Verdict, tables},
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
    let regressed = show(global, &store, loaded.recipe.baseline.as_ref(), &outcomes, &host)?;
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
    store: &Store,
    baseline: Option<&Baseline>,
    outcomes: &[CellOutcome],
    host: &Host,
) -> Result<bool, Failure> {
    let measured: Vec<Manifest> = outcomes
        .iter()
        .map(|outcome| outcome.manifest.clone())
        .filter(|manifest| manifest.launches_complete > 0)
        .collect();
    let records = stored::records(store, &measured)?;
    let reports = match baseline {
        Some(baseline) if !baseline.cell.is_empty() => verdicts(baseline, &records)?,
        _ => Vec::new(),
    };
    let cell = baseline.map(|baseline| &baseline.cell).filter(|cell| !cell.is_empty());
    let charts = if measured.is_empty() { None } else { Some(draw_charts(store, cell, &measured)?) };
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
    notes(outcomes, host, charts);
    let gates_are_named = baseline.is_some_and(|baseline| !baseline.gates.is_empty());
    let named = |gate: &Gate| gates_are_named || gate.threshold_source == ThresholdSource::Bound;
    // What only a second set of launches would confirm is for `baseline check` to fail on.
    let sure = |gate: &Gate| gate.verdict == Verdict::Regression && !gate.advisory && !gate.needs_confirmation;
    Ok(reports.iter().flat_map(|report| &report.gates).any(|gate| named(gate) && sure(gate)))
}

/// Holds every cell against the baseline's cell of the same seed.
fn verdicts(baseline: &Baseline, records: &[RunRecord]) -> Result<Vec<GateReport>, Failure> {
    let is_baseline = |manifest: &Manifest| {
        baseline
            .cell
            .iter()
            .all(|(key, value)| manifest.axes.get(key).is_some_and(|found| recipe::schema::same_value(found, value)))
    };
    let Baseline { gates, bounds, .. } = baseline.clone();
    let thresholds = Thresholds { gates, bounds, ..Thresholds::default() };
    let mut reports = Vec::new();
    for record in records.iter().filter(|record| !is_baseline(&record.manifest)) {
        let twin =
            records.iter().find(|other| is_baseline(&other.manifest) && other.manifest.seed == record.manifest.seed);
        let Some(twin) = twin else { continue };
        let report = report::gate(report::compare(&Side::of(twin), &Side::of(record)), &thresholds)
            .map_err(|error| Failure::new(exit::RECIPE, "gate", error.to_string(), None))?;
        reports.push(report);
    }
    Ok(reports)
}

/// Says on standard error what the tables do not.
fn notes(outcomes: &[CellOutcome], host: &Host, charts: Option<(PathBuf, usize)>) {
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
        err.note("stopped before all launches were done; the same command goes on");
    }
    if let Some((folder, count)) = charts {
        err.note(&format!("{count} charts in {}", folder.display()));
    }
}

fn draw_charts(
    store: &Store,
    baseline: Option<&tables::BaselineCell>,
    measured: &[Manifest],
) -> Result<(PathBuf, usize), Failure> {
    let folder = store.charts_dir(&measured[0].recipe);
    let drawn = plot::draw(store, measured, baseline, &folder)?;
    Ok((folder, drawn.files.len()))
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
