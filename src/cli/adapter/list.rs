//! `ruvlab adapter list`
use std::{fs, path::PathBuf};

use clap::Args;

use crate::{
    adapt::file::{self, Description},
    diag::Diagnostic,
    exit,
    report::tables::{Column, Table},
    ui::Printer,
    units::Bytes,
};

use super::super::{Failure, Format, Global};

/// List the adapters in a folder: PEFT folders and GGUF adapters.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let unreadable = |error| {
        let message = format!("{}: {error}", arguments.folder.display());
        Failure::new(exit::RESOURCE, "folder", message, None)
    };
    let mut found: Vec<(String, Description)> = Vec::new();
    let mut skipped = Vec::new();
    for entry in fs::read_dir(&arguments.folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match file::describe(&path) {
            Ok(None) => {}
            Ok(Some(description)) => found.push((name, description)),
            Err(error) => skipped.push(format!("{name}: {error}")),
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let out = Printer::stdout();
    if global.format == Format::Json {
        let row = |(name, description): &(String, Description)| {
            let mut row = serde_json::to_value(description)?;
            row["name"] = name.as_str().into();
            row["path"] = arguments.folder.join(name).to_string_lossy().into();
            Ok::<_, serde_json::Error>(row)
        };
        // A table has them below it.
        let unread = skipped.into_iter().map(|error| Diagnostic::warning("adapter", error));
        Printer::stderr().diagnostics(&unread.collect::<Vec<_>>());
        out.json(&found.iter().map(row).collect::<Result<Vec<_>, _>>()?)?;
        return Ok(exit::OK);
    }
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let row = |(name, description): &(String, Description)| {
        let Description { kind, r, lora_alpha, use_rslora, use_dora, modules, base, bytes } = description;
        let alpha = lora_alpha.map(|alpha| if *use_rslora { format!("{alpha} (rsLoRA)") } else { alpha.to_string() });
        vec![
            name.as_str().into(),
            if *use_dora { format!("{kind} (DoRA)").into() } else { (*kind).into() },
            number(r.map(|r| r.to_string())).into(),
            number(alpha).into(),
            modules.join(" ").into(),
            base.as_str().into(),
            Bytes(*bytes).to_string().into(),
        ]
    };
    let columns = vec![
        Column::text("adapter", 0),
        Column::text("kind", 3),
        Column::number("r", 0),
        Column::number("alpha", 1),
        Column::text("modules", 2),
        Column::text("of", 4),
        Column::number("size", 5),
    ];
    let title = format!("{}: {} adapters", arguments.folder.display(), found.len());
    out.table(&Table { title, columns, rows: found.iter().map(row).collect(), notes: skipped })?;
    Ok(exit::OK)
}
