//! `ruvlab validate`
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    diag::Diagnostic,
    exit, recipe,
    ui::{Printer, diagnostics},
};

use super::{Failure, Format, Global};

/// Find every problem of recipes at once; loads no weights.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Recipes, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let mut files = Vec::new();
    for path in &arguments.paths {
        if path.is_dir() { recipe_files(path, &mut files)? } else { files.push(path.clone()) }
    }
    if files.is_empty() {
        return Err(Failure::new(exit::NO_CELLS, "no-recipes", "no .yaml files there", None));
    }
    let mut reports = Vec::new();
    for path in &files {
        let problems = match recipe::load(path, &[]) {
            Err(problems) => problems,
            Ok(loaded) => loaded.warnings,
        };
        reports.push((path, problems));
    }
    let invalid = reports.iter().filter(|(_, problems)| problems.iter().any(Diagnostic::is_error)).count();
    match global.format {
        Format::Json => {
            let list: Vec<_> = reports
                .iter()
                .map(|(path, problems)| {
                    json!({"path": path, "valid": !problems.iter().any(Diagnostic::is_error), "diagnostics": problems})
                })
                .collect();
            Printer::stdout().json(&list)?;
        }
        Format::Human => {
            let out = Printer::stdout();
            for (path, problems) in &reports {
                out.text(&diagnostics::render(problems, out.color()))?;
                if !problems.iter().any(Diagnostic::is_error) {
                    out.text(&format!("{}: valid\n", path.display()))?;
                }
            }
        }
    }
    Ok(if invalid == 0 { exit::OK } else { exit::RECIPE })
}

fn recipe_files(folder: &std::path::Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            recipe_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    Ok(())
}
