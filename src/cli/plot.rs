//! `ruvlab plot`
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::{
    exit,
    report::{charts, tables::BaselineCell},
    results::{Manifest, Store},
    ui::Printer,
};

use super::{Failure, Format, Global, stored};

/// Draw runs as SVG and PNG, each with the plotted numbers beside it as CSV.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Runs, cells, or recipes.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Where the files go.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    let mut manifests = Vec::new();
    for selector in &arguments.runs {
        for manifest in store.select(selector)? {
            if !manifests.contains(&manifest) {
                manifests.push(manifest);
            }
        }
    }
    let drawn = draw(&store, &manifests, None, &arguments.output)?;
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "charts": drawn.files,
            "skipped": drawn.skipped.iter().map(|skip| json!({"chart": skip.name, "reason": skip.reason})).collect::<Vec<_>>(),
        }))?,
        Format::Human => {
            for chart in &drawn.files {
                out.text(&format!("{}\n", chart.png.display()))?;
            }
            for skip in &drawn.skipped {
                Printer::stderr().note(&format!("not drawn: {}: {}", skip.name, skip.reason));
            }
        }
    }
    Ok(exit::OK)
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
