//! The command line: one file a subcommand. Standard output is data, standard error is progress
//! and diagnostics; nothing imports this module.
mod access;
mod ad_hoc;
mod adapter;
mod baseline;
mod bench;
mod chat;
mod check;
mod compare;
mod completions;
mod doctor;
mod download;
mod failure;
mod launch_cell;
mod list;
mod models;
mod perplexity;
mod plan;
mod plot;
mod quantize;
mod resolve;
mod run;
mod schedule;
mod schema;
mod show;
mod stored;
mod threads;
mod validate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{exit, run::LAUNCH_COMMAND};

pub use failure::Failure;

/// The lab bench for local-LLM research: declare an experiment, run it, compare it, gate on it.
#[derive(Debug, Parser)]
#[command(name = "ruvlab", version, after_help = exit::HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every subcommand takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where results are kept.
    #[arg(long, global = true, value_name = "DIR", default_value = "results", env = "RUVLAB_STORE")]
    store: PathBuf,
    /// The form of what is printed on standard output.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    format: Format,
    /// Print no progress.
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// The form of printed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people.
    Human,
    /// JSON for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Plan(plan::Arguments),
    Validate(validate::Arguments),
    Schema(schema::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Compare(compare::Arguments),
    Baseline(baseline::Arguments),
    Plot(plot::Arguments),
    Schedule(schedule::Arguments),
    Adapter(adapter::Arguments),
    Bench(bench::Arguments),
    Perplexity(perplexity::Arguments),
    Quantize(quantize::Arguments),
    Download(download::Arguments),
    Models(models::Arguments),
    Chat(chat::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::CompletionArguments),
    Man(completions::ManArguments),
    #[command(name = LAUNCH_COMMAND, hide = true)]
    LaunchCell(launch_cell::Arguments),
}

/// Runs the command line and returns the exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let Cli { global, command } = cli;
    let result = match command {
        Command::Run(arguments) => run::execute(&global, &arguments),
        Command::Plan(arguments) => plan::execute(&global, &arguments),
        Command::Validate(arguments) => validate::execute(&global, &arguments),
        Command::Schema(arguments) => schema::execute(&global, &arguments),
        Command::List(arguments) => list::execute(&global, &arguments),
        Command::Show(arguments) => show::execute(&global, &arguments),
        Command::Compare(arguments) => compare::execute(&global, &arguments),
        Command::Baseline(arguments) => baseline::execute(&global, &arguments),
        Command::Plot(arguments) => plot::execute(&global, &arguments),
        Command::Schedule(arguments) => schedule::execute(&global, &arguments),
        Command::Adapter(arguments) => adapter::execute(&global, &arguments),
        Command::Bench(arguments) => bench::execute(&global, &arguments),
        Command::Perplexity(arguments) => perplexity::execute(&global, &arguments),
        Command::Quantize(arguments) => quantize::execute(&global, &arguments),
        Command::Download(arguments) => download::execute(&global, &arguments),
        Command::Models(arguments) => models::execute(&global, &arguments),
        Command::Chat(arguments) => chat::execute(&global, &arguments),
        Command::Doctor(arguments) => doctor::execute(&global, &arguments),
        Command::Completions(arguments) => completions::completions(&global, &arguments),
        Command::Man(arguments) => completions::man(&global, &arguments),
        Command::LaunchCell(arguments) => launch_cell::execute(&global, &arguments),
    };
    result.unwrap_or_else(|failure| failure.report())
}
