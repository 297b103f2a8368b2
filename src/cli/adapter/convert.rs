//! `ruvlab adapter convert`
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{adapt::file, exit, ui::Printer};

use super::{
    super::{Failure, Format, Global},
    subject::Subject,
};

/// Write an adapter as llama.cpp reads it (`.gguf`), or as a PEFT folder.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// A file that ends in `.gguf`, or a folder.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { subject, output } = arguments;
    let (weights, adapter) = subject.open(global)?;
    file::write(output, weights.spec(), &subject.model, &adapter)?;
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({"output": output, "matrices": adapter.len()}))?,
        Format::Human => out.text(&format!("{}: {} matrices\n", output.display(), adapter.len()))?,
    }
    Ok(exit::OK)
}
