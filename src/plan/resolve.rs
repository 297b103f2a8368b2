//! A recipe on this machine: every cell with its weights, texts, kernel set and memory.
use std::{collections::BTreeMap, fs};

use indexmap::IndexMap;

use crate::{
    diag::{Diagnostic, Place},
    engine::{select, setting},
    host::Load,
    model::{
        source::locate::{LocateError, Located, Locator},
        weights::{Weights, WeightsError},
    },
    recipe::{
        self, Loaded, Recipe,
        schema::{AxisPoint, KernelSet, ModelLoad},
    },
    text,
    units::Bytes,
};

use super::{
    AdapterIdentity, Cell, ModelIdentity, Plan, Reference, cache, fingerprint,
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
/// `locator` finds the models, or gets them: launches open exactly the files it names.
///
/// # Errors
///
/// All problems at once, recipe problems before missing resources.
pub fn resolve(loaded: &Loaded, locator: &mut Locator<'_>) -> Result<Plan, PlanError> {
    let place = |path: &str| loaded.place(path);
    let mut resolver = Resolver::new(&place, locator)?;
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
    resolver.check_gates(&loaded.recipe);
    resolver.check_bounds(&loaded.recipe);
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
pub fn single(recipe: Recipe, locator: &mut Locator<'_>) -> Result<Cell, PlanError> {
    let mut resolver = Resolver::new(&|_| None, locator)?;
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

/// A source as a recipe names it, and the revision beside it.
pub(super) type Name = (String, Option<String>);

pub(super) fn name(recipe: &Recipe) -> Name {
    (recipe.model.source.clone(), recipe.model.revision.clone())
}

pub(super) struct Resolver<'a, 'w> {
    place: &'a dyn Fn(&str) -> Option<Place>,
    locator: &'a mut Locator<'w>,
    recipe_problems: Vec<Diagnostic>,
    missing: Vec<Diagnostic>,
    weights: BTreeMap<Name, Option<(Located, Weights)>>,
    /// By the model they are read for, and their paths.
    pub(super) adapters: BTreeMap<(Name, String), Option<AdapterIdentity>>,
}

impl<'a, 'w> Resolver<'a, 'w> {
    /// Fails where `RUVLAB_KERNELS` is wrong: before a model is fetched, and whatever sets the cells
    /// name, because scores are computed with its tier.
    fn new(place: &'a dyn Fn(&str) -> Option<Place>, locator: &'a mut Locator<'w>) -> Result<Self, PlanError> {
        select(setting().as_deref()).map_err(|error| {
            let hint = "unset RUVLAB_KERNELS: then `auto` takes the fastest this processor runs";
            PlanError::Resource(vec![Diagnostic::error("kernels-unavailable", error.to_string()).hint(hint)])
        })?;
        Ok(Self {
            place,
            locator,
            recipe_problems: Vec::new(),
            missing: Vec::new(),
            weights: BTreeMap::new(),
            adapters: BTreeMap::new(),
        })
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
        for (path, source) in recipe.clone().texts_mut() {
            match text::load(source) {
                Ok(text) => {
                    texts.insert(source.clone(), text.hash);
                }
                Err(error) => {
                    let place = (self.place)(&path);
                    self.missing.push(Diagnostic::error("text-missing", error.to_string()).at(place));
                    sound = false;
                }
            }
        }
        if let Some(init) = recipe.sona.as_ref().and_then(|sona| sona.init.as_ref()) {
            match fs::read(init) {
                Ok(state) => _ = texts.insert(init.clone(), blake3::hash(&state).to_hex().to_string()),
                Err(error) => {
                    let message = format!("cannot read the state of the learning loops in {init}: {error}");
                    self.missing.push(Diagnostic::error("state-missing", message).at((self.place)("sona.init")));
                    sound = false;
                }
            }
        }
        if !sound {
            return None;
        }
        let kernel_set = running_set(recipe.kernels.set);
        self.check_kernels(&recipe, kernel_set)?;
        self.check_device(&recipe, kernel_set)?;
        let model = self.model(&recipe, kernel_set)?;
        texts.extend(self.beginning(&recipe)?);
        if is_native(kernel_set) {
            self.check_cache(&recipe, &model)?;
        }
        let references = self.references(&recipe, kernel_set, &model, &axes)?;
        let estimated_memory = self.fits(&recipe, &model, &references)?;
        let hash = fingerprint::cell_hash(&recipe, set_name(kernel_set), &model, &texts, &references);
        let threads = recipe.kernels.threads.resolve();
        Some(Cell { hash, axes, seed, recipe, kernel_set, threads, model, texts, references, estimated_memory })
    }

    pub(super) fn place(&self, path: &str) -> Option<Place> {
        (self.place)(path)
    }

    pub(super) fn report(&mut self, problem: Diagnostic) {
        self.recipe_problems.push(problem);
    }

    pub(super) fn report_missing(&mut self, problem: Diagnostic) {
        self.missing.push(problem);
    }

    /// Returns the weights of a recipe, if they could be opened.
    pub(super) fn opened(&self, recipe: &Recipe) -> Option<&Weights> {
        Some(&self.weights.get(&name(recipe))?.as_ref()?.1)
    }

    /// Returns what `find` does; its problems are those of the key at `path`.
    pub(super) fn placed<T>(&mut self, path: &str, find: impl FnOnce(&mut Self) -> T) -> T {
        let (earlier, missing) = (self.recipe_problems.len(), self.missing.len());
        let found = find(self);
        let place = self.place(path);
        let new = self.recipe_problems.iter_mut().skip(earlier).chain(self.missing.iter_mut().skip(missing));
        new.for_each(|problem| problem.place.clone_from(&place));
        found
    }

    /// Refuses a cache that this model cannot have, or should not.
    fn check_cache(&mut self, recipe: &Recipe, model: &ModelIdentity) -> Option<()> {
        let Some((path, problem)) = cache::problem(recipe, self.opened(recipe)?.spec(), model) else { return Some(()) };
        let place = (self.place)(path);
        self.recipe_problems.push(problem.at(place));
        None
    }

    pub(super) fn model(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<ModelIdentity> {
        let name = name(recipe);
        if !self.weights.contains_key(&name) {
            let opened = self.open(&name);
            self.weights.insert(name.clone(), opened);
        }
        let (located, weights) = self.weights.get(&name)?.as_ref()?;
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
        if recipe.model.load == ModelLoad::Mapped && !is_native(kernel_set) {
            let message =
                format!("`{}` makes its own copy of the weights and cannot use the mapped file", set_name(kernel_set));
            let diagnostic = Diagnostic::error("unsupported-load", message).at((self.place)("model.load"));
            self.recipe_problems.push(diagnostic.hint("take one of ruvlab's own kernel sets, or `load: packed`"));
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
        let identity = identity(weights, located, recipe, longest);
        let adapter = self.adapter(recipe, kernel_set)?;
        Some(ModelIdentity { adapter, ..identity })
    }

    fn open(&mut self, (source, revision): &Name) -> Option<(Located, Weights)> {
        let located = match self.locator.locate(source, revision.as_deref()) {
            Ok(located) => located,
            Err(error) => {
                let diagnostic = Diagnostic::error("model", error.to_string()).at((self.place)("model.source"));
                match error {
                    LocateError::Grammar(_) => self.recipe_problems.push(diagnostic),
                    _ => self.missing.push(diagnostic),
                }
                return None;
            }
        };
        match Weights::open(&located.path) {
            Ok(weights) => Some((located, weights)),
            Err(error) => {
                self.weights_problem(&error);
                None
            }
        }
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

    fn fits(
        &mut self,
        recipe: &Recipe,
        model: &ModelIdentity,
        references: &IndexMap<String, Reference>,
    ) -> Option<Bytes> {
        let weights = self.opened(recipe)?;
        let estimate =
            memory::estimate(recipe, weights, model)
                .max(memory::beside(recipe, model, references, &|recipe| self.opened(recipe)));
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
            let both = if references.is_empty() { "" } else { " with the reference of `kl_divergence` beside it" };
            let message = format!("a launch needs about {estimate}{both}, and {} is free", Bytes(available));
            self.missing.push(
                Diagnostic::error("not-enough-memory", message)
                    .at((self.place)("model.source"))
                    .hint("take a smaller quantization or context_length, or free memory"),
            );
            return None;
        }
        Some(estimate)
    }
}
