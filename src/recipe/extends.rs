//! Follows `extends` from file to file.
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::load::{self, Document};
use super::overlay::{Places, Setting};
use super::path::KeyPath;
use super::problem::{On, Problem};
use super::shape;
use super::spans::Spans;
use crate::diag::{self, Diagnostic};

/// Files of the longest chain.
const MAX_CHAIN: usize = 16;
/// Files of one recipe, counted each time they are read.
const MAX_FILES: usize = 64;

/// A recipe's files, weakest first, the named one last.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) settings: Vec<Setting>,
    pub(crate) problems: Vec<Diagnostic>,
    /// The named file's text.
    pub(crate) text: String,
    /// Whether a file that should be there could not be used.
    pub(crate) incomplete: bool,
    read: usize,
}

/// Returns a recipe and everything it extends.
pub(crate) fn collect(path: &Path) -> Files {
    let mut files = Files::default();
    let label = path.display().to_string();
    match load::read(path, &label) {
        Ok(document) => {
            files.text.clone_from(&document.text);
            files.add(path, document, &mut vec![(identity(path), label)]);
        }
        Err(problems) => files.problems.extend(problems),
    }
    files
}

type Chain = Vec<(PathBuf, String)>;

impl Files {
    fn add(&mut self, path: &Path, document: Document, chain: &mut Chain) {
        let Document { text: _, mut value, spans, problems } = document;
        self.problems.extend(problems);
        self.read += 1;
        let spans = Arc::new(spans);
        let at = KeyPath::default().key("extends");
        let entries = value.get("extends").cloned().unwrap_or_default();
        for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
            // What is no text is refused with the rest of the file.
            if let Value::String(entry) = entry {
                self.extend(path, entry, &spans, &at.index(index), chain);
            }
        }
        if chain.len() > 1 {
            self.check_base(&mut value, &spans);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        let folder = tidy(&folder.unwrap_or_else(|_| PathBuf::from(".")));
        self.settings.push(Setting { at: KeyPath::default(), value, places: Places::Spans(spans), folder });
    }

    /// Checks what a base says about itself, which the recipe does not inherit.
    fn check_base(&mut self, value: &mut Value, spans: &Spans) {
        for key in ["schema", "extends"] {
            let (Some(own), Ok((path, schema))) = (value.get(key), shape::follow(key)) else { continue };
            let mut problems = Vec::new();
            shape::walk(schema, own, &path, &mut problems);
            self.problems.extend(problems.into_iter().map(|Problem { path, on, diagnostic }| {
                diagnostic.at(if on == On::Key { spans.key(&path) } else { spans.value(&path) })
            }));
        }
        if let Value::Object(map) = value {
            map.retain(|key, _| !matches!(key.as_str(), "extends" | "name" | "description"));
        }
    }

    fn extend(&mut self, from: &Path, entry: &str, spans: &Spans, at: &KeyPath, chain: &mut Chain) {
        let place = spans.value(at);
        let target = tidy(&from.parent().unwrap_or(Path::new("")).join(entry));
        let label = target.display().to_string();
        let problem = |message: String| Diagnostic::error("extends", message).at(place.clone());
        let metadata = std::fs::metadata(&target);
        if entry.is_empty() || !metadata.is_ok_and(|metadata| metadata.is_file()) {
            let problem = problem(format!("`{entry}`, which this recipe extends, is not a file"));
            let hint = match similar(&target) {
                Some(name) => format!("did you mean `{}`?", Path::new(entry).with_file_name(name).display()),
                None => format!("paths start at this file's folder; looked for `{label}`"),
            };
            self.incomplete = true;
            self.problems.push(problem.hint(hint));
            return;
        }
        let identity = identity(&target);
        if let Some(start) = chain.iter().position(|(file, _)| *file == identity) {
            let mut circle: Vec<_> = chain[start..].iter().map(|(_, label)| format!("`{label}`")).collect();
            circle.push(format!("`{label}`"));
            let problem = problem(format!("recipes extend each other in a circle: {}", circle.join(" extends ")));
            self.incomplete = true;
            self.problems.push(problem.hint("move what they share into a third recipe"));
            return;
        }
        if chain.len() >= MAX_CHAIN || self.read >= MAX_FILES {
            self.incomplete = true;
            self.problems.push(problem(format!(
                "more than {MAX_CHAIN} recipes extend one another, or more than {MAX_FILES} in all"
            )));
            return;
        }
        match load::read(&target, &label) {
            Ok(document) => {
                chain.push((identity, label));
                self.add(&target, document, chain);
                chain.pop();
            }
            Err(problems) => {
                self.incomplete = true;
                self.problems.extend(problems.into_iter().map(|problem| match problem.place {
                    None => problem.at(place.clone()),
                    Some(_) => problem,
                }));
            }
        }
    }
}

fn identity(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns a file's name in the folder of `path` that is spelled nearly the same.
fn similar(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".yaml") || name.ends_with(".yml")).collect();
    names.sort();
    let given = path.file_name()?.to_str()?;
    diag::nearest(given, names.iter().map(String::as_str)).map(str::to_owned)
}

/// Returns a path without `.` and without `name/..`, decided by its text alone.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(tidy.components().next_back(), Some(Component::Normal(_))) => {
                tidy.pop();
            }
            component => tidy.push(component),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tidy_path_keeps_what_it_cannot_resolve() {
        for (path, expected) in [("a/../b", "b"), ("./a/./b", "a/b"), ("../a", "../a"), ("/a/../../b", "/../b")] {
            assert_eq!(tidy(Path::new(path)), Path::new(expected));
        }
    }
}
