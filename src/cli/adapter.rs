//! `ruvlab adapter`
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    adapt::{
        peft::{self, PeftError, Scaling},
        train::{self, Trainer, Update},
    },
    engine::{Scored, TraineeSettings},
    exit,
    host::Load,
    model::{tokenizer::Tokenizer, weights::Weights},
    plan,
    recipe::{
        self,
        schema::{AdapterType, Recipe, Training},
    },
    text::{self, TextError},
    ui::Printer,
};

use super::{
    Failure, Format, Global,
    access::{self, Access, Offline},
    resolve,
};

/// Train low-rank adapters, and look at those there are.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(TrainArguments),
    Inspect(InspectArguments),
}

/// Train the adapter of a recipe, from `adapter` and `training`, and write it as a PEFT folder.
///
/// Each step's loss (before its update), gradient norm (before clipping) and learning rate are printed.
#[derive(Debug, Args)]
struct TrainArguments {
    /// The recipe.
    recipe: PathBuf,
    /// What to learn from: a text (`builtin:NAME` or a path), or a JSON array of token ids; cut into
    /// sequences of `training.sequence_length` tokens.
    #[arg(long, value_name = "FILE")]
    data: String,
    /// The PEFT folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time.
    #[arg(long)]
    recompute: bool,
    /// Change a value of the recipe: `--set training.max_steps=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    access: Access,
}

/// Show what a PEFT folder changes in a model.
#[derive(Debug, Args)]
struct InspectArguments {
    /// The PEFT folder.
    folder: PathBuf,
    /// The model it is for.
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    access: Offline,
}

impl From<PeftError> for Failure {
    fn from(error: PeftError) -> Self {
        Self::new(exit::RESOURCE, "adapter", error.to_string(), None)
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::new(exit::RESOURCE, "text", error.to_string(), None)
    }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    match &arguments.action {
        Action::Train(arguments) => learn(global, arguments),
        Action::Inspect(arguments) => inspect(global, arguments),
    }
}

fn refuse(message: &str, hint: &str) -> Failure {
    Failure::new(exit::RECIPE, "adapter", message, Some(hint))
}

/// Returns a recipe's adapter and training, or what of them cannot be run.
fn learnable(recipe: &Recipe) -> Result<(&recipe::schema::Adapter, &Training), Failure> {
    let (Some(adapter), Some(training)) = (&recipe.adapter, &recipe.training) else {
        return Err(refuse("the recipe lacks `adapter` or `training`", "give both"));
    };
    if adapter.lora_dropout > 0.0 {
        return Err(refuse("`adapter.lora_dropout` cannot be computed yet", "take it out"));
    }
    if recipe.matrix.is_some() {
        return Err(refuse(
            "a recipe with a `matrix` is several trainings",
            "choose one point with `--set`, without it",
        ));
    }
    Ok((adapter, training))
}

fn open(recipe: &Recipe, access: Access, folder: &Path, quiet: bool) -> Result<Weights, Failure> {
    let mut locator = access.locator(folder, quiet)?;
    let located = locator.locate(&recipe.model.source, recipe.model.revision.as_deref())?;
    locator.finish()?;
    let weights = Weights::open(&located.path)?;
    let weights = match plan::storage_type(recipe.quantization.format) {
        Some(format) => weights.requantized(format)?,
        None => weights,
    };
    Ok(weights.with_rope(&plan::rope_change(&recipe.rope))?)
}

/// Returns the tokens to learn from.
fn tokens(weights: &Weights, data: &str) -> Result<Vec<u32>, Failure> {
    let content = text::load(data)?.content;
    if Path::new(data).extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&content).map_err(|error| {
            Failure::new(exit::RESOURCE, "data", format!("{data} is no array of ids: {error}"), None)
        });
    }
    let wrong = |error: crate::model::tokenizer::TokenizerError| {
        Failure::new(exit::UNEXPECTED, "tokenizer", error.to_string(), None)
    };
    let tokenizer = Tokenizer::new(weights).map_err(wrong)?;
    tokenizer.encode(&content, false).map_err(wrong)
}

fn learn(global: &Global, arguments: &TrainArguments) -> Result<u8, Failure> {
    let loaded = resolve::load(&arguments.recipe, &arguments.sets)?;
    let recipe = &loaded.recipe;
    let (adapter, training) = learnable(recipe)?;
    let Some(steps) = training.max_steps else {
        return Err(refuse("the training has no end", "give `training.max_steps`"));
    };
    let weights = open(recipe, arguments.access, access::folder_of(&arguments.recipe), global.quiet)?;
    let seed = recipe.seeds.first().copied().unwrap_or(0);
    let asked = Scaling { r: adapter.r as usize, lora_alpha: adapter.lora_alpha, use_rslora: adapter.use_rslora };
    let (begin, scaling) = match &adapter.init {
        Some(folder) => peft::read(Path::new(folder), weights.spec())?,
        None => {
            let targets: Vec<_> = adapter.target_modules.iter().map(|module| plan::target(*module)).collect();
            (train::fresh(weights.spec(), &targets, asked.r, asked.factor(), seed), asked)
        }
    };
    let ids = tokens(&weights, &arguments.data)?;
    let sequences: Vec<&[u32]> = ids.chunks_exact(training.sequence_length as usize).collect();
    if sequences.is_empty() {
        let message =
            format!("{} has {} tokens, a sequence takes {}", arguments.data, ids.len(), training.sequence_length);
        return Err(refuse(&message, "shorten `training.sequence_length`"));
    }
    // Half of what is free: activations need room, too.
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    let recompute = arguments.recompute || training.gradient_checkpointing;
    let held = TraineeSettings { widen: weights.parameters() * 8 <= free / 2, recompute };
    let mut trainer = Trainer::new(&weights, begin, plan::training_settings(training), held)?;
    if adapter.kind == AdapterType::Dora {
        trainer.decompose()?;
    }
    let (batch, accumulated) = (u64::from(training.batch_size), u64::from(training.gradient_accumulation_steps));
    let out = Printer::stdout();
    let mut updates = Vec::new();
    for step in 0..steps {
        let draw = |at: u64| Scored { tokens: sequences[train::drawn(sequences.len(), seed, at)], prompt: 0 };
        let micro = |part: u64| {
            let first = (step * accumulated + part) * batch;
            (first..first + batch).map(draw).collect::<Vec<_>>()
        };
        let update = trainer.step(&(0..accumulated).map(micro).collect::<Vec<_>>())?;
        if !update.loss.is_finite() || !update.grad_norm.is_finite() {
            let message = format!("step {step}: loss {}, gradient norm {}", update.loss, update.grad_norm);
            return Err(Failure::new(exit::NUMERICS, "training", message, Some("lower `training.learning_rate`")));
        }
        if global.format == Format::Human {
            let Update { step, loss, grad_norm, learning_rate, tokens: _ } = update;
            out.stream(&format!("{step:>8}  loss {loss:.6}  grad norm {grad_norm:.6}  lr {learning_rate:.6e}\n"))?;
        }
        updates.push(update);
    }
    let (base, magnitudes) = (&recipe.model.source, trainer.magnitudes());
    peft::write_decomposed(&arguments.output, weights.spec(), base, trainer.adapter(), &magnitudes, scaling)?;
    if global.format == Format::Json {
        let row = |update: &Update| {
            let Update { step, loss, grad_norm, learning_rate, tokens } = update;
            json!({"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate, "tokens": tokens})
        };
        let steps: Vec<_> = updates.iter().map(row).collect();
        out.json(&json!({"adapter": arguments.output, "steps": steps}))?;
    }
    Ok(exit::OK)
}

fn inspect(global: &Global, arguments: &InspectArguments) -> Result<u8, Failure> {
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let located = locator.locate(&access::source(&arguments.model), None)?;
    let weights = Weights::open(&located.path)?;
    let (adapter, scaling) = peft::read(&arguments.folder, weights.spec())?;
    let norm = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let rows: Vec<_> = adapter
        .iter()
        .map(|(place, change)| {
            let (out, width) = place.target.shape(weights.spec());
            let module = peft::module(place.target);
            (place.layer, module, out, width, norm(&change.a), norm(&change.b))
        })
        .collect();
    let out = Printer::stdout();
    match global.format {
        Format::Json => {
            let row = |(layer, module, rows, columns, a, b): &(usize, &str, usize, usize, f64, f64)| json!({"layer": layer, "module": module, "rows": rows, "columns": columns, "norm_a": a, "norm_b": b});
            let places: Vec<_> = rows.iter().map(row).collect();
            let Scaling { r, lora_alpha, use_rslora } = scaling;
            out.json(&json!({"r": r, "lora_alpha": lora_alpha, "use_rslora": use_rslora, "scale": scaling.factor(), "places": places}))?;
        }
        Format::Human => {
            let Scaling { r, lora_alpha, use_rslora: _ } = scaling;
            out.text(&format!("LoRA of rank {r}, alpha {lora_alpha}, scale {}\n", scaling.factor()))?;
            let line = |(layer, module, rows, columns, a, b): &(usize, &str, usize, usize, f64, f64)| {
                format!("{layer:>4}  {module:<10} {rows:>6} x {columns:<6}  |A| {a:<10.4}  |B| {b:.4}\n")
            };
            out.text(&rows.iter().map(line).collect::<String>())?;
        }
    }
    Ok(exit::OK)
}
