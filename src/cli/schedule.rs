//! `ruvlab schedule`
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::{adapt::schedule::Rate, exit, plan, report::charts, ui::Printer};

use super::{Failure, Format, Global, resolve};

/// Print the learning rate and momentum of every step of a recipe's training; loads no weights.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe.
    recipe: PathBuf,
    /// Change a value of the recipe: `--set training.max_steps=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Steps to print; the training's own when absent.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Draw it, too: `FILE.svg`, with `FILE.png` and `FILE.csv` beside it.
    #[arg(short, long, value_name = "CHART")]
    output: Option<PathBuf>,
}

/// The most steps that are printed.
const MOST_STEPS: u64 = 10_000_000;

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let loaded = resolve::load(&arguments.recipe, &arguments.sets)?;
    let wrong = |message: &str, hint: &str| Failure::new(exit::RECIPE, "schedule", message, Some(hint));
    let Some(training) = &loaded.recipe.training else {
        return Err(wrong("the recipe has no `training`", "add `training: {learning_rate: 2.0e-4, max_steps: 100}`"));
    };
    let Some(steps) = arguments.steps.or(training.max_steps).filter(|steps| *steps <= MOST_STEPS) else {
        return Err(wrong("the training has no end to print up to", "give `training.max_steps`, or `--steps N`"));
    };
    let schedule = plan::schedule(training);
    let rates: Vec<Rate> = (0..steps).map(|step| schedule.at(step)).collect();
    if let Some(output) = &arguments.output {
        let failed = |error: charts::ChartError| Failure::new(exit::UNEXPECTED, "chart", error.to_string(), None);
        let title = format!("{}: learning rate", loaded.recipe.name);
        let mut chart = charts::draw_schedule(&title, &rates).map_err(failed)?;
        if let Some(stem) = output.file_stem() {
            chart.name = stem.to_string_lossy().into_owned();
        }
        let folder = output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        charts::write(&chart, folder).map_err(failed)?;
    }
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let row = |(step, rate): (usize, &Rate)| json!({"step": step, "learning_rate": rate.learning_rate, "momentum": rate.momentum});
            out.json(&rates.iter().enumerate().map(row).collect::<Vec<_>>())?;
        }
        Format::Human => {
            let line = |(step, rate): (usize, &Rate)| {
                let momentum = rate.momentum.map(|momentum| format!("  {momentum:.6}")).unwrap_or_default();
                format!("{step:>8}  {:.10e}{momentum}\n", rate.learning_rate)
            };
            out.text(&rates.iter().enumerate().map(line).collect::<String>())?;
        }
    }
    Ok(exit::OK)
}
