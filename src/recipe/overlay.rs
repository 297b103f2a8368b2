//! Layers of settings: defaults < `extends` < file < matrix point < `--set`. Maps merge, lists
//! replace, `null` goes back to the default. Every layer keeps the places of what it sets, so an
//! error in the merged recipe names the file and line it came from.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::path::{KeyPath, Segment};
use super::problem::{On, Problem};
use super::spans::{MAX_PROBLEMS, Spans};
use crate::diag::{Diagnostic, Place};

/// One value set at one path: a whole file at the top, or one `--set`.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) at: KeyPath,
    pub(crate) value: Value,
    pub(crate) places: Places,
    /// The folder that relative paths in it start from.
    pub(crate) folder: PathBuf,
}

/// Where a setting was written.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    /// In a file, key by key.
    Spans(Arc<Spans>),
    /// In one place.
    One { key: Option<Place>, value: Option<Place> },
}

/// Settings, weakest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers(pub(crate) Vec<Setting>);

impl Layers {
    /// Returns everything merged.
    ///
    /// # Errors
    ///
    /// Reports each setting that names a list item which is not there.
    pub(crate) fn merged(&self) -> (Value, Vec<Problem>) {
        let mut merged = Value::Object(serde_json::Map::new());
        let mut problems = Vec::new();
        for setting in &self.0 {
            match slot(&mut merged, &setting.at) {
                Ok(slot) => merge(slot, &setting.value),
                Err((list, items)) => {
                    let items = if items == 1 { "1 item".to_owned() } else { format!("{items} items") };
                    let message = format!("`{list}` has {items}, counted from 0; `{}` is none of them", setting.at);
                    problems.push(Problem::key(setting.at.clone(), "unknown-key", message));
                }
            }
        }
        (merged, problems)
    }

    /// Returns the setting that decides the value at `path`, and the deepest part of `path` that
    /// it wrote.
    pub(crate) fn origin(&self, path: &KeyPath) -> Option<(&Setting, KeyPath)> {
        let mut best: Option<(&Setting, usize)> = None;
        for setting in self.0.iter().rev() {
            let Some(rest) = path.0.strip_prefix(&setting.at.0[..]) else { continue };
            let mut node = &setting.value;
            let mut depth = setting.at.0.len();
            for segment in rest {
                let Some(inner) = KeyPath(vec![segment.clone()]).get(node) else { break };
                node = inner;
                depth += 1;
            }
            if best.is_none_or(|(_, deepest)| depth > deepest) {
                best = Some((setting, depth));
            }
            // Only a map lets weaker layers through.
            if depth == path.0.len() || !node.is_object() {
                break;
            }
        }
        best.map(|(setting, depth)| (setting, KeyPath(path.0[..depth].to_vec())))
    }

    /// Returns where `path` was written, or else what encloses it.
    pub(crate) fn place(&self, path: &KeyPath, on: On) -> Option<Place> {
        let (setting, found) = self.origin(path)?;
        match &setting.places {
            Places::One { key, value } => match on {
                On::Key if found == setting.at => key.clone(),
                _ => value.clone(),
            },
            Places::Spans(spans) => {
                // A value repeated by an alias has no place of its own below the alias.
                let mut known = Some(found);
                while let Some(path) = known {
                    let place = if on == On::Key { spans.key(&path) } else { spans.value(&path) };
                    if place.is_some() {
                        return place;
                    }
                    known = path.parent();
                }
                None
            }
        }
    }

    /// Returns problems with their places.
    pub(crate) fn locate(&self, problems: Vec<Problem>) -> Vec<Diagnostic> {
        let place = |Problem { path, on, diagnostic }: Problem| {
            let place = diagnostic.place.clone().or_else(|| self.place(&path, on));
            diagnostic.at(place)
        };
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        let mut located: Vec<_> = problems.into_iter().take(MAX_PROBLEMS).map(place).collect();
        if more > 0 {
            located.push(Diagnostic::error("more", format!("{more} more problems are not shown")));
        }
        located
    }

    /// Returns the folder that a relative path written at `path` starts from.
    pub(crate) fn folder(&self, path: &KeyPath) -> &Path {
        self.origin(path).map_or(Path::new("."), |(setting, _)| &setting.folder)
    }
}

/// Returns the place in a value that a path names, made where maps are missing; or the list that
/// is too short and its length.
fn slot<'a>(value: &'a mut Value, path: &KeyPath) -> Result<&'a mut Value, (KeyPath, usize)> {
    let mut node = value;
    for (depth, segment) in path.0.iter().enumerate() {
        node = match segment {
            Segment::Key(key) => {
                if !node.is_object() {
                    *node = Value::Object(serde_json::Map::new());
                }
                &mut node[key]
            }
            Segment::Index(index) => {
                let items = node.as_array().map_or(0, Vec::len);
                let missing = || (KeyPath(path.0[..depth].to_vec()), items);
                node.get_mut(index).ok_or_else(missing)?
            }
        };
    }
    Ok(node)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Returns the settings of `--set` arguments.
///
/// # Errors
///
/// Reports every argument without `=`, with an unknown path, or with an unreadable value.
pub(crate) fn sets(arguments: &[String]) -> (Vec<Setting>, Vec<Diagnostic>) {
    let folder = std::path::absolute(".").unwrap_or_else(|_| PathBuf::from("."));
    let mut settings = Vec::new();
    let mut problems = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        let place = |start: usize, length: usize| {
            let place = Place {
                file: "--set".to_owned(),
                line: index + 1,
                column: start + 1,
                length: length.max(1),
                source: argument.clone(),
            };
            Some(place)
        };
        let Some((path, text)) = argument.split_once('=') else {
            let whole = place(0, argument.chars().count());
            let problem = Diagnostic::error("bad-set", format!("`{argument}` sets nothing")).at(whole);
            problems.push(problem.hint("write `--set key=value`, such as `--set kernels.threads=4`"));
            continue;
        };
        let width = path.chars().count();
        let key = place(0, width);
        let value = place(width + 1, text.chars().count());
        let at = match super::shape::follow(path.trim()) {
            Ok((at, _)) => at,
            Err(problem) => {
                problems.push(problem.diagnostic.at(key));
                continue;
            }
        };
        if matches!(at.0.first(), Some(Segment::Key(top)) if top == "extends") {
            let problem = Diagnostic::error("bad-set", "`extends` belongs in a file").at(key);
            problems.push(problem.hint("write a recipe that extends both"));
            continue;
        }
        match super::load::setting(text) {
            Ok(read) => {
                settings.push(Setting { at, value: read, places: Places::One { key, value }, folder: folder.clone() })
            }
            Err(reason) => problems.push(
                Diagnostic::error("bad-set", reason).at(value).hint("quote text that starts with a bracket or a quote"),
            ),
        }
    }
    (settings, problems)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(label: &str, text: &str) -> Setting {
        let document = super::super::load::parse(text.to_owned(), label).unwrap();
        let places = Places::Spans(Arc::new(document.spans));
        Setting { at: KeyPath::default(), value: document.value, places, folder: PathBuf::from("/") }
    }

    fn set(argument: &str) -> Setting {
        let (mut settings, problems) = sets(&[argument.to_owned()]);
        assert!(problems.is_empty(), "{problems:?}");
        settings.remove(0)
    }

    fn layers() -> Layers {
        Layers(vec![
            file(
                "base.yaml",
                "kernels: {threads: 2, set: candle}\nworkloads:\n- decode: {}\n- prefill: {}\ntags: [a, b]\n",
            ),
            file("x.yaml", "kernels:\n  threads: 4\nworkloads:\n- decode: {output_tokens: 8}\n"),
            set("workloads[0].decode.output_tokens=32"),
            set("tags=null"),
        ])
    }

    #[test]
    fn maps_merge_and_lists_replace() {
        let (merged, problems) = layers().merged();
        assert!(problems.is_empty());
        let expected = json!({
            "kernels": {"threads": 4, "set": "candle"},
            "workloads": [{"decode": {"output_tokens": 32}}],
            "tags": null,
        });
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_place_is_in_the_layer_that_decides() {
        let layers = layers();
        let at = |path: &str| {
            let place = layers.place(&KeyPath::parse(path).unwrap(), On::Value).unwrap();
            (place.file, place.line, place.column)
        };
        assert_eq!(at("kernels.threads"), ("x.yaml".to_owned(), 2, 12));
        assert_eq!(at("kernels.set"), ("base.yaml".to_owned(), 1, 28));
        assert_eq!(at("workloads[0].decode.output_tokens"), ("--set".to_owned(), 1, 35));
        assert_eq!(at("workloads[0].decode.prompt_tokens"), ("x.yaml".to_owned(), 4, 11));
        assert_eq!(at("workloads[1]"), ("x.yaml".to_owned(), 3, 1));
    }

    #[test]
    fn a_set_of_a_list_item_that_is_not_there_is_a_problem() {
        let mut layers = layers();
        layers.0.push(set("workloads[3].decode.output_tokens=1"));
        assert_eq!(layers.merged().1.len(), 1);
    }

    #[test]
    fn a_value_may_contain_an_equals_sign() {
        assert_eq!(set("model.source=a=b").value, json!("a=b"));
    }
}
