//! `ruvlab plan`
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    exit,
    host::Host,
    plan::set_name,
    report::tables::{Column, Entry, Table, Tone},
    run::{self, Stored},
    ui::Printer,
};

use super::{Failure, Format, Global, common};

/// Show the cells of a recipe, which are cached, and what they need; runs nothing.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe.
    recipe: PathBuf,
    /// Change a value of the recipe: `--set kernels.threads=1`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let (_, plan) = common::resolve(&arguments.recipe, &arguments.sets, None, global.quiet)?;
    let store = common::store(global)?;
    let host = Host::detect();
    let mut rows = Vec::new();
    let mut cells = Vec::new();
    for cell in &plan.cells {
        let (state, latest) = match run::stored(&store, &host, cell) {
            Stored::Missing => ("missing", None),
            Stored::Complete(manifest) => ("cached", Some(manifest)),
            Stored::Partial(manifest) => ("partial", Some(manifest)),
            Stored::Failed(manifest) => ("failed", Some(manifest)),
        };
        let tone = if state == "cached" { Tone::Faint } else { Tone::Plain };
        rows.push(vec![
            cell.hash[..12].into(),
            cell.label().into(),
            set_name(cell.kernel_set).into(),
            cell.model.format.as_str().into(),
            cell.threads.to_string().into(),
            cell.estimated_memory.to_string().into(),
            Entry::new(state, tone),
        ]);
        cells.push(json!({
            "state": state,
            "run_id": latest.map(|manifest| manifest.run_id),
            "cell": cell,
        }));
    }
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({"recipe": plan.recipe, "cells": cells}))?,
        Format::Human => {
            let columns = vec![
                Column::text("cell", 3),
                Column::text("axes", 0),
                Column::text("kernels", 4),
                Column::text("format", 5),
                Column::number("threads", 6),
                Column::number("memory", 2),
                Column::text("results", 0),
            ];
            let title = format!("{}: {} cells", plan.recipe, plan.cells.len());
            let synthetic = plan.cells.iter().any(|cell| cell.model.synthetic);
            let notes = synthetic.then(|| "synthetic weights: for speed and memory only".to_owned());
            out.table(&Table { title, columns, rows, notes: notes.into_iter().collect() })?;
        }
    }
    Ok(exit::OK)
}
