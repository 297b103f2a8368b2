//! `ruvlab perplexity`
use clap::Args;
use serde_json::json;

use crate::{
    event::Event,
    exit,
    plan::{LaunchTask, set_name},
    recipe::schema::{Perplexity, Workload},
    run::{Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{
    Failure, Format, Global,
    common::{self, AdHoc, KernelChoice},
};

/// Score a text: llama.cpp's convention, the second half of each window.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A GGUF file, a folder of safetensors, or `builtin:pico`.
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// The text: a file, or `builtin:NAME`.
    #[arg(short, long, value_name = "TEXT", default_value = "builtin:heldout")]
    file: String,
    /// Tokens in a window.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    ctx: u32,
    /// Windows to score (all when absent).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Kernel set.
    #[arg(long, value_name = "SET", default_value = "auto")]
    kernels: KernelChoice,
    /// Threads: a number or `auto`.
    #[arg(short, long, value_name = "N", default_value = "auto")]
    threads: Threads,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let text = if arguments.file.starts_with("builtin:") {
        arguments.file.clone()
    } else {
        common::absolute(&arguments.file)?
    };
    let workload = Workload::Perplexity(Perplexity { text, n_ctx: arguments.ctx, chunks: arguments.chunks });
    let adhoc =
        AdHoc { model: arguments.model.clone(), kernels: arguments.kernels, threads: arguments.threads, workload };
    let cell = adhoc.cell()?;
    let events =
        common::launch_once(&cell, LaunchTask::Quality, &Interrupt::watch_impatiently().map_err(RunError::Signals)?)?;
    let value = |name: &str| {
        events.iter().find_map(|event| match event {
            Event::Sample { sample, .. } if sample.metric == name && sample.step.is_none() => Some(sample),
            _ => None,
        })
    };
    let windows: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Sample { sample, .. } if sample.metric == "nll" && sample.step.is_some() => Some(sample.value),
            _ => None,
        })
        .collect();
    let Some(perplexity) = value("perplexity") else {
        return Err(Failure::new(exit::UNEXPECTED, "perplexity", "the launch reported no perplexity", None));
    };
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "perplexity": perplexity.value,
            "nll": value("nll").map(|sample| sample.value),
            "bits_per_byte": value("bits_per_byte").map(|sample| sample.value),
            "n_tokens": perplexity.n,
            "n_ctx": arguments.ctx,
            "chunks": windows.len(),
            "nll_by_window": windows,
            "text": arguments.file,
            "model": cell.model,
            "kernels": set_name(cell.kernel_set),
        }))?,
        Format::Human => out.text(&format!(
            "perplexity {:.4} over {} tokens ({} windows of {}), {} with {}\n",
            perplexity.value,
            perplexity.n,
            windows.len(),
            arguments.ctx,
            cell.model.name,
            set_name(cell.kernel_set)
        ))?,
    }
    Ok(exit::OK)
}
