//! `ruvlab plan`
use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use crate::{
    exit,
    host::Host,
    plan::{Cell, ModelIdentity, effort, set_name},
    report::tables::{Column, Entry, Table, Tone},
    run::{self, Stored},
    ui::Printer,
};

use super::{Failure, Format, Global, resolve, stored};

/// Show the cells of a recipe, which are cached, and what they need; runs nothing.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe.
    recipe: PathBuf,
    /// Change a value of the recipe: `--set kernels.threads=1`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Returns about how long what is missing takes, where that is long enough to matter.
fn effort(missing: &[&Cell]) -> Option<String> {
    let (least, most) = missing.iter().fold((Duration::ZERO, Duration::ZERO), |(least, most), cell| {
        let (from, to) = effort::estimate(cell).into_inner();
        (least.saturating_add(from), most.saturating_add(to))
    });
    if most < Duration::from_secs(60) {
        return None;
    }
    let (least, most) = (minutes(least), minutes(most));
    let range = if least == most { least } else { format!("{least} to {most}") };
    Some(format!("about {range} of measuring, guessed from the size of the model: half or twice that is usual"))
}

fn minutes(time: Duration) -> String {
    match time.as_secs().div_ceil(60) {
        minutes @ ..=90 => format!("{minutes} min"),
        minutes => format!("{:.1} h", minutes as f64 / 60.0),
    }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let (_, plan) = resolve::resolve(&arguments.recipe, &arguments.sets, None, global.quiet)?;
    let store = stored::open(global)?;
    let host = Host::detect();
    let mut rows = Vec::new();
    let mut cells = Vec::new();
    let mut missing = Vec::new();
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
        if !matches!(state, "cached" | "failed") {
            missing.push(cell);
        }
        let (least, most) = effort::estimate(cell).into_inner();
        cells.push(json!({
            "state": state,
            "estimated_seconds": [least.as_secs_f64(), most.as_secs_f64()],
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
            let models = || plan.cells.iter().flat_map(Cell::models);
            let mut notes: Vec<String> = models().filter_map(ModelIdentity::resolved).collect();
            notes.dedup();
            if models().any(|model| model.synthetic) {
                notes.push("synthetic weights: for speed and memory only".to_owned());
            }
            notes.extend(effort(&missing));
            out.table(&Table { title, columns, rows, notes })?;
        }
    }
    Ok(exit::OK)
}
