//! `ruvlab adapter compose`
use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use ruvlab_kernels::log_sum_exp_f32;
use serde_json::json;

use crate::{
    adapt::{
        compose::{self, ComposeError, Majority, Method, Search},
        file,
    },
    engine::{self, Adapter, Chunk, EngineError, LanguageModel, LogitRows},
    exit,
    model::{tokenizer::Tokenizer, weights::Weights},
    plan, text,
    ui::Printer,
};

use super::super::{
    Failure, Format, Global,
    access::{self, Offline},
};

/// Make one adapter of several, and write it as a PEFT folder (or a `.gguf`).
///
/// All methods but `linear` and `lora-hub` work on ΔW, so they do not depend on how it is factored.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    /// Adapters with their weights: `0.7=PATH`, or `PATH` for a weight of 1. Before a negative weight at
    /// the end of the line stands `--`.
    #[arg(required = true, value_name = "W=PATH", value_parser = weighted)]
    adapters: Vec<(f64, PathBuf)>,
    /// The model they are for.
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// What to write.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// How they become one.
    #[arg(long, value_name = "METHOD", default_value = "cat")]
    method: Choice,
    /// The rank of the result, of all methods but cat, linear and lora-hub; the largest rank given when absent.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=4096))]
    rank: Option<u32>,
    /// The share of each ΔW that is kept, of ties, dare and magnitude-prune.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    density: f64,
    /// Elect signs by how many changes have them, not by the sum of the changes.
    #[arg(long)]
    frequency: bool,
    /// What dare and lora-hub draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The few examples of lora-hub: a text, of which the first 256 tokens are scored.
    #[arg(long, value_name = "TEXT", required_if_eq("method", "lora-hub"))]
    text: Option<String>,
    /// How often lora-hub scores them.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    evaluations: u32,
    #[command(flatten)]
    access: Offline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// The weighted sum, exactly: factors side by side.
    Cat,
    /// The weighted sum, brought to a rank.
    Svd,
    /// Weighted sums of factors, as PEFT's `linear`.
    Linear,
    /// The largest changes that agree in sign, averaged (arXiv 2306.01708).
    Ties,
    /// Changes dropped at random and enlarged, summed (arXiv 2311.03099).
    DareLinear,
    /// The same, elected as in TIES.
    DareTies,
    /// The largest changes, summed.
    MagnitudePrune,
    /// Weighted sums of factors, weights searched for on a few examples (arXiv 2307.13269).
    LoraHub,
}

fn weighted(text: &str) -> Result<(f64, PathBuf), String> {
    let parsed = text.split_once('=').and_then(|(weight, path)| Some((weight.parse::<f64>().ok()?, path)));
    let (weight, path) = parsed.unwrap_or((1.0, text));
    if !weight.is_finite() || path.is_empty() {
        return Err("it must be WEIGHT=PATH, such as 0.7=adapters/a".to_owned());
    }
    Ok((weight, path.into()))
}

impl From<ComposeError> for Failure {
    fn from(error: ComposeError) -> Self {
        let code = match error {
            ComposeError::Density(_) | ComposeError::Rank | ComposeError::Weight(_) => exit::USAGE,
            _ => exit::RESOURCE,
        };
        Self::new(code, "compose", error.to_string(), None)
    }
}

impl Arguments {
    /// Returns the method asked for; none for the one that searches.
    fn method(&self, largest: usize) -> Option<Method> {
        let rank = self.rank.map_or(largest, |rank| rank as usize);
        let (density, seed) = (self.density, self.seed);
        let majority = if self.frequency { Majority::Frequency } else { Majority::Total };
        Some(match self.method {
            Choice::Cat => Method::Cat,
            Choice::Svd => Method::Svd { rank },
            Choice::Linear => Method::Linear,
            Choice::Ties => Method::Ties { density, majority, rank },
            Choice::DareLinear => Method::Dare { density, majority: None, rank, seed },
            Choice::DareTies => Method::Dare { density, majority: Some(majority), rank, seed },
            Choice::MagnitudePrune => Method::MagnitudePrune { density, rank },
            Choice::LoraHub => return None,
        })
    }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let weights = Weights::open(&locator.locate(&access::source(&arguments.model), None)?.path)?;
    let read = |(_, path): &(f64, PathBuf)| file::read(path, weights.spec());
    let adapters = arguments.adapters.iter().map(read).collect::<Result<Vec<Adapter>, _>>()?;
    let largest = adapters.iter().flat_map(Adapter::values).map(|part| part.rank).max().unwrap_or(1);
    let given: Vec<f64> = arguments.adapters.iter().map(|(weight, _)| *weight).collect();
    let parts: Vec<_> = given.iter().copied().zip(&adapters).collect();
    let (made, used, lost, loss) = match arguments.method(largest) {
        Some(method) => {
            let (made, lost) = compose::compose_to_rank(&parts, &method)?;
            // What is summed factor by factor is no sum of changes to be compared with.
            (made, given, (method != Method::Linear).then_some(lost), None)
        }
        None => {
            let search =
                Search { evaluations: arguments.evaluations as usize, seed: arguments.seed, ..Search::default() };
            let mut scored = Examples::open(&weights, arguments.text.as_deref().unwrap_or_default())?;
            let all: Vec<&Adapter> = adapters.iter().collect();
            let (found, made, loss) = compose::lora_hub(&all, &search, &mut |adapter| scored.loss(adapter))?;
            (made, found, None, Some(loss))
        }
    };
    file::write(&arguments.output, weights.spec(), &arguments.model, &made)?;
    let rank = made.values().map(|part| part.rank).max().unwrap_or(0);
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "output": arguments.output, "matrices": made.len(), "r": rank, "weights": used, "error": lost, "loss": loss,
        }))?,
        Format::Human => {
            let mut parts = vec![format!("{}: {} matrices of rank {rank}", arguments.output.display(), made.len())];
            parts.extend(lost.map(|lost| format!("{:.4} % of the merged change lost to the rank", lost * 100.0)));
            parts.extend(loss.map(|loss| format!("weights {used:.3?} give a loss of {loss:.4}")));
            out.text(&(parts.join("; ") + "\n"))?;
        }
    }
    Ok(exit::OK)
}

/// A model and the tokens whose likelihood is the loss of an adapter.
struct Examples {
    model: Box<dyn LanguageModel>,
    tokens: Vec<u32>,
}

impl Examples {
    fn open(weights: &Weights, source: &str) -> Result<Self, Failure> {
        let failed = |message: String| Failure::new(exit::RESOURCE, "lora-hub", message, None);
        let tokenizer = Tokenizer::new(weights).map_err(|error| failed(error.to_string()))?;
        let content = text::load(source)?.content;
        let mut tokens = tokenizer.encode(&content, false).map_err(|error| failed(error.to_string()))?;
        tokens.truncate(257.min(weights.spec().context_length + 1));
        if tokens.len() < 2 {
            return Err(failed(format!("{source} has too few tokens to score")));
        }
        let set = plan::auto_set(None).map_err(|error| failed(error.to_string()))?;
        let kind = plan::engine_kind(set).ok_or_else(|| failed("this processor runs no kernel set".to_owned()))?;
        let model = engine::load(kind, weights, Some(tokens.len()))?;
        Ok(Self { model, tokens })
    }

    /// Returns the mean negative log-likelihood of the tokens with an adapter.
    fn loss(&mut self, adapter: &Adapter) -> Result<f64, ComposeError> {
        let failed = |error: EngineError| ComposeError::Loss(error.to_string());
        let sequence = self.model.open().map_err(failed)?;
        self.model.attach(sequence, Some(Arc::new(adapter.clone()))).map_err(failed)?;
        let (last, context) = (self.tokens.len() - 1, &self.tokens[..self.tokens.len() - 1]);
        let logits = self.model.step(&[Chunk { sequence, tokens: context, logits: LogitRows::All }]).map_err(failed)?;
        self.model.close(sequence);
        let nll = |at: usize| {
            let row = logits[0].row(at);
            log_sum_exp_f32(row) - f64::from(row[self.tokens[at + 1] as usize])
        };
        Ok((0..last).map(nll).sum::<f64>() / last as f64)
    }
}
