//! `ruvlab baseline check`: the gate.
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    exit,
    host::Host,
    metrics::{self, SampleRow, stats::CONFIDENCE},
    model::source::locate::{Fetch, Locator},
    plan::{self, Cell, Plan, axes_label},
    recipe::schema::{AxisPoint, KernelSet, Workload},
    report::{self, Cause, GateExit, GateReport, Next, SetSize, Side, Thresholds, Untold, Verdict, charts, tables},
    results::{BaselinePointer, Manifest, RunKind, RunRecord, RunState, Store},
    run::{self, Context, Executables, Interrupt, Observer, Pair, PairRun, RunError},
    ui::{Printer, Progress},
};

use super::{Failure, Format, Global, access::Access, resolve};

/// Measure a recipe beside a baseline, interleaved, and fail when something truly got worse.
///
/// Both arms run now, on this machine; the stored results only say what the baseline is. Without
/// `--baseline-exe` both arms run with this build, so the gate is on the recipe's changes; with it,
/// the baseline arm runs with that build, so the gate is on the code's changes too.
///
/// A set of launches has `measure.launches.min` rounds, three at least. While a gate is undecided, rounds
/// are added, up to `max` or three times as many, whichever is more; a regression counts once a second
/// set says so too.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe.
    recipe: PathBuf,
    /// The baseline's name; the recipe's own `baseline.name` when absent.
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Change a value of the recipe, on the candidate's side only.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Run the baseline's side with another build of ruvlab.
    #[arg(long, value_name = "FILE")]
    baseline_exe: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Fail when the measurement does not decide, too.
    #[arg(long)]
    strict: bool,
    /// Write the gates as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

pub(super) fn execute(global: &Global, store: &Store, arguments: &Arguments) -> Result<u8, Failure> {
    let (loaded, plan) = resolve::resolve(&arguments.recipe, &arguments.sets, Some(arguments.access), global.quiet)?;
    let section = loaded.recipe.baseline.clone().unwrap_or_default();
    let Some(name) = arguments.baseline.clone().or(section.name) else {
        let message = "no baseline is named";
        return Err(Failure::new(
            exit::BASELINE,
            "baseline",
            message,
            Some("pass --baseline NAME, or set `baseline.name`"),
        ));
    };
    let pointer = store.baseline(&name).map_err(|error| {
        let hint = format!("make one: ruvlab run {0} && ruvlab baseline set {name} RUN", arguments.recipe.display());
        Failure::new(exit::BASELINE, "baseline", error.to_string(), Some(&hint))
    })?;
    let pairs = pairs(&plan, &pointer, &name)?;
    let mut rest = Rest { recipe: plan.recipe.clone(), unmatched: unmatched(&plan, &pointer), ..Rest::default() };
    if let Some(path) = arguments.baseline_exe.as_ref().filter(|path| !path.is_file()) {
        let message = format!("{} is no program", path.display());
        return Err(Failure::new(exit::USAGE, "baseline-exe", message, None));
    }
    if let Some(path) = &arguments.junit {
        // A path that cannot be written should be known now, not after the measurement.
        std::fs::File::create(path)
            .map_err(|error| Failure::new(exit::USAGE, "junit", format!("{}: {error}", path.display()), None))?;
    }
    let own = run::own_executable()?;
    let executables = Executables { candidate: own.clone(), baseline: arguments.baseline_exe.clone().unwrap_or(own) };
    let interrupt = Interrupt::watch().map_err(RunError::Signals)?;
    let host = Host::detect();
    let context = Context { store, host: &host, source_text: &plan.source_text, interrupt: &interrupt };
    let thresholds = Thresholds { gates: section.gates, bounds: section.bounds, ..Thresholds::default() };
    let mut progress = Progress::new(global.quiet);
    let mut gate = Gatekeeper { context, executables, thresholds, progress: &mut progress };
    let mut checked = Vec::new();
    for pair in pairs {
        if gate.context.interrupt.signal().is_none() {
            checked.push(gate.check(pair)?);
        } else {
            rest.stopped.push(cell_name(&pair.candidate.axes, pair.candidate.kernel_set));
        }
    }
    progress.finish();
    rest.signal = interrupt.signal();
    for label in &rest.unmatched {
        Printer::stderr().note(&format!("note: baseline cell `{label}` has no candidate, so nothing is said of it"));
    }
    conclude(global, store, arguments, &host, &pointer, &checked, &rest)
}

/// What the pairs that were checked do not tell.
#[derive(Default)]
struct Rest {
    recipe: String,
    /// The baseline's cells that the recipe has no cell for any more.
    unmatched: Vec<String>,
    /// Cells whose turn did not come.
    stopped: Vec<String>,
    signal: Option<i32>,
}

impl Rest {
    /// Returns the cells that gates do not tell of, or not all there is.
    fn untold(&self, checked: &[Checked]) -> Vec<Untold> {
        let untold = |cell: &str, cause: Cause| Untold { recipe: self.recipe.clone(), cell: cell.to_owned(), cause };
        let ended = checked.iter().filter_map(|Checked { report: _, manifest, failure }| {
            let cause = match failure {
                Some((_, reason)) => Cause::Failed(reason.clone()),
                None if manifest.state == RunState::Interrupted => Cause::Stopped,
                None => return None,
            };
            Some(untold(&cell_name(&manifest.axes, manifest.kernel_set), cause))
        });
        let stopped = self.stopped.iter().map(|cell| untold(cell, Cause::Stopped));
        let unmatched = self.unmatched.iter().map(|cell| untold(cell, Cause::Unmatched));
        ended.chain(stopped).chain(unmatched).collect()
    }
}

/// Returns what to call a cell, by its kernel set where it has no axes.
fn cell_name(axes: &AxisPoint, kernel_set: KernelSet) -> String {
    let label = axes_label(axes);
    if label.is_empty() { plan::set_name(kernel_set).to_owned() } else { label }
}

/// Returns the baseline's cells that the recipe has no cell for any more.
fn unmatched(plan: &Plan, pointer: &BaselinePointer) -> Vec<String> {
    if let ([_], [_]) = (pointer.cells.as_slice(), plan.cells.as_slice()) {
        return Vec::new();
    }
    let lonely = pointer.cells.iter().filter(|stored| plan.cells.iter().all(|cell| cell.axes != stored.cell.axes));
    lonely.map(|stored| stored.cell.label()).collect()
}

/// Finds the baseline's cell for each of the candidate's.
fn pairs(plan: &Plan, pointer: &BaselinePointer, name: &str) -> Result<Vec<Pair>, Failure> {
    let mut pairs = Vec::new();
    let mut lonely = Vec::new();
    for candidate in &plan.cells {
        let same_axes = pointer.cells.iter().find(|stored| stored.cell.axes == candidate.axes);
        let only = if let ([stored], 1) = (pointer.cells.as_slice(), plan.cells.len()) { Some(stored) } else { None };
        match same_axes.or(only) {
            Some(stored) => pairs.push(Pair { candidate: candidate.clone(), baseline: here(&stored.cell, candidate)? }),
            None => lonely.push(candidate.label()),
        }
    }
    if lonely.is_empty() {
        return Ok(pairs);
    }
    let known: Vec<String> = pointer.cells.iter().map(|stored| axes_label(&stored.cell.axes)).collect();
    let message = format!("baseline {name} has no cell for {}", lonely.join("; "));
    let hint = format!("it has: {}", known.join("; "));
    Err(Failure::new(exit::BASELINE, "not-comparable", message, Some(&hint)))
}

/// Returns the baseline's cell as it is run here: the same weights and texts by content, from where
/// the candidate has them when the baseline's own paths (of the machine it was made on) do not.
fn here(stored: &Cell, candidate: &Cell) -> Result<Cell, Failure> {
    let mut moved = stored.recipe.clone();
    moved.model.source.clone_from(&candidate.recipe.model.source);
    moved.model.revision.clone_from(&candidate.recipe.model.revision);
    let mut candidate_recipe = candidate.recipe.clone();
    for ((key, ours), (twin, theirs)) in moved.texts_mut().into_iter().zip(candidate_recipe.texts_mut()) {
        if key == twin {
            ours.clone_from(theirs);
        }
    }
    for workloads in moved.workloads.iter_mut().zip(&candidate.recipe.workloads) {
        if let (Workload::KlDivergence(ours), Workload::KlDivergence(theirs)) = workloads {
            ours.reference.source.clone_from(&theirs.reference.source);
        }
    }
    let is_same = |cell: &Cell| {
        let mut models = cell.models().zip(stored.models());
        cell.texts.values().eq(stored.texts.values())
            && cell.references.len() == stored.references.len()
            && models.all(|(ours, theirs)| ours.is_same_content(theirs))
    };
    // The candidate's own models were got just now; nothing is fetched to find the baseline's.
    let mut locator = Locator::new(Fetch::Never, |_| {});
    let found = [moved, stored.recipe.clone()]
        .into_iter()
        .find_map(|recipe| plan::single(recipe, &mut locator).ok().filter(is_same));
    let Some(cell) = found else {
        let message = format!("the weights or texts of the baseline cell `{}` are not here any more", stored.label());
        let hint = "bring the files back, or set the baseline anew";
        return Err(Failure::new(exit::BASELINE, "not-comparable", message, Some(hint)));
    };
    Ok(Cell { hash: stored.hash.clone(), axes: stored.axes.clone(), ..cell })
}

/// A regression is confirmed with this confidence: a check makes many tests, and any of them fails it.
const CONFIRMATION: f64 = 0.995;

struct Checked {
    report: GateReport,
    manifest: Manifest,
    failure: Option<(u8, String)>,
}

struct Gatekeeper<'a> {
    context: Context<'a>,
    executables: Executables,
    thresholds: Thresholds,
    progress: &'a mut Progress,
}

impl Gatekeeper<'_> {
    /// Measures a pair: the least number of rounds, more while undecided, and a second set to confirm
    /// regressions, after which it goes on with what is undecided still.
    fn check(&mut self, pair: Pair) -> Result<Checked, Failure> {
        let size = SetSize::of(&pair.candidate.recipe.measure.launches);
        let baseline_manifest = Manifest::begun(&pair.baseline, RunKind::Run, self.context.host);
        let mut run = PairRun::create(&self.context, pair)?;
        run.once(&self.context, &self.executables, self.progress)?;
        self.rounds(&mut run, size.least)?;
        let mut sampled = size.least;
        let mut report = self.judge(&run, &baseline_manifest, 0, CONFIDENCE)?;
        while self.goes_on(&run) {
            match size.next(&report, sampled) {
                Next::Sample => {
                    self.rounds(&mut run, 1)?;
                    sampled += 1;
                }
                Next::Confirm => report = self.confirm(&mut run, &baseline_manifest, report, size)?,
                Next::Conclude => break,
            }
            // The rounds of a confirmation tell of the other gates as well.
            if report.is_undecided() {
                report = report.rejudged(self.judge(&run, &baseline_manifest, 0, CONFIDENCE)?);
            }
        }
        let failure = run.failure().cloned();
        let state = match &failure {
            Some((exit::NUMERICS, _)) => RunState::Invalid,
            Some(_) => RunState::Failed,
            None if self.context.interrupt.signal().is_some() => RunState::Interrupted,
            None => RunState::Complete,
        };
        let manifest = run.finish(state)?;
        Ok(Checked { report, manifest, failure })
    }

    fn goes_on(&self, run: &PairRun) -> bool {
        run.failure().is_none() && self.context.interrupt.signal().is_none()
    }

    fn rounds(&mut self, run: &mut PairRun, count: u32) -> Result<(), Failure> {
        self.progress.expect(2 * u64::from(count));
        for _ in 0..count {
            if self.goes_on(run) {
                run.round(&self.context, &self.executables, self.progress)?;
            }
        }
        Ok(())
    }

    /// Measures a second set of rounds and returns the report with what it says of the regressions.
    fn confirm(
        &mut self,
        run: &mut PairRun,
        baseline: &Manifest,
        first: GateReport,
        size: SetSize,
    ) -> Result<GateReport, Failure> {
        let first_set = run.blocks();
        self.rounds(run, size.least)?;
        loop {
            let second = self.judge(run, baseline, first_set, CONFIRMATION)?;
            let gates = report::confirm(&first.gates, &second.gates);
            let asked = first.gates.iter().zip(&gates).filter(|(before, _)| before.needs_confirmation);
            let undecided = asked
                .filter_map(|(_, gate)| gate.confirmation.as_ref())
                .any(|second| second.verdict == Verdict::Inconclusive);
            if !undecided || run.blocks() - first_set >= size.most || !self.goes_on(run) {
                return Ok(first.with_gates(gates));
            }
            self.rounds(run, 1)?;
        }
    }

    /// Judges the rounds from `from` on; what is measured once counts in every set.
    fn judge(&self, run: &PairRun, baseline: &Manifest, from: u32, confidence: f64) -> Result<GateReport, Failure> {
        let once = |row: &SampleRow| metrics::is_deterministic(&row.metric);
        let samples = run.rows().into_iter().filter(|row| once(row) || row.block >= from).collect();
        let texts = Some(run.pair.candidate.text_hashes());
        let record = RunRecord { manifest: run.manifest().clone(), samples, texts };
        let texts = run.pair.baseline.text_hashes();
        let baseline = Side::rerun(baseline, &record).with_texts(&texts);
        report::gate(report::compare_at(&baseline, &Side::of(&record), confidence), &self.thresholds)
            .map_err(|error| Failure::new(exit::RECIPE, "gate", error.to_string(), None))
    }
}

fn conclude(
    global: &Global,
    store: &Store,
    arguments: &Arguments,
    host: &Host,
    pointer: &BaselinePointer,
    checked: &[Checked],
    rest: &Rest,
) -> Result<u8, Failure> {
    let reports: Vec<GateReport> = checked.iter().map(|checked| checked.report.clone()).collect();
    let outcome = match report::overall(&reports) {
        report::Outcome::Pass if !rest.unmatched.is_empty() => report::Outcome::Inconclusive,
        outcome => outcome,
    };
    let failed = checked.iter().filter_map(|checked| checked.failure.as_ref());
    let codes: Vec<u8> = failed.clone().map(|(code, _)| *code).collect();
    let code = match rest.signal {
        Some(signal) => u8::try_from(128 + signal).unwrap_or(exit::UNEXPECTED),
        None if codes.contains(&exit::NUMERICS) => exit::NUMERICS,
        None if codes.len() == checked.len() && codes.iter().all(|code| *code == exit::RESOURCE) => exit::RESOURCE,
        None if !codes.is_empty() => exit::CELLS_FAILED,
        None => match outcome.exit(arguments.strict) {
            GateExit::Ok => exit::OK,
            GateExit::NotComparable => exit::BASELINE,
            GateExit::Regression => exit::REGRESSION,
            GateExit::Inconclusive => exit::INCONCLUSIVE,
        },
    };
    for checked in checked {
        let folder = store.run_dir(&checked.manifest).join("charts");
        let drawn = charts::draw_gates(std::slice::from_ref(&checked.report));
        let written = drawn.and_then(|chart| chart.map_or(Ok(()), |chart| charts::write(&chart, &folder).map(drop)));
        if let Err(error) = written {
            Printer::stderr().note(&format!("warning: the chart could not be drawn: {error}"));
        }
    }
    if let Some(path) = &arguments.junit {
        let xml = report::junit(&reports, &rest.untold(checked), arguments.strict)
            .map_err(|error| Failure::new(exit::UNEXPECTED, "junit", error.to_string(), None))?;
        std::fs::write(path, xml)?;
    }
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "outcome": outcome,
            "exit_code": code,
            "baseline": pointer.name,
            "unmatched_baseline_cells": rest.unmatched,
            "cells": checked.iter().map(|checked| json!({
                "axes": checked.manifest.axes,
                "run_id": checked.manifest.run_id,
                "path": store.run_dir(&checked.manifest),
                "failure": checked.failure.as_ref().map(|(_, reason)| reason),
                "report": checked.report,
            })).collect::<Vec<_>>(),
        }))?,
        Format::Human => {
            for checked in checked {
                out.table(&tables::gate_table(&checked.report))?;
            }
        }
    }
    for (_, reason) in failed {
        Printer::stderr().note(&format!("failed: {reason}"));
    }
    if arguments.baseline_exe.is_none() && pointer.build != host.build() {
        let note = "note: the baseline was measured by another build; both arms ran with this one, so only the recipe's \
                    changes were gated (--baseline-exe gates the code)";
        Printer::stderr().note(note);
    }
    Ok(code)
}
