//! `ruvlab show`
use clap::Args;
use serde_json::json;

use crate::{
    event::Arm,
    exit,
    report::{self, tables},
    ui::Printer,
};

use super::{Failure, Format, Global, stored};

/// Show one run, or the latest runs of a recipe.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A run id or the beginning of one, a cell hash, or a recipe's name.
    #[arg(value_name = "RUN")]
    run: String,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    let records = stored::records(&store, &store.select(&arguments.run)?)?;
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let runs: Vec<_> = records
                .iter()
                .map(|record| {
                    json!({
                        "manifest": record.manifest,
                        "path": store.run_dir(&record.manifest),
                        "summary": report::summarize(record, Arm::Candidate),
                        "samples": record.samples,
                    })
                })
                .collect();
            out.json(&runs)?;
        }
        Format::Human => {
            out.table(&tables::results_table(&records, None))?;
            if let Some(table) = tables::learning_table(&records) {
                out.text("\n")?;
                out.table(&table)?;
            }
            for record in &records {
                out.text(&format!("{}\n", store.run_dir(&record.manifest).display()))?;
            }
        }
    }
    Ok(exit::OK)
}
