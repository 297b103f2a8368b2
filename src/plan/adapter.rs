//! Which adapter a cell runs with.
use std::path::Path;

use crate::{
    adapt::{
        file::{self, AdapterFileError},
        peft::{Patterns, Scaling},
        train::{self, Trainer},
    },
    diag::Diagnostic,
    engine::{self, EngineError},
    model::spec::ModelSpec,
    recipe::{
        Recipe,
        schema::{Adapter, AdapterType, KernelSet, Workload},
    },
};

use super::{
    AdapterIdentity, Attachment,
    identity::{engine_kind, set_name},
    resolve::{Resolver, name},
    target,
};

const KEY: &str = "adapter.init";

/// Returns the adapter that a training begins with, and how it is scaled: what a file holds, or a new one.
///
/// # Errors
///
/// If the file cannot be read, or a pattern is none.
pub fn beginning(
    adapter: &Adapter,
    spec: &ModelSpec,
    seed: u64,
) -> Result<(engine::Adapter, Scaling), AdapterFileError> {
    if let Some(init) = &adapter.init {
        return file::read_scaled(Path::new(init), spec);
    }
    let scaling = Scaling { r: adapter.r as usize, lora_alpha: adapter.lora_alpha, use_rslora: adapter.use_rslora };
    let ranks = adapter.rank_pattern.iter().map(|(key, rank)| (key.as_str(), f64::from(*rank)));
    let alphas = adapter.alpha_pattern.iter().map(|(key, alpha)| (key.as_str(), *alpha));
    let wrong = |problem| AdapterFileError::Unsupported { path: "of the recipe".to_owned(), problem };
    let patterns = Patterns::new(ranks, alphas).map_err(wrong)?;
    let targets: Vec<_> = adapter.target_modules.iter().map(|module| target(*module)).collect();
    let of = |place| {
        let own = patterns.scaling(spec, place, scaling);
        (own.r, own.factor())
    };
    Ok((train::fresh_by(spec, &targets, seed, of), scaling))
}

/// Brings a training to what a recipe says of its adapter beside its values: whether changes are decomposed
/// (DoRA), and what is dropped.
///
/// # Errors
///
/// If the weights cannot be read.
pub fn prepare(trainer: &mut Trainer, adapter: &Adapter, seed: u64) -> Result<(), EngineError> {
    trainer.drop_out(adapter.lora_dropout, seed);
    if adapter.kind == AdapterType::Dora { trainer.decompose() } else { Ok(()) }
}

impl Resolver<'_, '_> {
    /// Returns the adapter a recipe's workloads run with, none where they run without; nothing where it
    /// cannot be had, or not be run, which is reported.
    pub(super) fn adapter(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<Option<AdapterIdentity>> {
        let Some(wanted) = recipe.attached() else { return Some(None) };
        let verified_by = recipe.kernels.verify.reference.filter(|set| *set != kernel_set);
        for (set, key) in [(Some(kernel_set), "kernels.set"), (verified_by, "kernels.verify.reference")] {
            let Some(set) = set.filter(|set| engine_kind(*set).is_some_and(|kind| !kind.has_adapters())) else {
                continue;
            };
            let message = format!("`{}` runs no adapters", set_name(set));
            let hint = match key {
                "kernels.set" => "take ruvlab's own kernels (`auto`) or `candle`, or merge it (`ruvlab adapter merge`)",
                _ => "set `kernels.verify.reference` to `candle`, or to null to go without this check",
            };
            let problem = Diagnostic::error("adapter", message).at(self.place(key).or_else(|| self.place(KEY)));
            self.report(problem.hint(hint));
            return None;
        }
        // What its files and what becomes of them are written as.
        let key = (name(recipe), format!("{:?} {:?}", wanted.init, wanted.compose));
        if !self.adapters.contains_key(&key) {
            let found = self.read_adapter(recipe, wanted);
            self.adapters.insert(key.clone(), found);
        }
        self.adapters.get(&key)?.clone().map(Some)
    }

    /// Returns the path and the content of the adapter that the recipe's trainings begin with, none where they
    /// begin with a new one; nothing where it cannot be had, which is reported.
    pub(super) fn beginning(&mut self, recipe: &Recipe) -> Option<Option<(String, String)>> {
        let trains =
            recipe.workloads.iter().any(|workload| matches!(workload, Workload::Train(_) | Workload::Continual(_)));
        let Some(adapter) = recipe.adapter.as_ref().filter(|_| trains && recipe.training.is_some()) else {
            return Some(None);
        };
        if let Some(init) = &adapter.init {
            return self.read_adapter(recipe, adapter).map(|found| Some((init.clone(), found.hash)));
        }
        let targets: Vec<_> = adapter.target_modules.iter().map(|module| target(*module)).collect();
        let spec = self.opened(recipe)?.spec();
        let ranks = adapter.rank_pattern.keys().map(|key| ("rank_pattern", key));
        let keys = ranks.chain(adapter.alpha_pattern.keys().map(|key| ("alpha_pattern", key)));
        let misses: Vec<_> = keys.filter(|(_, key)| !Patterns::fits(key, spec, &targets)).collect();
        for (map, key) in &misses {
            let message = format!("`{map}`: {key:?} fits the end of no name of a module that has an adapter");
            let problem = Diagnostic::error("pattern", message).at(self.place(&format!("adapter.{map}")));
            self.report(problem.hint("names are such as `model.layers.0.self_attn.q_proj`"));
        }
        misses.is_empty().then_some(None)
    }

    fn read_adapter(&mut self, recipe: &Recipe, wanted: &Adapter) -> Option<AdapterIdentity> {
        let decomposed = wanted.kind == AdapterType::Dora && recipe.attached().is_some();
        let (path, key) = match &wanted.compose {
            Some(composed) => (composed.adapters.join(" + "), "adapter.compose"),
            None => (wanted.init.clone().unwrap_or_default(), KEY),
        };
        match Attachment::read(wanted, self.opened(recipe)?.spec()) {
            Ok(found) if decomposed && found.lacks_magnitudes() => {
                let message = format!("{path} is a plain LoRA adapter, and `adapter.type` says `dora`");
                let problem = Diagnostic::error("adapter", message).at(self.place(key));
                self.report(problem.hint("leave `type` out: without `training`, an adapter is what its file says"));
                None
            }
            Ok(Attachment { hash, parameters, .. }) => Some(AdapterIdentity { path, hash, parameters }),
            Err(error) => {
                let problem = Diagnostic::error("adapter", error.to_string()).at(self.place(key));
                match error {
                    AdapterFileError::Unreadable { .. } => self.report_missing(problem),
                    _ => self.report(problem.hint("an adapter belongs to the model it was trained on")),
                }
                None
            }
        }
    }
}
