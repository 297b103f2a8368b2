//! A recipe on this machine: every cell with its weights, texts, kernel set and memory.
use std::collections::BTreeMap;

use indexmap::IndexMap;

use crate::{
    diag::{self, Diagnostic, Place},
    host::Load,
    metrics,
    model::weights::{Weights, WeightsError},
    recipe::{
        self, Loaded, Recipe,
        schema::{AxisPoint, KernelSet, KvType, Workload},
    },
    text,
    units::Bytes,
};

use super::{
    Cell, ModelIdentity, Plan, fingerprint,
    identity::{engine_kind, identity, is_native, longest_context, rope_change, running_set, set_name},
    memory,
};

/// Why a recipe cannot be run here.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanError {
    /// The recipe asks for something impossible, or not built yet.
    Recipe(Vec<Diagnostic>),
    /// The recipe is fine; weights, texts or memory are missing.
    Resource(Vec<Diagnostic>),
}

/// Returns the cells of a recipe on this machine. Reads headers and hashes files; loads no weights.
///
/// # Errors
///
/// All problems at once, recipe problems before missing resources.
pub fn resolve(loaded: &Loaded) -> Result<Plan, PlanError> {
    let place = |path: &str| loaded.place(path);
    let mut resolver = Resolver::new(&place);
    let points = match &loaded.recipe.matrix {
        None => vec![AxisPoint::new()],
        Some(matrix) => recipe::expand(matrix),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for point in &points {
        for &seed in &loaded.recipe.seeds {
            match loaded.at(point, seed) {
                Ok(recipe) => {
                    let mut axes = point.clone();
                    if loaded.recipe.seeds.len() > 1 {
                        axes.insert("seed".to_owned(), seed.into());
                    }
                    cells.extend(resolver.cell(recipe, axes, seed));
                }
                Err(problems) => resolver.recipe_problems.extend(problems),
            }
        }
    }
    resolver.gates(&loaded.recipe);
    resolver.finish()?;
    let mut seen = BTreeMap::new();
    for cell in &cells {
        if let Some(earlier) = seen.insert(cell.hash.clone(), cell.label()) {
            let message = format!("two cells are the same experiment: `{earlier}` and `{}`", cell.label());
            let diagnostic = Diagnostic::error("same-cell", message)
                .at(loaded.place("matrix"))
                .hint("take one of the axis values out, or make `exclude` drop one of the two");
            return Err(PlanError::Recipe(vec![diagnostic]));
        }
    }
    Ok(Plan { recipe: loaded.recipe.name.clone(), source_text: loaded.source_text().to_owned(), cells })
}

/// Returns the one cell of a recipe without a matrix that stands in no file.
///
/// # Errors
///
/// All problems at once, recipe problems before missing resources.
pub fn single(recipe: Recipe) -> Result<Cell, PlanError> {
    let mut resolver = Resolver::new(&|_| None);
    let seed = recipe.seeds.first().copied().unwrap_or(0);
    let cell = resolver.cell(recipe, AxisPoint::new(), seed);
    resolver.finish()?;
    cell.ok_or_else(|| PlanError::Recipe(vec![Diagnostic::error("no-cell", "the recipe gives no cell")]))
}

fn dedup(diagnostics: &mut Vec<Diagnostic>) {
    let mut kept: Vec<Diagnostic> = Vec::new();
    for diagnostic in diagnostics.drain(..) {
        if !kept.contains(&diagnostic) {
            kept.push(diagnostic);
        }
    }
    *diagnostics = kept;
}

struct Resolver<'a> {
    place: &'a dyn Fn(&str) -> Option<Place>,
    recipe_problems: Vec<Diagnostic>,
    missing: Vec<Diagnostic>,
    weights: BTreeMap<String, Option<Weights>>,
}

impl<'a> Resolver<'a> {
    fn new(place: &'a dyn Fn(&str) -> Option<Place>) -> Self {
        Self { place, recipe_problems: Vec::new(), missing: Vec::new(), weights: BTreeMap::new() }
    }

    fn finish(&mut self) -> Result<(), PlanError> {
        dedup(&mut self.recipe_problems);
        dedup(&mut self.missing);
        if !self.recipe_problems.is_empty() {
            return Err(PlanError::Recipe(std::mem::take(&mut self.recipe_problems)));
        }
        if !self.missing.is_empty() {
            return Err(PlanError::Resource(std::mem::take(&mut self.missing)));
        }
        Ok(())
    }

    fn cell(&mut self, recipe: Recipe, axes: AxisPoint, seed: u64) -> Option<Cell> {
        let mut sound = true;
        for (path, what) in recipe::unimplemented(&recipe) {
            let message = format!("`{path}` is valid but cannot be run yet: {what}");
            self.recipe_problems.push(
                Diagnostic::error("not-implemented", message)
                    .at((self.place)(&path))
                    .hint("take it out to run the rest of the recipe; the changelog says when it arrives"),
            );
            sound = false;
        }
        let mut texts = IndexMap::new();
        for (index, workload) in recipe.workloads.iter().enumerate() {
            let Workload::Perplexity(perplexity) = workload else { continue };
            match text::load(&perplexity.text) {
                Ok(text) => {
                    texts.insert(perplexity.text.clone(), text.hash);
                }
                Err(error) => {
                    let place = (self.place)(&format!("workloads[{index}].perplexity.text"));
                    self.missing.push(Diagnostic::error("text-missing", error.to_string()).at(place));
                    sound = false;
                }
            }
        }
        if !sound {
            return None;
        }
        let kernel_set = running_set(recipe.kernels.set);
        self.check_kernels(&recipe, kernel_set)?;
        let model = self.model(&recipe, kernel_set)?;
        let estimated_memory = self.fits(&recipe, &model)?;
        let hash = fingerprint::cell_hash(&recipe, set_name(kernel_set), &model, &texts);
        let threads = recipe.kernels.threads.resolve();
        Some(Cell { hash, axes, seed, recipe, kernel_set, threads, model, texts, estimated_memory })
    }

    /// Refuses kernels this processor does not run, and what they cannot do.
    fn check_kernels(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<()> {
        let reference = recipe.kernels.verify.reference.map(|set| ("kernels.verify.reference", running_set(set)));
        for (path, set) in [("kernels.set", kernel_set)].into_iter().chain(reference) {
            if engine_kind(set).is_some_and(|kind| !kind.is_available()) {
                let message = format!("this processor does not run the {} kernels", set_name(set));
                let diagnostic = Diagnostic::error("kernels-unavailable", message);
                self.missing.push(diagnostic.at((self.place)(path)).hint("`auto` takes the fastest it runs"));
                return None;
            }
        }
        let cache = &recipe.kv_cache;
        for (path, kind) in [("kv_cache.type_k", cache.type_k), ("kv_cache.type_v", cache.type_v)] {
            if !is_native(kernel_set) && kind.is_some_and(|kind| kind != KvType::F32) {
                let message = format!("`{}` has caches of f32 only", set_name(kernel_set));
                let diagnostic = Diagnostic::error("cache-type", message).at((self.place)(path));
                self.recipe_problems.push(diagnostic.hint("take it out, or take ruvlab's own kernels"));
                return None;
            }
        }
        Some(())
    }

    fn model(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<ModelIdentity> {
        let source = &recipe.model.source;
        if !self.weights.contains_key(source) {
            let opened = Weights::open(source);
            if let Err(error) = &opened {
                self.weights_problem(error);
            }
            self.weights.insert(source.clone(), opened.ok());
        }
        let weights = self.weights.get(source)?.as_ref()?;
        let spec = match weights.spec().with_rope(&rope_change(&recipe.rope)) {
            Ok(spec) => spec,
            Err(error) => {
                let diagnostic = Diagnostic::error("rope", error.to_string()).at((self.place)("rope"));
                self.recipe_problems.push(diagnostic);
                return None;
            }
        };
        let verified_by = recipe.kernels.verify.reference.filter(|set| *set != kernel_set);
        let sets = [(Some(kernel_set), "kernels.set"), (verified_by, "kernels.verify.reference")];
        for (set, path) in sets {
            let Some(Err(error)) = set.and_then(engine_kind).map(|kind| kind.check(&spec)) else { continue };
            let hint = match path {
                "kernels.set" => "take the kernel set `candle`, which computes all of a file",
                _ => "set `kernels.verify.reference` to `candle`, or to null to go without this check",
            };
            let diagnostic = Diagnostic::error("unsupported-model", error.to_string());
            self.recipe_problems.push(diagnostic.at((self.place)(path)).hint(hint));
            return None;
        }
        let longest = longest_context(&spec, kernel_set);
        if let Some(asked) = recipe.model.context_length.filter(|asked| *asked > longest) {
            let message =
                format!("`{}` can hold {longest} tokens of this model, {asked} are asked for", set_name(kernel_set));
            let diagnostic = Diagnostic::error("context-too-long", message)
                .at((self.place)("model.context_length"))
                .hint(format!("set `model.context_length` to {longest} at most, or take it out"));
            self.recipe_problems.push(diagnostic);
            return None;
        }
        Some(identity(weights, recipe, longest))
    }

    fn weights_problem(&mut self, error: &WeightsError) {
        let diagnostic = Diagnostic::error("weights", error.to_string()).at((self.place)("model.source"));
        match error {
            WeightsError::Unreadable { .. } => {
                self.missing
                    .push(diagnostic.hint("check the path; scripts/fetch-models brings the models recipes name"));
            }
            WeightsError::Source { .. } => self.recipe_problems.push(diagnostic),
            _ => self.missing.push(diagnostic),
        }
    }

    fn fits(&mut self, recipe: &Recipe, model: &ModelIdentity) -> Option<Bytes> {
        let weights = self.weights.get(&recipe.model.source)?.as_ref()?;
        let estimate = memory::estimate(recipe, weights.spec(), model);
        let longest = memory::longest_sequence(recipe);
        if longest > model.context_length {
            let message = format!(
                "a workload needs {longest} tokens of context, the model has room for {}",
                model.context_length
            );
            self.recipe_problems.push(
                Diagnostic::error("context-too-short", message)
                    .at((self.place)("workloads"))
                    .hint("shorten the workload, or raise `model.context_length` if the engine can hold more"),
            );
            return None;
        }
        let available = Load::now().memory_available_bytes.unwrap_or(u64::MAX);
        if estimate.0 > available {
            let message = format!("a launch needs about {estimate}, and {} is free", Bytes(available));
            self.missing.push(
                Diagnostic::error("not-enough-memory", message)
                    .at((self.place)("model.source"))
                    .hint("take a smaller quantization or context_length, or free memory"),
            );
            return None;
        }
        Some(estimate)
    }

    fn gates(&mut self, recipe: &Recipe) {
        let Some(baseline) = &recipe.baseline else { return };
        for name in baseline.gates.keys() {
            if metrics::find(name).is_some_and(|metric| metric.direction == metrics::Direction::Neutral) {
                let message = format!("metric `{name}` cannot be gated: it has no better and worse");
                let place = (self.place)(&format!("baseline.gates.{name}"));
                self.recipe_problems.push(Diagnostic::error("neutral-metric", message).at(place));
            }
            if metrics::find(name).is_none() {
                let near = diag::nearest(name, metrics::METRICS.iter().map(|metric| metric.name));
                let mut diagnostic = Diagnostic::error("unknown-metric", format!("unknown metric `{name}`"))
                    .at((self.place)(&format!("baseline.gates.{name}")));
                diagnostic = match near {
                    Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
                    None => diagnostic.hint(format!(
                        "known metrics: {}",
                        metrics::METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ")
                    )),
                };
                self.recipe_problems.push(diagnostic);
            }
        }
    }
}
