//! `ruvlab completions` and `ruvlab man`
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{exit, ui::Printer};

use super::{Cli, Failure, Global};

/// Print a shell's completion script.
#[derive(Debug, Args)]
pub(super) struct CompletionArguments {
    /// The shell.
    shell: Shell,
}

/// Print the manual page, in roff.
#[derive(Debug, Args)]
pub(super) struct ManArguments {}

pub(super) fn completions(_: &Global, arguments: &CompletionArguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "ruvlab", &mut script);
    Printer::stdout().text(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}

pub(super) fn man(_: &Global, _: &ManArguments) -> Result<u8, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Printer::stdout().text(&String::from_utf8_lossy(&page))?;
    Ok(exit::OK)
}
