//! From a recipe's path to a plan.
use std::path::Path;

use crate::{
    diag::Diagnostic,
    exit,
    model::source::{locate::Fetch, pins::Pins},
    plan::{self, Cell, Plan},
    recipe::{self, Loaded},
    ui::Printer,
};

use super::{
    Failure,
    access::{self, Access},
};

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
