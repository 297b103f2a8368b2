//! What is generated from the types: the JSON Schema for editors, and the reference page
//! `recipes/README.md`.
use serde_json::{Map, Value, json};

use super::check::FIXED;
use super::shape::{Field, Node, all_keys, description, field, follow, root};

/// Returns the JSON Schema (draft 2020-12) of a recipe file, for editors: with every description
/// and default, and with the keys a matrix can vary. Only `schema` is required, since a name comes
/// from the file and everything else may come from `extends`.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = root().clone();
    join_lines(&mut schema);
    schema["title"] = json!("ruvlab recipe");
    schema["$id"] = json!("urn:ruvlab:recipe:v1");
    schema["required"] = json!(["schema"]);
    let mut axes = Map::new();
    let mut settings = Map::new();
    for key in all_keys() {
        let top = key.split('.').next().unwrap_or(key);
        if key.contains("[]") || FIXED.iter().any(|(fixed, _)| *fixed == top) {
            continue;
        }
        let Ok((_, values)) = follow(key) else { continue };
        if matches!(field(values).node, Node::Map { .. } | Node::List(_) | Node::Free(_)) {
            continue;
        }
        let mut values = values.clone();
        join_lines(&mut values);
        if let Value::Object(values) = &mut values {
            values.remove("default");
        }
        axes.insert(key.clone(), json!({"type": "array", "items": values}));
        settings.insert(key.clone(), values);
    }
    let matrix = &mut schema["$defs"]["Matrix"]["properties"];
    matrix["axes"]["properties"] = Value::Object(axes.clone());
    matrix["zip"]["items"]["properties"] = Value::Object(axes);
    matrix["include"]["items"]["properties"] = Value::Object(settings);
    schema
}

/// Doc comments are wrapped for the source; editors wrap for themselves.
fn join_lines(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "description" => *text = text.replace('\n', " "),
                    value => join_lines(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(join_lines),
        _ => {}
    }
}

const INTRODUCTION: &str = "\
# Recipes

<!-- Generated from the types in src/recipe/schema. To renew: RUVLAB_BLESS=1 cargo test --release --test it recipes -->

A recipe is one YAML file that declares an experiment: a model, how it is stored and run, what is measured, which variations, and what the results are compared with.

```yaml
# yaml-language-server: $schema=./schema.json
schema: ruvlab/v1
model: {source: builtin:pico}
workloads:
  - decode: {prompt_tokens: 64, output_tokens: 64}
matrix:
  axes:
    kernels.set: [reference, candle]
```

```
ruvlab validate RECIPE        every problem at once, with line and column; loads no weights
ruvlab plan RECIPE            the cells it means on this machine; runs nothing
ruvlab run RECIPE             runs it
ruvlab run RECIPE --set measure.launches.min=3 --set 'kernels.set=candle'
```

- **Layers.** Defaults, then `extends` (earlier first), then the file, then a point of the matrix, then `--set`; later ones win. Maps merge, lists replace, `null` goes back to the default. `name` and `description` are not inherited.
- **Unknown keys are errors**, with a suggestion. Quantities carry their unit: `512MiB`, `3%`. In other keys the unit is in the name (`interval_ms`).
- **Paths** start at the folder of the file they are written in (for `--set`, at the current folder); `~/`, `$NAME` and `${NAME}` are expanded.
- **A matrix** varies keys by their dotted names, such as `kernels.set` or `workloads[0].decode.output_tokens`. Every combination is a cell, and every cell runs once for each seed.
- **Editors** with a YAML language server complete and check recipes by the first line above; `ruvlab schema` prints the schema.
- A setting this version of ruvlab cannot run yet is an error of `plan` and `run`, never ignored.
";

/// Returns the page `recipes/README.md`: what a recipe is, the shipped ones by path and
/// description, and every key with its type, default and meaning.
#[must_use]
pub fn reference_page(shipped: &[(String, String)]) -> String {
    let mut page = Page { text: INTRODUCTION.to_owned() };
    page.line("\n## Shipped recipes\n");
    page.line("| recipe | what it asks |");
    page.line("| --- | --- |");
    for (path, description) in shipped {
        page.line(&format!("| [`{path}`]({path}) | {} |", cell(description)));
    }
    page.line("\n## Keys\n");
    page.table(root());
    page.sections(root(), "");
    page.text
}

struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Writes a section for each map below `schema`.
    fn sections(&mut self, schema: &'static Value, path: &str) {
        let Node::Map { properties, .. } = field(schema).node else { return };
        for (key, schema) in properties {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match field(schema).node {
                Node::Map { .. } => self.section(schema, &path),
                Node::List(items) => match field(items).node {
                    Node::Map { .. } => self.section(items, &format!("{path}[]")),
                    Node::OneKey(variants) => {
                        self.heading(&format!("{path}[]"), items);
                        for (key, variant) in variants {
                            self.section(variant, &format!("{path}[].{key}"));
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn section(&mut self, schema: &'static Value, path: &str) {
        self.heading(path, schema);
        self.table(schema);
        self.sections(schema, path);
    }

    fn heading(&mut self, path: &str, schema: &'static Value) {
        let level = if path.contains(['.', '[']) { "###" } else { "##" };
        self.line(&format!("\n{level} `{path}`\n"));
        let meaning = type_description(schema);
        if !meaning.is_empty() {
            self.line(&format!("{meaning}\n"));
        }
    }

    fn table(&mut self, schema: &'static Value) {
        let Node::Map { properties, required } = field(schema).node else { return };
        self.line("| key | type | default | meaning |");
        self.line("| --- | --- | --- | --- |");
        for (key, schema) in properties {
            let default = match schema.get("default") {
                _ if key == "name" => "the file's name".to_owned(),
                _ if required.contains(&key.as_str()) => "required".to_owned(),
                None | Some(Value::Null) => String::new(),
                Some(Value::Object(_)) if !matches!(field(schema).node, Node::Free(_)) => "see below".to_owned(),
                Some(Value::String(text)) if text.is_empty() => String::new(),
                Some(Value::String(text)) => format!("`{text}`"),
                Some(value) => format!("`{value}`"),
            };
            self.line(&format!("| `{key}` | {} | {default} | {} |", kind(schema), cell(&description(schema))));
        }
        for (key, schema) in properties {
            if let Node::Choice(choices) = field(schema).node
                && choices.len() > 1
                && choices.iter().any(|(_, meaning)| !meaning.is_empty())
            {
                self.line(&format!("\n`{key}` is one of\n"));
                for (choice, meaning) in choices.iter().filter(|(_, meaning)| !meaning.is_empty()) {
                    self.line(&format!("- `{choice}`: {}", cell(meaning)));
                }
                let plain = choices.iter().filter(|(_, meaning)| meaning.is_empty());
                let plain: Vec<_> = plain.map(|(choice, _)| format!("`{choice}`")).collect();
                if !plain.is_empty() {
                    self.line(&format!("- {}", plain.join(", ")));
                }
            }
        }
    }
}

/// Returns what the type itself says: more than the key that has it.
fn type_description(schema: &'static Value) -> String {
    let references = std::iter::once(schema).chain(schema["anyOf"].as_array().into_iter().flatten());
    let mut names = references.filter_map(|schema| schema["$ref"].as_str()?.strip_prefix("#/$defs/"));
    names.next().map_or_else(|| description(schema), |name| description(&root()["$defs"][name]))
}

/// Returns a type in plain words.
fn kind(schema: &'static Value) -> String {
    let Field { node, .. } = field(schema);
    let range = |min: Option<f64>, max: Option<f64>| match (min, max) {
        (Some(min), Some(max)) if max < f64::from(u32::MAX) => format!(", {min} to {max}"),
        (Some(min), _) if min.abs() > 0.0 => format!(", at least {min}"),
        (None, Some(max)) => format!(", at most {max}"),
        _ => String::new(),
    };
    match node {
        Node::Any => "any".to_owned(),
        Node::Map { .. } => "map".to_owned(),
        Node::Free(values) => format!("map of {}", plural(values)),
        Node::OneKey(_) => "map with one key".to_owned(),
        Node::List(items) => format!("list of {}", plural(items)),
        Node::Choice(choices) => choices.iter().map(|(choice, _)| format!("`{choice}`")).collect::<Vec<_>>().join(" "),
        Node::Unit("Bytes") => "size, such as `512MiB`".to_owned(),
        Node::Unit("Percent") => "percentage, such as `3%`".to_owned(),
        Node::Unit(_) => "`auto` or 1 to 1024".to_owned(),
        Node::Text => "text".to_owned(),
        Node::Bool => "`true` `false`".to_owned(),
        Node::Integer { min, max } => format!("whole number{}", range(min, max)),
        Node::Number { min, max } => format!("number{}", range(min, max)),
    }
}

fn plural(schema: &'static Value) -> String {
    match field(schema).node {
        Node::Any => "values".to_owned(),
        Node::Map { .. } => "maps".to_owned(),
        Node::Free(values) => format!("maps of {}", plural(values)),
        Node::OneKey(_) => "maps with one key".to_owned(),
        Node::List(items) => format!("lists of {}", plural(items)),
        Node::Text => "texts".to_owned(),
        Node::Unit("Percent") => "percentages, such as `3%`".to_owned(),
        Node::Integer { .. } => "whole numbers".to_owned(),
        Node::Number { .. } => "numbers".to_owned(),
        _ => kind(schema),
    }
}

/// Returns a text that cannot break out of its table cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_on_the_page() {
        let page = reference_page(&[("quickstart.yaml".to_owned(), "what | why".to_owned())]);
        for key in all_keys() {
            let last = key.rsplit('.').next().unwrap();
            assert!(page.contains(&format!("`{last}`")) || page.contains(&format!("[].{last}`")), "{key}");
        }
        assert!(page.contains("what \\| why"));
    }

    #[test]
    fn every_key_has_a_meaning() {
        for key in all_keys() {
            let (_, schema) = follow(&key.replace("[]", "[0]")).unwrap();
            assert!(
                !type_description(schema).is_empty() || !description(schema).is_empty(),
                "{key} has no doc comment"
            );
        }
    }

    #[test]
    fn the_schema_offers_axes_to_editors() {
        let schema = json_schema();
        let axes = &schema["$defs"]["Matrix"]["properties"]["axes"]["properties"];
        assert_eq!(axes["kernels.set"]["items"]["$ref"], "#/$defs/KernelSet");
        assert!(axes["name"].is_null() && axes["kernels"].is_null());
    }
}
