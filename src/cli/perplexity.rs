//! `ruvlab perplexity`
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    event::{Event, Sample},
    exit,
    metrics::stats::{self, CONFIDENCE, Interval},
    plan::{Cell, LaunchTask, set_name},
    recipe::schema::{ActivationPrecision, KlDivergence, KlReference, Perplexity, QuantizationFormat, Workload},
    report::number,
    run::{Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{
    Failure, Format, Global,
    access::{self, Offline},
    ad_hoc::{self, AdHoc, DeviceChoice, KernelChoice},
};

/// Score a text: llama.cpp's convention, the second half of each window.
///
/// With any of the `--kl-` options, also how far the predictions are from a reference's:
/// KL(reference || model), token by token. What is not given of the reference is the model's own.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A GGUF file, a folder of safetensors, `hf:owner/repo[:file or quant]`, `synthetic:SHAPE:QUANT`,
    /// `builtin:pico`, or a short name (`ruvlab models`).
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
    #[command(flatten)]
    access: Offline,
    /// Kernel set.
    #[arg(long, value_name = "SET", default_value = "auto")]
    kernels: KernelChoice,
    /// Where the kernel set `candle` computes; the others have the processor alone.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Precision of activations in ruvlab's own kernels: `int16` (when absent) or `int8`.
    #[arg(long, value_name = "PRECISION", value_parser = ad_hoc::precision)]
    activations: Option<ActivationPrecision>,
    /// Threads: a number or `auto`.
    #[arg(short, long, value_name = "N", default_value = "auto")]
    threads: Threads,
    /// Run it with an adapter: a PEFT folder, or a GGUF adapter of llama.cpp's.
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Compare predictions with those of another model of the same vocabulary (without the adapter).
    #[arg(long, value_name = "MODEL")]
    kl_reference: Option<String>,
    /// Compare predictions with those of another kernel set.
    #[arg(long, value_name = "SET")]
    kl_kernels: Option<KernelChoice>,
    /// Compare predictions with those of another weight format, such as `f32`.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    kl_format: Option<QuantizationFormat>,
}

/// Reads a weight format as recipes write it.
fn format(text: &str) -> Result<QuantizationFormat, String> {
    serde_json::from_value(Value::from(text)).map_err(|error| error.to_string())
}

/// Percentiles of the divergence: metric, heading.
const PERCENTILES: [(&str, &str); 4] = [("kl_p50", "p50"), ("kl_p99", "p99"), ("kl_p999", "p99.9"), ("kl_max", "max")];

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let text = if arguments.file.starts_with("builtin:") {
        arguments.file.clone()
    } else {
        access::absolute(&arguments.file)?
    };
    let reference = KlReference {
        source: arguments.kl_reference.as_deref().map(access::absolute_source).transpose()?,
        format: arguments.kl_format,
        kernels: arguments.kl_kernels.map(Into::into),
    };
    let (n_ctx, chunks) = (arguments.ctx, arguments.chunks);
    let workload = if reference.is_empty() {
        Workload::Perplexity(Perplexity { text, n_ctx, chunks })
    } else {
        Workload::KlDivergence(KlDivergence { text, n_ctx, chunks, reference })
    };
    let adhoc = AdHoc {
        model: arguments.model.clone(),
        kernels: arguments.kernels,
        device: arguments.device,
        activations: arguments.activations,
        threads: arguments.threads,
        adapter: arguments.adapter.clone(),
        workload,
    };
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let cell = adhoc.cell(&mut locator)?;
    let events =
        ad_hoc::launch_once(&cell, LaunchTask::Quality, &Interrupt::watch_impatiently().map_err(RunError::Signals)?)?;
    let scores = Scores { events: &events };
    let Some(perplexity) = scores.whole("perplexity") else {
        return Err(Failure::new(exit::UNEXPECTED, "perplexity", "the launch reported no perplexity", None));
    };
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&scores.json(perplexity, arguments, &cell))?,
        Format::Human => out.text(&scores.text(perplexity, arguments, &cell))?,
    }
    Ok(exit::OK)
}

/// What a launch reported.
struct Scores<'a> {
    events: &'a [Event],
}

impl<'a> Scores<'a> {
    fn samples(&self, metric: &str) -> impl Iterator<Item = &'a Sample> {
        self.events.iter().filter_map(move |event| match event {
            Event::Sample { sample, .. } if sample.metric == metric => Some(sample),
            _ => None,
        })
    }

    /// Returns a metric of the whole text.
    fn whole(&self, metric: &str) -> Option<&'a Sample> {
        self.samples(metric).find(|sample| sample.step.is_none())
    }

    fn value(&self, metric: &str) -> Option<f64> {
        self.whole(metric).map(|sample| sample.value)
    }

    /// Returns a metric of each window.
    fn windows(&self, metric: &str) -> Vec<f64> {
        self.samples(metric).filter(|sample| sample.step.is_some()).map(|sample| sample.value).collect()
    }

    /// Returns the interval of a metric's mean over windows.
    fn interval(&self, metric: &str) -> Option<Interval> {
        stats::mean_interval(&self.windows(metric), CONFIDENCE).ok().flatten()
    }

    fn json(&self, perplexity: &Sample, arguments: &Arguments, cell: &Cell) -> Value {
        let windows = self.windows("nll");
        let mut json = json!({
            "perplexity": perplexity.value,
            "nll": self.value("nll"),
            "bits_per_byte": self.value("bits_per_byte"),
            "n_tokens": perplexity.n,
            "n_ctx": arguments.ctx,
            "chunks": windows.len(),
            "nll_by_window": windows,
            "text": arguments.file,
            "model": cell.model,
            "kernels": set_name(cell.kernel_set),
            "device": cell.recipe.kernels.device,
        });
        if let Some(reference) = cell.references.values().next() {
            let mut divergence = json!({
                "mean": self.value("kl_mean"),
                "mean_interval": self.interval("kl_mean"),
                "by_window": self.windows("kl_mean"),
                "top1_agreement": self.value("top1_agreement"),
                "top1_agreement_interval": self.interval("top1_agreement"),
                "reference_perplexity": self.value("reference_perplexity"),
                "perplexity_log_ratio": self.value("perplexity_log_ratio"),
                "perplexity_log_ratio_interval": self.interval("perplexity_log_ratio"),
                "reference": {"model": reference.model, "kernels": set_name(reference.kernel_set)},
            });
            for (metric, heading) in PERCENTILES {
                divergence[heading] = json!(self.value(metric));
            }
            json["kl_divergence"] = divergence;
        }
        json
    }

    fn text(&self, perplexity: &Sample, arguments: &Arguments, cell: &Cell) -> String {
        let windows = self.windows("nll").len();
        let mut text = format!(
            "perplexity {:.4} over {} tokens ({windows} windows of {}), {} with {}\n",
            perplexity.value,
            perplexity.n,
            arguments.ctx,
            cell.model.name,
            ad_hoc::backend(cell)
        );
        let Some(reference) = cell.references.values().next() else { return text };
        let mean = |metric: &str| {
            let value = self.value(metric).unwrap_or(f64::NAN);
            number::with_interval(value, self.interval(metric))
        };
        let percentiles = PERCENTILES.map(|(metric, heading)| {
            format!("{heading} {}", number::significant(self.value(metric).unwrap_or(f64::NAN), 3))
        });
        let lines = [
            format!(
                "reference  {:.4}, {} {} with {}; log ratio {}",
                self.value("reference_perplexity").unwrap_or(f64::NAN),
                reference.model.name,
                reference.model.format,
                set_name(reference.kernel_set),
                mean("perplexity_log_ratio")
            ),
            format!("KL divergence {} nats, {}", mean("kl_mean"), percentiles.join(", ")),
            format!("top-1 agreement {}", mean("top1_agreement")),
            "± is half of the 95 % interval over windows".to_owned(),
        ];
        text.push_str(&lines.join("\n"));
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_recipes() {
        assert_eq!(format("q4_k"), Ok(QuantizationFormat::Q4K));
        assert!(format("q9").unwrap_err().contains("q8_0"));
    }
}
