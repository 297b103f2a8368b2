//! `ruvlab adapter convert`
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{adapt::file, exit, model::weights::Weights, ui::Printer};

use super::super::{
    Failure, Format, Global,
    access::{self, Offline},
};

/// Write an adapter as llama.cpp reads it (`.gguf`), or as a PEFT folder.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    /// A PEFT folder, or a GGUF adapter.
    adapter: PathBuf,
    /// The model it is for: rows of queries and keys lie in its file's order.
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// A file that ends in `.gguf`, or a folder.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    access: Offline,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { adapter: path, model, output, access } = arguments;
    let mut locator = access.locator(model, global.quiet)?;
    let weights = Weights::open(&locator.locate(&access::source(model), None)?.path)?;
    let adapter = file::read(path, weights.spec())?;
    file::write(output, weights.spec(), model, &adapter)?;
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({"output": output, "matrices": adapter.len()}))?,
        Format::Human => out.text(&format!("{}: {} matrices\n", output.display(), adapter.len()))?,
    }
    Ok(exit::OK)
}
