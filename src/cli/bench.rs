//! `ruvlab bench`: llama-bench's vocabulary.
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    clock,
    event::{Event, Sample},
    exit,
    host::Host,
    metrics::stats::{self, StatsError},
    plan::{Cell, LaunchTask, set_name},
    recipe::schema::{ActivationPrecision, Decode, Prefill, Workload},
    run::{Interrupt, RunError},
    ui::Printer,
};

use super::{
    Failure, Format, Global,
    access::Offline,
    ad_hoc::{self, AdHoc, DeviceChoice, KernelChoice},
};

/// Time prompt processing and generation of one model, as llama-bench does.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A GGUF file, a folder of safetensors, `hf:owner/repo[:file or quant]`, `synthetic:SHAPE:QUANT`,
    /// `builtin:pico`, or a short name (`ruvlab models`).
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// Prompt lengths to process (0: none).
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    n_prompt: Vec<u32>,
    /// Numbers of tokens to generate (0: none).
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    n_gen: Vec<u32>,
    /// Tokens of context before the timed part.
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    n_depth: Vec<u32>,
    /// Timed repetitions of each test.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Threads: a number or `auto`.
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "auto")]
    threads: Vec<crate::units::Threads>,
    /// Kernel sets.
    #[arg(long, value_name = "SET", value_delimiter = ',', default_value = "auto")]
    kernels: Vec<KernelChoice>,
    /// Where the kernel set `candle` computes; the others have the processor alone.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Precision of activations in ruvlab's own kernels: `int16` (when absent) or `int8`.
    #[arg(long, value_name = "PRECISION", value_parser = ad_hoc::precision)]
    activations: Option<ActivationPrecision>,
    /// Run it with an adapter: a PEFT folder, or a GGUF adapter of llama.cpp's.
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    access: Offline,
    /// The form of the output.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A Markdown table.
    Md,
    /// An array with every sample.
    Json,
    /// Comma-separated values.
    Csv,
}

/// One test's result, in llama-bench's field names.
#[derive(Clone, Debug, Serialize)]
struct Record {
    build_commit: String,
    build_version: String,
    cpu_info: String,
    backends: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    /// The adapter it runs with.
    adapter: Option<String>,
    n_threads: u16,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    test_time: String,
    avg_ns: f64,
    stddev_ns: Option<f64>,
    avg_ts: f64,
    stddev_ts: Option<f64>,
    samples_ns: Vec<f64>,
    samples_ts: Vec<f64>,
}

/// A test: prompt or generation, at a depth.
#[derive(Clone, Copy, Debug)]
struct Test {
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
}

impl Test {
    fn workload(self, repetitions: u32) -> Workload {
        if self.n_gen == 0 {
            let Self { n_prompt: prompt_tokens, n_depth: context_depth, .. } = self;
            Workload::Prefill(Prefill { prompt_tokens, context_depth, batch_size: 1, repetitions })
        } else {
            // One token more: the first is sampled from the prompt, and only gaps after it are timed.
            let (prompt_tokens, output_tokens) = (self.n_depth.max(1), self.n_gen + 1);
            Workload::Decode(Decode { prompt_tokens, output_tokens, batch_size: 1, repetitions })
        }
    }

    fn name(self) -> String {
        let name = if self.n_gen == 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) };
        if self.n_depth == 0 { name } else { format!("{name} @ d{}", self.n_depth) }
    }

    /// Returns the metric that times it and the tokens a sample stands for.
    fn timed(self) -> (&'static str, u32) {
        if self.n_gen == 0 { ("prefill_tok_s", self.n_prompt) } else { ("decode_tok_s", self.n_gen) }
    }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let output = arguments.output.unwrap_or(if global.format == Format::Json { Output::Json } else { Output::Md });
    let mut tests = Vec::new();
    for &n_depth in &arguments.n_depth {
        let prompts = arguments.n_prompt.iter().filter(|n| **n > 0);
        tests.extend(prompts.map(|&n_prompt| Test { n_prompt, n_gen: 0, n_depth }));
        let generations = arguments.n_gen.iter().filter(|n| **n > 0);
        tests.extend(generations.map(|&n_gen| Test { n_prompt: 0, n_gen, n_depth }));
    }
    if tests.is_empty() {
        return Err(Failure::new(exit::USAGE, "nothing-to-time", "both -p and -n are 0", None));
    }
    let host = Host::detect();
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    // All are planned before the first is timed: what cannot be run is known at once.
    let mut planned = Vec::new();
    for &kernels in &arguments.kernels {
        for &threads in &arguments.threads {
            for &test in &tests {
                let adhoc = AdHoc {
                    model: arguments.model.clone(),
                    kernels,
                    device: arguments.device,
                    activations: arguments.activations,
                    threads,
                    adapter: arguments.adapter.clone(),
                    workload: test.workload(arguments.repetitions),
                };
                planned.push((test, adhoc.cell(&mut locator)?));
            }
        }
    }
    let interrupt = Interrupt::watch_impatiently().map_err(RunError::Signals)?;
    let mut records = Vec::new();
    let timed = planned.iter().try_for_each(|(test, cell)| {
        records.push(time(&host, cell, *test, global.quiet, &interrupt)?);
        Ok::<_, Failure>(())
    });
    // What was timed before another failed, or a signal came, is not lost.
    if timed.is_ok() || !records.is_empty() {
        show(output, &records)?;
    }
    timed.map(|()| exit::OK)
}

fn time(host: &Host, cell: &Cell, test: Test, quiet: bool, interrupt: &Interrupt) -> Result<Record, Failure> {
    let samples = timed_samples(cell, test, quiet, interrupt)?;
    record(host, cell, test, &samples)
        .map_err(|error| Failure::new(exit::UNEXPECTED, "statistics", error.to_string(), None))
}

fn timed_samples(cell: &Cell, test: Test, quiet: bool, interrupt: &Interrupt) -> Result<Vec<Sample>, Failure> {
    if !quiet {
        Printer::stderr().note(&format!("timing {} with {} ...", test.name(), set_name(cell.kernel_set)));
    }
    let events = ad_hoc::launch_once(cell, LaunchTask::Speed, interrupt)?;
    let (metric, _) = test.timed();
    let samples = events.into_iter().filter_map(|event| match event {
        Event::Sample { sample, .. } if sample.metric == metric && !sample.warmup => Some(sample),
        _ => None,
    });
    Ok(samples.collect())
}

fn record(host: &Host, cell: &Cell, test: Test, samples: &[Sample]) -> Result<Record, StatsError> {
    let (_, tokens) = test.timed();
    let samples_ts: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    let samples_ns: Vec<f64> = samples_ts.iter().map(|speed| (f64::from(tokens) / speed * 1.0e9).round()).collect();
    Ok(Record {
        build_commit: host.commit.clone(),
        build_version: host.ruvlab.clone(),
        cpu_info: host.cpu.clone(),
        backends: ad_hoc::backend(cell),
        model_filename: cell.model.source.clone(),
        model_type: format!("{} {}", cell.model.name, cell.model.format),
        model_size: cell.model.weights_bytes,
        model_n_params: cell.model.parameters,
        adapter: cell.model.adapter.as_ref().map(|adapter| adapter.path.clone()),
        n_threads: cell.threads,
        n_prompt: test.n_prompt,
        n_gen: test.n_gen,
        n_depth: test.n_depth,
        test_time: clock::timestamp(),
        avg_ns: stats::mean(&samples_ns)?,
        stddev_ns: stats::sample_sd(&samples_ns)?,
        avg_ts: stats::mean(&samples_ts)?,
        stddev_ts: stats::sample_sd(&samples_ts)?,
        samples_ns,
        samples_ts,
    })
}

fn show(output: Output, records: &[Record]) -> Result<(), Failure> {
    let out = Printer::stdout();
    match output {
        Output::Json => out.json(&records)?,
        Output::Md => {
            out.text(&markdown(&records.iter().map(row).collect::<Vec<_>>()))?;
        }
        Output::Csv => out.text(&csv(records)?)?,
    }
    Ok(())
}

fn row(record: &Record) -> [String; 7] {
    let test = Test { n_prompt: record.n_prompt, n_gen: record.n_gen, n_depth: record.n_depth };
    [
        format!("{}{}", record.model_type, if record.adapter.is_some() { " + adapter" } else { "" }),
        format!("{:.2} MiB", record.model_size as f64 / f64::from(1u32 << 20)),
        format!("{:.2} M", record.model_n_params as f64 / 1.0e6),
        record.backends.clone(),
        record.n_threads.to_string(),
        test.name(),
        match record.stddev_ts {
            Some(deviation) => format!("{:.2} ± {deviation:.2}", record.avg_ts),
            None => format!("{:.2}", record.avg_ts),
        },
    ]
}

/// Returns a Markdown table whose columns line up.
fn markdown(rows: &[[String; 7]]) -> String {
    const HEADINGS: [&str; 7] = ["model", "size", "params", "backend", "threads", "test", "t/s"];
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([HEADINGS[at].len()]).max().unwrap_or(0)
    };
    let line = |cells: &[String; 7]| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(
                |(at, cell)| {
                    if at == 0 { format!("{cell:<w$}", w = width(at)) } else { format!("{cell:>w$}", w = width(at)) }
                },
            )
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = (0..7)
        .map(|at| if at == 0 { "-".repeat(width(at) + 2) } else { format!("{}:", "-".repeat(width(at) + 1)) })
        .collect();
    let body: String = rows.iter().map(line).collect();
    format!("{}|{}|\n{body}", line(&HEADINGS.map(str::to_owned)), rule.join("|"))
}

/// Returns comma-separated values, a heading line first; the samples of a test are joined by `;`.
fn csv(records: &[Record]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for (index, record) in records.iter().enumerate() {
        let serde_json::Value::Object(fields) = serde_json::to_value(record)? else { continue };
        if index == 0 {
            text += &(fields.keys().cloned().collect::<Vec<_>>().join(",") + "\n");
        }
        let values: Vec<String> = fields.values().map(csv_field).collect();
        text += &(values.join(",") + "\n");
    }
    Ok(text)
}

fn csv_field(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        serde_json::Value::Array(items) => {
            format!("\"{}\"", items.iter().map(ToString::to_string).collect::<Vec<_>>().join(";"))
        }
        other => other.to_string(),
    }
}
