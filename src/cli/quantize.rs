//! `ruvlab quantize`
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    clock::Stopwatch,
    exit,
    model::weights::{
        Conversion, ConversionError, Importance, NamePattern, Scheme, Target, TensorType, Weights, WeightsError,
        write::{self, WriteError},
    },
    report::tables::{Column, Entry, Table},
    run::{Interrupt, RunError},
    ui::{Printer, Steps},
    units::{Bytes, Threads},
};

use super::{
    Failure, Format, Global,
    access::{self, Offline},
};

/// Write a model as a GGUF file of another type.
///
/// Matrices take the type asked for, or in a mixture (`q4_k_m`) types by layer and role, as
/// llama-quantize chooses them; norms, biases and tables stay as they are. Where the rows are no
/// multiple of a type's block, the next type that fits is taken, as llama-quantize does, and said.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A GGUF file, a folder of safetensors, `hf:OWNER/REPO`, `builtin:pico`, or a short name (`ruvlab models`).
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The type of matrices, all alike: `f32`, `f16`, `bf16`, `q4_0`, `q4_1`, `q5_0`, `q5_1`, `q8_0`,
    /// `q2_k`, `q3_k`, `q4_k`, `q5_k` or `q6_k`; or a mixture, with more bits where errors cost most:
    /// `q3_k_s`, `q3_k_m`, `q3_k_l`, `q4_k_s`, `q4_k_m`, `q5_k_s` or `q5_k_m`.
    #[arg(long = "type", value_name = "TYPE", value_parser = scheme)]
    scheme: Scheme,
    /// An importance matrix of llama.cpp's llama-imatrix (GGUF or .dat): errors count where it says.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Another type for some matrices: part of a name, or a whole one with * and ?; the first that
    /// fits counts.
    #[arg(long = "tensor-type", value_name = "PATTERN=TYPE", value_parser = tensor_override)]
    overrides: Vec<(NamePattern, TensorType)>,
    /// Another type for the head, where it is not the token embedding.
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<TensorType>,
    /// Another type for the token embedding.
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<TensorType>,
    /// Threads: a number or `auto`.
    #[arg(short, long, value_name = "N", default_value = "auto")]
    threads: Threads,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    access: Offline,
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    let names = || TensorType::all().map(TensorType::name).collect::<Vec<_>>().join(" ");
    TensorType::from_name(&text.to_lowercase()).ok_or_else(|| format!("there is no such type; there are {}", names()))
}

fn scheme(text: &str) -> Result<Scheme, String> {
    let names = || Scheme::all().map(Scheme::name).collect::<Vec<_>>().join(" ");
    Scheme::from_name(&text.to_lowercase()).ok_or_else(|| format!("there is no such type; there are {}", names()))
}

fn tensor_override(text: &str) -> Result<(NamePattern, TensorType), String> {
    let (pattern, kind) = text.rsplit_once('=').ok_or("it must be PATTERN=TYPE, such as ffn_down=q6_k")?;
    let pattern = NamePattern::new(pattern).ok_or("the pattern is empty; it must be PATTERN=TYPE")?;
    Ok((pattern, tensor_type(kind)?))
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let output = &arguments.output;
    if output.exists() && !arguments.force {
        let message = format!("{} is there already", output.display());
        return Err(Failure::new(
            exit::USAGE,
            "output",
            message,
            Some("add --force to replace it, or name another file"),
        ));
    }
    if output.is_dir() {
        let message = format!("{} is a folder", output.display());
        return Err(Failure::new(exit::USAGE, "output", message, Some("name the file to write")));
    }
    let importance = arguments.imatrix.as_deref().map(read_importance).transpose()?;
    let watch = Stopwatch::start();
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let weights = Weights::open(&locator.locate(&access::source(&arguments.model), None)?.path)?;
    let conversion = Conversion {
        scheme: arguments.scheme,
        overrides: arguments.overrides.clone(),
        output: arguments.output_tensor_type,
        token_embedding: arguments.token_embedding_type,
        importance,
        threads: arguments.threads.resolve() as usize,
    };
    let converter = weights.converter(&conversion)?;
    let unfinished = output.clone();
    Interrupt::end_after(move || write::abandon(&unfinished)).map_err(RunError::Signals)?;
    let steps = Steps::new(global.quiet, converter.targets().len() as u64);
    let written =
        converter.write(output, |target| steps.next(&format!("{} {} → {}", target.name, target.from, target.kind)));
    steps.finish();
    written?;
    let report =
        Report { weights: &weights, conversion: &conversion, targets: converter.targets(), size: converter.size() };
    let seconds = watch.elapsed().as_secs_f64();
    match global.format {
        Format::Json => Printer::stdout().json(&report.json(output, seconds))?,
        Format::Human => {
            Printer::stdout().table(&report.table(output))?;
            steps.note(&format!("written in {seconds:.1} s"));
        }
    }
    Ok(exit::OK)
}

fn read_importance(path: &Path) -> Result<(Importance, String), Failure> {
    let failed =
        |problem: String| Failure::new(exit::RESOURCE, "imatrix", format!("{}: {problem}", path.display()), None);
    // The length is asked of what is read, not of the name: a pipe or a device has none.
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(Importance::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > Importance::MAX_BYTES {
        let most = Bytes(Importance::MAX_BYTES);
        return Err(failed(format!("it is larger than {most}, so it is no importance matrix of one model")));
    }
    let importance = Importance::parse(&bytes).map_err(|error| failed(error.to_string()))?;
    if importance.is_empty() {
        return Err(failed("it says nothing of any matrix".to_owned()));
    }
    Ok((importance, path.to_string_lossy().into_owned()))
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        Self::new(exit::RESOURCE, "weights", error.to_string(), None)
    }
}

impl From<ConversionError> for Failure {
    fn from(error: ConversionError) -> Self {
        let code = match error {
            ConversionError::NoMatch { .. } | ConversionError::TiedOutput => exit::USAGE,
            ConversionError::Importance { .. } | ConversionError::Write(WriteError::Space { .. }) => exit::RESOURCE,
            ConversionError::Quantize { .. } | ConversionError::Write(_) => exit::UNEXPECTED,
        };
        Self::new(code, "quantize", error.to_string(), None)
    }
}

/// What was done, to be shown.
struct Report<'a> {
    weights: &'a Weights,
    conversion: &'a Conversion,
    targets: &'a [Target],
    size: u64,
}

/// Tensors of one type.
#[derive(Default)]
struct Share {
    tensors: u64,
    values: u64,
    bytes: u64,
}

impl Report<'_> {
    fn shares(&self) -> BTreeMap<TensorType, Share> {
        let mut shares: BTreeMap<TensorType, Share> = BTreeMap::new();
        for target in self.targets {
            let share = shares.entry(target.kind).or_default();
            share.tensors += 1;
            share.values += target.values as u64;
            share.bytes += target.bytes;
        }
        shares
    }

    fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.targets.iter().map(|target| target.bytes).sum();
        bytes as f64 * 8.0 / self.weights.parameters() as f64
    }

    /// Returns the quantised tensors that an importance matrix, if there is one, says nothing of.
    fn unweighed(&self) -> Vec<&str> {
        let blocks = |target: &&Target| {
            target.changes() && target.kind.block_values() > 1 && target.kind != TensorType::Q8_0 && !target.weighed
        };
        self.targets.iter().filter(blocks).map(|target| target.name.as_str()).collect()
    }

    /// Returns the types that were quantised again, which loses twice.
    fn requantised(&self) -> Vec<TensorType> {
        let twice = self.targets.iter().filter(|target| target.changes() && target.from.block_values() > 1);
        let mut kinds: Vec<TensorType> = twice.map(|target| target.from).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    fn json(&self, output: &Path, seconds: f64) -> Value {
        let shares = self.shares().into_iter().map(|(kind, Share { tensors, values, bytes })| {
            (kind.name().to_owned(), json!({"tensors": tensors, "weights": values, "bytes": bytes}))
        });
        let fallbacks = self.targets.iter().filter_map(|target| {
            let fallback = target.fallback()?;
            Some(json!({
                "tensor": fallback.tensor,
                "columns": target.columns,
                "wanted": fallback.wanted.name(),
                "used": fallback.used.name(),
            }))
        });
        json!({
            "model": self.weights.source(),
            "output": output,
            "type": self.conversion.scheme.name(),
            "bytes": self.size,
            "tensor_bytes_before": self.weights.total_bytes(),
            "tensor_bytes": self.targets.iter().map(|target| target.bytes).sum::<u64>(),
            "bits_per_weight": self.bits_per_weight(),
            "types": shares.collect::<serde_json::Map<_, _>>(),
            "fallbacks": fallbacks.collect::<Vec<_>>(),
            "quantized_again": self.requantised().into_iter().map(TensorType::name).collect::<Vec<_>>(),
            "imatrix": self.conversion.importance.as_ref().map(|(importance, file)| json!({
                "file": file,
                "entries": importance.len(),
                "weighed": self.targets.iter().filter(|target| target.weighed).count(),
                "unweighed": self.unweighed(),
            })),
            "seconds": seconds,
        })
    }

    fn table(&self, output: &Path) -> Table {
        let row = |(kind, share): (TensorType, Share)| -> Vec<Entry> {
            vec![
                kind.name().into(),
                share.tensors.to_string().into(),
                share.values.to_string().into(),
                Bytes(share.bytes).to_string().into(),
            ]
        };
        let mut notes = vec![format!(
            "{} of {:.2} bits a weight; the source's tensors took {}",
            Bytes(self.size),
            self.bits_per_weight(),
            Bytes(self.weights.total_bytes())
        )];
        // Most tensors that fall back do so alike: a line for each kind of them.
        let mut alike: BTreeMap<(TensorType, TensorType, usize), Vec<&str>> = BTreeMap::new();
        for target in self.targets.iter().filter(|target| target.kind != target.wanted) {
            alike.entry((target.wanted, target.kind, target.columns)).or_default().push(&target.name);
        }
        for ((wanted, used, columns), names) in alike {
            let shown = names.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
            notes.push(format!("{used} for {wanted}, rows of {columns} are no multiple of its block: {shown}{more}"));
        }
        if let Some((importance, file)) = &self.conversion.importance {
            let weighed = self.targets.iter().filter(|target| target.weighed).count();
            let unweighed = self.unweighed();
            let rest = match unweighed.len() {
                0 => String::new(),
                1..=3 => format!("; nothing for {}", unweighed.join(", ")),
                count => format!("; nothing for {count} others"),
            };
            notes.push(format!("{file}: {} entries weighed {weighed} matrices{rest}", importance.len()));
        }
        let again = self.requantised();
        if !again.is_empty() {
            let kinds: Vec<&str> = again.into_iter().map(TensorType::name).collect();
            notes.push(format!(
                "quantised from {} again, which loses twice; an f16 or f32 source is better",
                kinds.join(", ")
            ));
        }
        Table {
            title: output.display().to_string(),
            columns: vec![
                Column::text("type", 0),
                Column::number("tensors", 0),
                Column::number("weights", 1),
                Column::number("size", 0),
            ],
            rows: self.shares().into_iter().map(row).collect(),
            notes,
        }
    }
}
