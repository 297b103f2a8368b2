//! `ruvlab schema`
use clap::Args;

use crate::{exit, recipe, ui::Printer};

use super::{Failure, Global};

/// Print the JSON Schema of recipes, for editors and programs.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn execute(_: &Global, _: &Arguments) -> Result<u8, Failure> {
    Printer::stdout().json(&recipe::json_schema())?;
    Ok(exit::OK)
}
