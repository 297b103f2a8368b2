//! `ruvlab adapter`
mod compose;
mod convert;
mod inspect;
mod list;
mod merge;
mod subject;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    adapt::{
        file::{self, AdapterFileError},
        peft::{self, PeftError},
        train::{self, Trainer, Update},
    },
    engine::{self, Device, EngineKind, Scored, TraineeSettings},
    exit,
    host::Load,
    model::{tokenizer::Tokenizer, weights::Weights},
    plan,
    recipe::{
        self,
        schema::{Recipe, Training},
    },
    text::{self, TextError},
    ui::Printer,
};

use super::{
    Failure, Format, Global,
    access::{self, Access},
    threads,
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
    List(list::Arguments),
    Inspect(inspect::Arguments),
    Merge(merge::Arguments),
    Compose(compose::Arguments),
    Convert(convert::Arguments),
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
    /// Replace the adapter if one is there.
    #[arg(long)]
    force: bool,
    /// Change a value of the recipe: `--set training.max_steps=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    access: Access,
}

impl From<PeftError> for Failure {
    fn from(error: PeftError) -> Self {
        Self::new(exit::RESOURCE, "adapter", error.to_string(), None)
    }
}

impl From<AdapterFileError> for Failure {
    fn from(error: AdapterFileError) -> Self {
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
        Action::List(arguments) => list::execute(global, arguments),
        Action::Inspect(arguments) => inspect::execute(global, arguments),
        Action::Merge(arguments) => merge::execute(global, arguments),
        Action::Compose(arguments) => compose::execute(global, arguments),
        Action::Convert(arguments) => convert::execute(global, arguments),
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

/// Returns the engine that trains for the recipe's kernel set, as the workload `train` has it, and where it computes.
fn engine_for(recipe: &Recipe) -> Result<(EngineKind, Device), Failure> {
    let name = plan::set_name(recipe.kernels.set);
    let Some(kind) = plan::engine_kind(recipe.kernels.set) else {
        let hint = "take `auto` or `candle`, and RUVLAB_KERNELS, if it is set, as `ruvlab doctor` lists them";
        return Err(refuse(&format!("the kernel set `{name}` has no engine to train with"), hint));
    };
    if !kind.is_available() {
        let message = format!("this processor does not run the {name} kernels");
        let hint = "`auto` takes the fastest it runs";
        return Err(Failure::new(exit::RESOURCE, "kernels-unavailable", message, Some(hint)));
    }
    let device = plan::device(recipe.kernels.device);
    if device != Device::Cpu && kind != EngineKind::Candle {
        let message = format!("`{name}` computes on the processor, and not on `{}`", device.name());
        return Err(refuse(&message, "the kernel set `candle` computes there; or take `kernels.device` out"));
    }
    Ok((kind, device))
}

/// Checks that an adapter can be written to a folder, and makes the folder, before anything is learned for it.
fn make_room(folder: &Path, force: bool) -> Result<(), Failure> {
    let found = file::describe(folder);
    if !force && !matches!(found, Ok(None)) {
        let why = found.err().map_or_else(String::new, |error| format!(", which cannot be read ({error})"));
        let message = format!("there is an adapter in {} already{why}", folder.display());
        let hint = "add --force to replace it, or name another folder";
        return Err(Failure::new(exit::USAGE, "output", message, Some(hint)));
    }
    let failed = |error| {
        let message = format!("cannot write to {}: {error}", folder.display());
        Failure::new(exit::RESOURCE, "output", message, Some("name a folder that can be written with --output"))
    };
    fs::create_dir_all(folder).map_err(failed)?;
    tempfile::tempfile_in(folder).map_err(failed)?;
    Ok(())
}

fn learn(global: &Global, arguments: &TrainArguments) -> Result<u8, Failure> {
    let loaded = recipe::load(&arguments.recipe, &arguments.sets)
        .map_err(|problems| Failure::diagnostics(exit::RECIPE, problems))?;
    Printer::stderr().diagnostics(&loaded.warnings);
    let recipe = &loaded.recipe;
    let (adapter, training) = learnable(recipe)?;
    let Some(steps) = training.max_steps else {
        return Err(refuse("the training has no end", "give `training.max_steps`"));
    };
    let (kind, device) = engine_for(recipe)?;
    if !matches!(kind, EngineKind::Native(_)) {
        // A recipe that comes through a pipe can be read once.
        threads::start_with(recipe.kernels.threads.resolve())?;
    }
    let weights = open(recipe, arguments.access, access::folder_of(&arguments.recipe), global.quiet)?;
    let seed = recipe.seeds.first().copied().unwrap_or(0);
    let (begin, scaling) = plan::beginning(adapter, weights.spec(), seed)?;
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
    make_room(&arguments.output, arguments.force)?;
    let count = NonZeroUsize::new(recipe.kernels.threads.resolve().into());
    let trainee = engine::trainee(kind, device, &weights, &begin, held, count)?;
    let mut trainer = Trainer::of(trainee, begin, plan::training_settings(training));
    plan::prepare(&mut trainer, adapter, seed)?;
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
    peft::write(&arguments.output, weights.spec(), &recipe.model.source, trainer.adapter(), scaling)?;
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
