//! `ruvlab adapter merge`
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    adapt::merge::{self, MergeError, Merged},
    exit,
    model::weights::{Conversion, Scheme, TensorType, write},
    report::tables::{Column, Table},
    run::{Interrupt, RunError},
    ui::Printer,
};

use super::{
    super::{Failure, Format, Global},
    subject::Subject,
};

/// Merge an adapter into a model's matrices and write the model as a GGUF file.
///
/// How much of the change the file's type keeps is measured and shown: rounding to few bits loses a part
/// of it, and of a small change much.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Bring all matrices to this type, such as `f32`, `f16` or `q8_0`; each keeps its own when absent.
    #[arg(long = "type", value_name = "TYPE", value_parser = tensor_type)]
    kind: Option<TensorType>,
    /// What the change is multiplied by: −1 takes it out again. A decomposed one (DoRA) has no multiples.
    #[arg(long, value_name = "W", default_value_t = 1.0, allow_negative_numbers = true)]
    weight: f64,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    let names = || TensorType::all().map(TensorType::name).collect::<Vec<_>>().join(" ");
    TensorType::from_name(&text.to_lowercase()).ok_or_else(|| format!("there is no such type; there are {}", names()))
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        Self::new(exit::RESOURCE, "merge", error.to_string(), None)
    }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { subject, output, kind, weight, force } = arguments;
    if output.exists() && !force {
        let message = format!("{} is there already", output.display());
        return Err(Failure::new(exit::USAGE, "output", message, Some("add --force to replace it")));
    }
    if !weight.is_finite() {
        return Err(Failure::new(exit::USAGE, "weight", "--weight must be a finite number", None));
    }
    let (weights, adapter) = subject.open(global)?;
    let (merged, report) = merge::merge(&weights, &adapter, *weight, *kind)?;
    let unfinished = output.clone();
    Interrupt::end_after(move || write::abandon(&unfinished)).map_err(RunError::Signals)?;
    match kind {
        None => merged.write_file(output)?,
        Some(kind) => {
            let conversion = Conversion {
                scheme: Scheme::Plain(*kind),
                overrides: Vec::new(),
                output: None,
                token_embedding: None,
                importance: None,
                threads: 0,
            };
            merged.converter(&conversion)?.write(output, |_| {})?;
        }
    }
    let lost = merge::lost(&report);
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let row = |Merged { tensor, kind, size, lost }: &Merged| json!({"tensor": tensor, "type": kind.name(), "norm": size, "error": lost});
            let tensors: Vec<_> = report.iter().map(row).collect();
            out.json(&json!({"output": output, "error": lost, "tensors": tensors}))?;
        }
        Format::Human => {
            let row = |Merged { tensor, kind, size, lost }: &Merged| {
                vec![
                    tensor.as_str().into(),
                    kind.name().into(),
                    format!("{size:.4}").into(),
                    format!("{:.3} %", lost * 100.0).into(),
                ]
            };
            let columns = vec![
                Column::text("tensor", 0),
                Column::text("type", 0),
                Column::number("|ΔW|", 1),
                Column::number("error of ΔW", 0),
            ];
            let mut notes = vec![format!("error of ΔW as stored: {:.4} % of all of it", lost * 100.0)];
            if lost > 0.1 {
                notes.push(
                    "much of the change is rounded away: take a wider --type, or run the adapter unmerged".to_owned(),
                );
            }
            let title = format!("{}: {} matrices merged", output.display(), report.len());
            out.table(&Table { title, columns, rows: report.iter().map(row).collect(), notes })?;
        }
    }
    Ok(exit::OK)
}
