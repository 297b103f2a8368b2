//! `ruvlab list`
use clap::Args;
use serde_json::json;

use crate::{exit, report::tables, results::RunKind, ui::Printer};

use super::{Failure, Format, Global, stored};

/// List stored runs.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only runs of this recipe.
    #[arg(value_name = "RECIPE")]
    recipe: Option<String>,
    /// Comparisons made by `baseline check`, too.
    #[arg(long)]
    checks: bool,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    let mut found = store.list()?;
    found.manifests.retain(|manifest| {
        let recipe = arguments.recipe.as_ref().is_none_or(|name| *name == manifest.recipe);
        recipe && (arguments.checks || manifest.kind == RunKind::Run)
    });
    for problem in &found.problems {
        Printer::stderr().note(&format!("warning: {}", problem.message));
    }
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let runs: Vec<_> = found
                .manifests
                .iter()
                .map(|manifest| {
                    let mut run = json!(manifest);
                    run["path"] = json!(store.run_dir(manifest));
                    run
                })
                .collect();
            out.json(&runs)?;
        }
        Format::Human => out.table(&tables::runs_table(&found.manifests))?,
    }
    Ok(exit::OK)
}
