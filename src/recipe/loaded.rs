//! From a recipe file to a recipe, and from a recipe to one of its matrix points.
use std::path::Path;

use serde_json::Value;

use super::overlay::{Layers, Places, Setting};
use super::path::KeyPath;
use super::problem::{On, Problem};
use super::schema::{AxisPoint, Matrix, Recipe, Workload, same_value};
use super::source::{self, Environment, SourceError};
use super::spans::MAX_PROBLEMS;
use super::{check, expand, extends, overlay, shape};
use crate::diag::{Diagnostic, Place};

/// A recipe that was read and found sound, with all it takes to show where each value was set.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The recipe with its matrix; paths are absolute. Where the matrix sets a key that nothing
    /// else does, it has the axis' first value.
    pub recipe: Recipe,
    /// What is probably not as meant.
    pub warnings: Vec<Diagnostic>,
    text: String,
    stem: String,
    files: Vec<Setting>,
    sets: Vec<Setting>,
}

/// Returns the recipe in the file `path` with what it extends and `--set` arguments such as
/// `kernels.threads=4`, or everything that is wrong with it.
///
/// # Errors
///
/// Every problem that can be found without weights, each with its place and a way out.
pub fn load(path: &Path, sets: &[String]) -> Result<Loaded, Vec<Diagnostic>> {
    let extends::Files { settings: files, mut problems, text, incomplete, .. } = extends::collect(path);
    let (sets, set_problems) = overlay::sets(sets);
    problems.extend(set_problems);
    if files.is_empty() {
        return Err(problems);
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let layers = Layers([files.as_slice(), sets.as_slice()].concat());
    let (value, layering) = layers.merged();
    problems.extend(layers.locate(layering));
    let value = with_first_values(named(value, &stem));
    let typed = typed(value, &layers);
    let (mut recipe, given) = match typed {
        Ok(typed) => typed,
        Err(mut more) => {
            // What is missing here may stand in the file that could not be read.
            more.retain(|problem| !(incomplete && problem.code == "missing-key"));
            problems.extend(more);
            return Err(in_order(problems));
        }
    };
    if incomplete {
        return Err(in_order(problems));
    }
    problems.extend(layers.locate(expand_sources(&mut recipe, &layers, &|name| std::env::var(name).ok())));
    let in_matrix = layers.locate(check::matrix(&recipe, &given));
    let varied = recipe.matrix.as_ref().map(expand).filter(|_| in_matrix.is_empty());
    let mut loaded = Loaded { recipe, warnings: Vec::new(), text, stem, files, sets };
    match varied {
        // No cell runs the recipe as written, so it is what the cells run that must be sound.
        Some(points) if points.iter().any(|point| !point.is_empty()) => problems.extend(loaded.at_points(&points)),
        Some(_) | None if in_matrix.is_empty() => {
            problems.extend(layers.locate(check::recipe(&loaded.recipe, &given)));
        }
        _ => {}
    }
    problems.extend(in_matrix);
    let problems = in_order(problems);
    if problems.iter().any(Diagnostic::is_error) {
        return Err(problems);
    }
    loaded.warnings = problems;
    loaded.narrow_matrix();
    Ok(loaded)
}

impl Loaded {
    /// Returns the text of the recipe's file, as it was read.
    #[must_use]
    pub fn source_text(&self) -> &str {
        &self.text
    }

    /// Returns where the value at a dotted path was set, or the section that encloses it; nothing
    /// when no part of the path was written.
    #[must_use]
    pub fn place(&self, path: &str) -> Option<Place> {
        let path = shape::follow(path).map(|(path, _)| path).ok().or_else(|| KeyPath::parse(path).ok())?;
        let layers = self.layers(Vec::new());
        layers.origin(&path).filter(|(_, found)| !found.0.is_empty())?;
        layers.place(&path, On::Value)
    }

    /// Returns the recipe at one point of its matrix with one seed: without matrix and `extends`,
    /// paths absolute. `--set` stays stronger than the point.
    ///
    /// # Errors
    ///
    /// Every problem that only shows once the point's values meet the rest.
    pub fn at(&self, point: &AxisPoint, seed: u64) -> Result<Recipe, Vec<Diagnostic>> {
        let (recipe, _) = self.resolve(point)?;
        Ok(Recipe { seeds: vec![seed], ..recipe })
    }

    /// Returns the recipe at a point, with warnings.
    fn resolve(&self, point: &AxisPoint) -> Result<(Recipe, Vec<Diagnostic>), Vec<Diagnostic>> {
        let layers = self.layers(self.point_settings(point)?);
        let (value, problems) = layers.merged();
        if !problems.is_empty() {
            return Err(layers.locate(problems));
        }
        let mut value = named(value, &self.stem);
        if let Value::Object(map) = &mut value {
            map.retain(|key, _| !matches!(key.as_str(), "matrix" | "extends"));
        }
        let (mut recipe, given) = typed(value, &layers)?;
        let mut problems = expand_sources(&mut recipe, &layers, &|name| std::env::var(name).ok());
        problems.extend(check::recipe(&recipe, &given));
        let problems = layers.locate(problems);
        if problems.iter().any(Diagnostic::is_error) { Err(problems) } else { Ok((recipe, problems)) }
    }

    fn layers(&self, point: Vec<Setting>) -> Layers {
        Layers([self.files.clone(), point, self.sets.clone()].concat())
    }

    fn point_settings(&self, point: &AxisPoint) -> Result<Vec<Setting>, Vec<Diagnostic>> {
        let written = self.layers(Vec::new());
        let mut settings = Vec::new();
        let mut problems = Vec::new();
        for (key, value) in point {
            match shape::follow(key) {
                Ok((at, _)) => {
                    let source = self.matrix_path(key, value);
                    let place = |on| source.as_ref().and_then(|path| written.place(path, on));
                    let places = Places::One { key: place(On::Value), value: place(On::Value) };
                    let folder = source.as_ref().map_or(Path::new("."), |path| written.folder(path)).to_owned();
                    settings.push(Setting { at, value: value.clone(), places, folder });
                }
                Err(problem) => problems.push(problem.diagnostic),
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// Returns where in the matrix a value of a point comes from.
    fn matrix_path(&self, key: &str, value: &Value) -> Option<KeyPath> {
        let matrix = self.recipe.matrix.as_ref()?;
        let at = KeyPath::default().key("matrix");
        let item = |at: KeyPath, values: &[Value]| {
            let index = values.iter().position(|known| same_value(known, value))?;
            Some(at.index(index))
        };
        let from_axes = || item(at.key("axes").key(key), matrix.axes.get(key)?);
        let from_zip = || {
            let mut groups = matrix.zip.iter().enumerate();
            groups.find_map(|(index, group)| item(at.key("zip").index(index).key(key), group.get(key)?))
        };
        let from_include = || {
            let index = matrix.include.iter().position(|point| point.get(key).is_some_and(|v| same_value(v, value)))?;
            Some(at.key("include").index(index).key(key))
        };
        from_axes().or_else(from_zip).or_else(from_include)
    }

    /// Returns what is wrong at any point, each once; what is not wrong at all of them names the
    /// first point it is wrong at.
    fn at_points(&self, points: &[AxisPoint]) -> Vec<Diagnostic> {
        let mut found: Vec<(Diagnostic, &AxisPoint, usize)> = Vec::new();
        for point in points {
            for problem in self.resolve(point).map_or_else(|problems| problems, |(_, warnings)| warnings) {
                if let Some((_, _, times)) = found.iter_mut().find(|(known, ..)| *known == problem) {
                    *times += 1;
                } else if found.len() < MAX_PROBLEMS || problem.is_error() {
                    found.push((problem, point, 1));
                }
            }
        }
        // What some cells read is there for them.
        found.retain(|(problem, _, times)| problem.code != "no-effect" || problem.is_error() || *times == points.len());
        let located = found.into_iter().map(|(problem, point, times)| {
            if times == points.len() {
                return problem;
            }
            let settings = point.iter().map(|(key, value)| match value {
                Value::String(text) => format!("`{key}: {text}`"),
                value => format!("`{key}: {value}`"),
            });
            let settings = settings.collect::<Vec<_>>().join(", ");
            Diagnostic { message: format!("{}, at the matrix point {settings}", problem.message), ..problem }
        });
        located.collect()
    }

    /// A `--set` of an axis leaves one value of it: every other cell would be the same again.
    fn narrow_matrix(&mut self) {
        let set = self.sets.iter().map(|setting| {
            let place = match &setting.places {
                Places::One { key, .. } => key.clone(),
                Places::Spans(_) => None,
            };
            (setting.at.to_string(), setting.value.clone(), place)
        });
        let set: Vec<_> = set.collect();
        let baseline = self.recipe.baseline.clone().unwrap_or_default();
        let Some(matrix) = &mut self.recipe.matrix else { return };
        for (key, value, place) in set {
            if let Some(values) = matrix.axes.get_mut(&key) {
                *values = vec![value.clone()];
                if baseline.cell.get(&key).is_some_and(|named| !same_value(named, &value)) {
                    let message = format!("no cell is left that `baseline.cell` names, since `{key}` is set");
                    let hint = "to compare with none, add `--set baseline.cell=null`";
                    self.warnings.push(Diagnostic::warning("baseline", message).at(place).hint(hint));
                }
            }
        }
    }
}

/// Returns every axis' first value.
fn first_values(matrix: &Matrix) -> AxisPoint {
    let lists = matrix.axes.iter().chain(matrix.zip.iter().flatten());
    let mut point: AxisPoint = lists.filter_map(|(key, values)| Some((key.clone(), values.first()?.clone()))).collect();
    if point.is_empty() {
        point = matrix.include.first().cloned().unwrap_or_default();
    }
    point
}

/// Gives a recipe without a name its file's.
fn named(mut value: Value, stem: &str) -> Value {
    if value["name"].is_null() {
        value["name"] = Value::String(stem.to_owned());
    }
    value
}

/// Sets what only the matrix sets to the first value it takes, so that the whole is complete.
fn with_first_values(mut value: Value) -> Value {
    let Some(matrix) = value.get("matrix").and_then(|matrix| serde_json::from_value::<Matrix>(matrix.clone()).ok())
    else {
        return value;
    };
    for (key, first) in first_values(&matrix) {
        let Ok((at, _)) = shape::follow(&key) else { continue };
        if at.get(&value).is_none_or(Value::is_null) {
            let places = Places::One { key: None, value: None };
            let setting = Setting { at, value: first, places, folder: std::path::PathBuf::new() };
            let base = Setting { at: KeyPath::default(), value: value.clone(), ..setting.clone() };
            let (filled, problems) = Layers(vec![base, setting]).merged();
            if problems.is_empty() {
                value = filled;
            }
        }
    }
    value
}

/// Returns the typed recipe and the value it was read from, or everything the schema refuses.
fn typed(mut value: Value, layers: &Layers) -> Result<(Recipe, Value), Vec<Diagnostic>> {
    let mut problems = Vec::new();
    shape::walk(shape::root(), &value, &KeyPath::default(), &mut problems);
    if let Some(future) = problems.iter().find(|problem| problem.diagnostic.code == "schema-version").cloned() {
        // A newer format has other keys, and complaints about them would only mislead.
        problems = vec![future];
    }
    if !problems.is_empty() {
        return Err(layers.locate(problems));
    }
    shape::prune(shape::root(), &mut value);
    match serde_json::from_value(value.clone()) {
        Ok(recipe) => Ok((recipe, value)),
        // Whatever the walk does not know about must still not pass.
        Err(error) => Err(vec![Diagnostic::error("recipe", error.to_string())]),
    }
}

/// Makes every path of the recipe absolute, expanding variables, and reports what cannot be.
fn expand_sources(recipe: &mut Recipe, layers: &Layers, environment: Environment<'_>) -> Vec<Problem> {
    type Expand = fn(&str, &Path, Environment<'_>) -> Result<String, SourceError>;
    let mut problems = Vec::new();
    let mut apply = |text: &mut String, path: String, expand: Expand| {
        let at = KeyPath::parse(&path).unwrap_or_default();
        match expand(text, layers.folder(&at), environment) {
            Ok(expanded) => *text = expanded,
            Err(error) => {
                let message = format!("`{path}` cannot be used: {error}");
                problems.push(Problem::value(at, "source", message).hint(error.hint()));
            }
        }
    };
    apply(&mut recipe.model.source, "model.source".to_owned(), source::model);
    let data_folder = recipe.continual.as_mut().and_then(|continual| continual.data_folder.as_mut());
    if let Some(folder) = data_folder {
        apply(folder, "continual.data_folder".to_owned(), source::path);
    }
    let data_folder = recipe.continual.as_ref().and_then(|continual| continual.data_folder.clone());
    for (path, text) in recipe.texts_mut() {
        if let Some(folder) = data_folder.as_ref().filter(|_| path.starts_with("continual.tasks")) {
            *text = source::within(folder, text);
        }
        apply(text, path, source::text);
    }
    for (index, workload) in recipe.workloads.iter_mut().enumerate() {
        if let Workload::KlDivergence(divergence) = workload
            && let Some(source) = &mut divergence.reference.source
        {
            apply(source, format!("workloads[{index}].kl_divergence.reference.source"), source::model);
        }
    }
    if let Some(init) = recipe.adapter.as_mut().and_then(|adapter| adapter.init.as_mut()) {
        apply(init, "adapter.init".to_owned(), source::path);
    }
    if let Some(init) = recipe.sona.as_mut().and_then(|sona| sona.init.as_mut()) {
        apply(init, "sona.init".to_owned(), source::path);
    }
    let composed = recipe.adapter.iter_mut().filter_map(|adapter| adapter.compose.as_mut());
    for (index, path) in composed.flat_map(|composed| &mut composed.adapters).enumerate() {
        apply(path, format!("adapter.compose.adapters[{index}]"), source::path);
    }
    problems
}

/// Returns problems file by file from top to bottom, each once: what the first point shows may
/// have been seen in the whole.
fn in_order(problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut files: Vec<String> = Vec::new();
    let mut ordered: Vec<((usize, usize, usize), Diagnostic)> = Vec::new();
    for problem in problems {
        let rank = problem.place.as_ref().map_or((0, 0, 0), |place| {
            let file = files.iter().position(|file| *file == place.file).unwrap_or_else(|| {
                files.push(place.file.clone());
                files.len() - 1
            });
            (file + 1, place.line, place.column)
        });
        if !ordered.iter().any(|(_, known)| *known == problem) {
            ordered.push((rank, problem));
        }
    }
    ordered.sort_by_key(|(rank, _)| *rank);
    ordered.into_iter().map(|(_, problem)| problem).collect()
}
