//! What subcommands share: failures with their exit codes, and the way from a path to a plan.
use std::path::Path;

use clap::ValueEnum;

use crate::{
    diag::Diagnostic,
    event::{Event, Outcome},
    exit,
    model::source::{
        self,
        locate::{Fetch, Locator},
        pins::Pins,
    },
    plan::{self, Cell, LaunchSpec, LaunchTask, PROTOCOL, Plan, PlanError},
    recipe::{
        self, Loaded, Recipe,
        schema::{KernelSet, Workload},
    },
    report::{charts, tables::BaselineCell},
    results::{Manifest, RunRecord, Store, StoreError},
    run::{self, Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{
    Global,
    access::{self, Access},
};

/// Why a subcommand did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// Returns a failure with a message and, if any, a way out.
    #[must_use]
    pub fn new(code: u8, kind: &str, message: impl Into<String>, hint: Option<&str>) -> Self {
        let mut diagnostic = Diagnostic::error(kind, message);
        diagnostic.hint = hint.map(str::to_owned);
        Self { code, diagnostics: vec![diagnostic] }
    }

    /// Returns a failure that shows diagnostics.
    #[must_use]
    pub fn diagnostics(code: u8, diagnostics: Vec<Diagnostic>) -> Self {
        Self { code, diagnostics }
    }

    /// Prints it and returns its exit code.
    #[must_use]
    pub fn report(&self) -> u8 {
        Printer::stderr().diagnostics(&self.diagnostics);
        self.code
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NoBaseline { .. } | StoreError::BadBaseline { .. } => exit::BASELINE,
            _ if error.is_selection() => exit::NO_CELLS,
            _ => exit::UNEXPECTED,
        };
        Self::new(code, "store", error.to_string(), None)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::new(exit::UNEXPECTED, "run", error.to_string(), None)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(exit::UNEXPECTED, "output", error.to_string(), None)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(exit::UNEXPECTED, "json", error.to_string(), None)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Recipe(diagnostics) => Self::diagnostics(exit::RECIPE, diagnostics),
            PlanError::Resource(diagnostics) => Self::diagnostics(exit::RESOURCE, diagnostics),
        }
    }
}

/// Prints what clap has to say and returns the exit code: help and version are no errors.
pub(super) fn usage(error: &clap::Error) -> u8 {
    let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
    match error.print() {
        Ok(()) => code,
        Err(_) => exit::UNEXPECTED,
    }
}

/// Loads a recipe and shows its warnings.
pub(super) fn load(path: &Path, sets: &[String]) -> Result<Loaded, Failure> {
    let loaded = recipe::load(path, sets).map_err(|problems| Failure::diagnostics(exit::RECIPE, problems))?;
    Printer::stderr().diagnostics(&loaded.warnings);
    Ok(loaded)
}

/// Loads and resolves a recipe: with `access`, gets the models it names; without, only finds them.
pub(super) fn resolve(
    path: &Path,
    sets: &[String],
    access: Option<Access>,
    quiet: bool,
) -> Result<(Loaded, Plan), Failure> {
    let loaded = load(path, sets)?;
    let folder = access::folder_of(path);
    let mut locator = match access {
        Some(access) => access.locator(folder, quiet)?,
        None => access::watched(Fetch::Never, quiet).with_pins(Pins::of_folder(folder)?, false),
    };
    let plan = plan::resolve(&loaded, &mut locator)?;
    if access.is_some() {
        locator.finish()?;
    }
    let mut warnings: Vec<Diagnostic> = plan.cells.iter().filter_map(Cell::warning).collect();
    warnings.dedup();
    Printer::stderr().diagnostics(&warnings);
    if plan.cells.is_empty() {
        return Err(Failure::new(
            exit::NO_CELLS,
            "no-cells",
            format!("the matrix of {} leaves no cell", path.display()),
            Some("`exclude` drops every combination"),
        ));
    }
    Ok((loaded, plan))
}

/// Opens the store and recovers what a killed process left.
pub(super) fn store(global: &Global) -> Result<Store, Failure> {
    let store = Store::open(&global.store)?;
    match store.recover() {
        Ok(recovered) => {
            for manifest in recovered {
                Printer::stderr().note(&format!("recovered run {} from its journal", manifest.run_id));
            }
        }
        // One run that cannot be recovered must not keep the others from being seen.
        Err(error) => Printer::stderr().note(&format!("warning: a stopped run could not be recovered: {error}")),
    }
    Ok(store)
}

/// A kernel set on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KernelChoice {
    /// The fastest this processor runs, or the tier that `RUVLAB_KERNELS` names.
    Auto,
    /// candle-transformers as it ships.
    Reference,
    /// ruvlab's decoder on candle tensors.
    Candle,
    /// ruvlab's portable kernels.
    Scalar,
    /// ruvlab's AVX2 kernels.
    Avx2,
    /// ruvlab's AVX-512 kernels.
    Avx512,
    /// ruvlab's NEON kernels.
    Neon,
    /// ruvlab's kernels on an NVIDIA GPU.
    Cuda,
}

impl From<KernelChoice> for KernelSet {
    fn from(choice: KernelChoice) -> Self {
        match choice {
            KernelChoice::Auto => Self::Auto,
            KernelChoice::Reference => Self::Reference,
            KernelChoice::Candle => Self::Candle,
            KernelChoice::Scalar => Self::Scalar,
            KernelChoice::Avx2 => Self::Avx2,
            KernelChoice::Avx512 => Self::Avx512,
            KernelChoice::Neon => Self::Neon,
            KernelChoice::Cuda => Self::Cuda,
        }
    }
}

/// One workload on one model, asked for on the command line instead of in a recipe.
pub(super) struct AdHoc {
    /// The model's source.
    pub(super) model: String,
    /// The kernel set.
    pub(super) kernels: KernelChoice,
    /// Worker threads.
    pub(super) threads: Threads,
    /// The workload.
    pub(super) workload: Workload,
}

impl AdHoc {
    /// Returns the cell it makes.
    pub(super) fn cell(self, locator: &mut Locator<'_>) -> Result<Cell, Failure> {
        let source = absolute_source(&self.model)?;
        let tree = serde_json::json!({
            "schema": "ruvlab/v1",
            "name": "command-line",
            "model": {"source": source},
            "kernels": {"set": KernelSet::from(self.kernels), "threads": self.threads, "verify": {"reference": null}},
            "workloads": [self.workload],
            "measure": {"token_trace": false},
        });
        let recipe: Recipe = serde_json::from_value(tree)?;
        let cell = plan::single(recipe, locator)?;
        Printer::stderr().diagnostics(cell.warning().as_slice());
        Ok(cell)
    }
}

/// Returns the source a model on the command line means: a short name stands for its source, unless
/// there is a file of that name.
pub(super) fn source(model: &str) -> String {
    let alias = source::find_alias(model).filter(|_| !Path::new(model).exists());
    alias.unwrap_or(model).to_owned()
}

/// Returns a model's source with its path, if it is one, as seen from the root.
pub(super) fn absolute_source(model: &str) -> Result<String, Failure> {
    let source = source(model);
    let named = ["builtin:", "hf:", "synthetic:"].iter().any(|scheme| source.starts_with(scheme));
    if named { Ok(source) } else { absolute(&source) }
}

/// Returns a path as seen from the root, without asking whether it exists.
pub(super) fn absolute(path: &str) -> Result<String, Failure> {
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

/// Runs one launch of a cell and returns its events; nothing is stored.
pub(super) fn launch_once(cell: &Cell, task: LaunchTask, interrupt: &Interrupt) -> Result<Vec<Event>, Failure> {
    let executable = run::own_executable()?;
    let spec = LaunchSpec { protocol: PROTOCOL, launch: 0, task, cell: cell.clone() };
    let mut events = Vec::new();
    let result = run::launch(&executable, &spec, interrupt, |event| events.push(event)).map_err(RunError::Spawn)?;
    match (interrupt.signal().and_then(|signal| u8::try_from(128 + signal).ok()), result.outcome) {
        (Some(code), _) => Err(Failure::new(code, "interrupted", "stopped by a signal", None)),
        (None, Outcome::Complete) => Ok(events),
        (None, Outcome::Failed { exit_code, reason }) => Err(Failure::new(exit_code, "launch", reason, None)),
    }
}

/// Loads what runs measured.
pub(super) fn records(store: &Store, manifests: &[Manifest]) -> Result<Vec<RunRecord>, Failure> {
    Ok(manifests.iter().map(|manifest| store.load(manifest)).collect::<Result<_, _>>()?)
}

/// Draws everything that can be drawn of some runs.
pub(super) fn draw(
    store: &Store,
    manifests: &[Manifest],
    baseline: Option<&BaselineCell>,
    folder: &Path,
) -> Result<charts::Drawn, Failure> {
    let mut sources = Vec::new();
    for manifest in manifests {
        sources.push((store.load(manifest)?, store.tokens(manifest)?));
    }
    charts::draw_all(&sources, baseline, folder)
        .map_err(|error| Failure::new(exit::UNEXPECTED, "charts", error.to_string(), None))
}
