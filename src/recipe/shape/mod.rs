//! Holds a merged value against the schema of the recipe types, and reports every problem at once
//! where serde would stop at the first.
mod node;
mod unknown;

use serde_json::{Map, Number, Value};

pub(crate) use node::{Field, Node, all_keys, description, field, root};

use super::path::{KeyPath, Segment};
use super::problem::Problem;
use crate::units::{Bytes, Percent, Threads, UnitError};

/// Reports everything in `value` that the schema does not allow.
pub(crate) fn walk(schema: &'static Value, value: &Value, path: &KeyPath, problems: &mut Vec<Problem>) {
    let Field { node, nullable } = field(schema);
    match (&node, value) {
        (Node::Any, _) => {}
        (_, Value::Null) if nullable => {}
        (Node::Map { properties, required }, Value::Object(map)) => walk_map(properties, required, map, path, problems),
        (Node::Free(schema), Value::Object(map)) => {
            for (key, value) in map {
                walk(schema, value, &path.key(key), problems);
            }
        }
        (Node::OneKey(variants), Value::Object(map)) => walk_one_key(variants, map, path, problems),
        (Node::List(items), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                walk(items, item, &path.index(index), problems);
            }
        }
        (Node::Choice(choices), Value::String(text)) => {
            if !choices.iter().any(|(choice, _)| choice == text) {
                problems.push(unknown::choice(path, text, choices));
            }
        }
        (Node::Unit(unit), Value::String(_) | Value::Number(_)) => {
            if let Err(error) = check_unit(unit, value) {
                problems.push(Problem::value(path.clone(), "bad-unit", format!("`{path}`: {error}")));
            }
        }
        (Node::Integer { min, max }, Value::Number(number)) if !number.is_f64() => {
            problems.extend(out_of_range(path, number, *min, *max));
        }
        (Node::Number { min, max }, Value::Number(number)) => problems.extend(out_of_range(path, number, *min, *max)),
        (Node::Text, Value::String(_)) | (Node::Bool, Value::Bool(_)) => {}
        _ => problems.push(wrong_type(path, &node, value)),
    }
}

fn walk_map(
    properties: &'static Map<String, Value>,
    required: &[&str],
    map: &Map<String, Value>,
    path: &KeyPath,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in map {
        match properties.get(key) {
            None => problems.push(unknown::key(path, key, properties.keys().map(String::as_str))),
            Some(schema) if value.is_null() && !field(schema).nullable => {}
            Some(schema) => walk(schema, value, &path.key(key), problems),
        }
    }
    for key in required {
        let message = match map.get(*key) {
            Some(Value::Null) => format!("`{}` has no value", path.key(*key)),
            Some(_) => continue,
            None if path.0.is_empty() => format!("missing key `{key}`"),
            None => format!("missing key `{key}` in `{path}`"),
        };
        let meaning = description(&properties[*key]);
        let meaning = meaning.split(". ").next().unwrap_or_default().trim_end_matches('.');
        let hint = match (path.0.is_empty(), *key) {
            (true, "schema") => "start with `schema: ruvlab/v1`".to_owned(),
            (true, "model") => "add `model: {source: builtin:pico}`, or the path of a GGUF file".to_owned(),
            _ => format!("`{key}`: {meaning}"),
        };
        problems.push(Problem::key(path.key(*key), "missing-key", message).hint(hint));
    }
}

fn walk_one_key(
    variants: &[(&'static str, &'static Value)],
    map: &Map<String, Value>,
    path: &KeyPath,
    problems: &mut Vec<Problem>,
) {
    let schema_of = |key: &str| variants.iter().find(|(variant, _)| *variant == key).map(|(_, schema)| *schema);
    if map.len() == 1 {
        for (key, value) in map {
            match schema_of(key) {
                None => problems.push(unknown::key(path, key, variants.iter().map(|(variant, _)| *variant))),
                // `- decode:` with nothing below is a decode workload with every default.
                Some(_) if value.is_null() => {}
                Some(schema) => walk(schema, value, &path.key(key), problems),
            }
        }
        return;
    }
    let keys: Vec<_> = map.keys().map(|key| format!("`{key}`")).collect();
    let names: Vec<_> = variants.iter().map(|(variant, _)| format!("`{variant}`")).collect();
    let first = map.iter().next();
    let problem = match first {
        None => Problem::value(path.clone(), "workload", format!("`{path}` is empty"))
            .hint(format!("write one of {}", names.join(", "))),
        Some((first, Value::Null)) if schema_of(first).is_some() => {
            let (stand, them) = if keys.len() == 2 { ("stands", "it") } else { ("stand", "them") };
            let message = format!("{} {stand} beside `{first}`, not inside it", keys[1..].join(", "));
            Problem::key(path.key(first), "workload", message).hint(format!("indent {them} deeper than `{first}`"))
        }
        Some((first, _)) => {
            let message = format!("`{path}` is one thing to run, and has the keys {}", keys.join(", "));
            Problem::key(path.key(first), "workload", message)
                .hint(format!("give each of {} a list item of its own: `- {first}: …`", names.join(", ")))
        }
    };
    problems.push(problem);
}

fn check_unit(unit: &str, value: &Value) -> Result<(), UnitError> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match unit {
        "Bytes" => text.parse::<Bytes>().map(|_| ()),
        "Percent" => text.parse::<Percent>().map(|_| ()),
        _ => text.parse::<Threads>().map(|_| ()),
    }
}

fn out_of_range(path: &KeyPath, number: &Number, min: Option<f64>, max: Option<f64>) -> Option<Problem> {
    // Written so that a number which compares with nothing is out of range.
    let value = number.as_f64()?;
    if min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max) {
        return None;
    }
    let allowed = match (min, max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "a number".to_owned(),
    };
    Some(Problem::value(path.clone(), "out-of-range", format!("`{path}` is {number}, and must be {allowed}")))
}

fn wrong_type(path: &KeyPath, node: &Node, value: &Value) -> Problem {
    let wanted = match node {
        Node::Any => "a value",
        Node::Map { .. } | Node::Free(_) => "a map of keys",
        Node::OneKey(_) => "a map with one key, such as `decode: {output_tokens: 64}`",
        Node::List(_) => "a list",
        Node::Choice(_) | Node::Text => "text",
        Node::Unit("Bytes") => "a size with a unit, such as 512MiB",
        Node::Unit("Percent") => "a percentage, such as 3%",
        Node::Unit(_) => "`auto` or a number of threads",
        Node::Bool => "true or false",
        Node::Integer { .. } => "a whole number",
        Node::Number { .. } => "a number",
    };
    let number = matches!(node, Node::Integer { .. } | Node::Number { .. });
    let wanted = if number && infinite(value) { "a finite number" } else { wanted };
    let whole = if path.0.is_empty() { "the recipe".to_owned() } else { format!("`{path}`") };
    let problem =
        Problem::value(path.clone(), "wrong-type", format!("{whole} must be {wanted}, and is {}", kind_of(value)));
    match type_hint(node, value) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn type_hint(node: &Node, value: &Value) -> Option<String> {
    match (node, value) {
        (Node::Integer { .. }, Value::Number(number)) => {
            let value = number.as_f64().filter(|value| value.fract().abs() <= 0.0 && value.abs() < 1e15)?;
            Some(format!("write {value:.0}"))
        }
        (Node::Integer { .. } | Node::Number { .. }, Value::String(text)) if text.parse::<f64>().is_ok() => {
            Some("remove the quotes".to_owned())
        }
        (Node::Bool, Value::String(_) | Value::Number(_)) => Some("write `true` or `false`".to_owned()),
        (Node::Text, Value::Number(_) | Value::Bool(_)) => Some(format!("put it in quotes: \"{value}\"")),
        (Node::Choice(choices), _) => Some(unknown::list("one of", choices.iter().map(|(choice, _)| *choice))),
        (Node::OneKey(variants), Value::String(text)) if variants.iter().any(|(variant, _)| variant == text) => {
            Some(format!("write `- {text}: {{}}` to run it with every default"))
        }
        (Node::OneKey(variants), _) => Some(unknown::list("one of", variants.iter().map(|(variant, _)| *variant))),
        (Node::List(_), Value::Object(_)) => Some("start each item with `- `".to_owned()),
        (Node::List(_), Value::String(_) | Value::Number(_) | Value::Bool(_)) => Some(format!(
            "write a list, even of one: [{}]",
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        )),
        (Node::Map { properties, .. }, _) => {
            Some(unknown::list("write `key: value` lines below it; known keys:", properties.keys().map(String::as_str)))
        }
        _ => None,
    }
}

/// Returns whether a value stands for a number that JSON does not have.
fn infinite(value: &Value) -> bool {
    matches!(value.as_str(), Some(".nan" | ".inf"))
}

/// Returns a value's kind in plain words.
pub(crate) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > 40 => "a longer text".to_owned(),
        Value::String(text) => format!("the text \"{text}\""),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map of keys".to_owned(),
    }
}

/// Removes each `null` that only says "back to the default", so that serde supplies it.
pub(crate) fn prune(schema: &'static Value, value: &mut Value) {
    match (field(schema).node, value) {
        (Node::Map { properties, .. }, Value::Object(map)) => {
            map.retain(|key, value| {
                !value.is_null() || properties.get(key).is_some_and(|schema| field(schema).nullable)
            });
            for (key, value) in map {
                if let Some(schema) = properties.get(key) {
                    prune(schema, value);
                }
            }
        }
        (Node::OneKey(variants), Value::Object(map)) => {
            for (key, value) in map {
                if value.is_null() {
                    *value = Value::Object(Map::new());
                }
                if let Some((_, schema)) = variants.iter().find(|(variant, _)| variant == key) {
                    prune(schema, value);
                }
            }
        }
        (Node::List(items), Value::Array(list)) => list.iter_mut().for_each(|item| prune(items, item)),
        _ => {}
    }
}

/// Returns the path a text names and the schema there. Keys of the user's own choice may contain
/// dots: `matrix.axes.kernels.set` is the axis `kernels.set`.
///
/// # Errors
///
/// Fails when no recipe has that path.
pub(crate) fn follow(text: &str) -> Result<(KeyPath, &'static Value), Box<Problem>> {
    let whole = KeyPath::parse(text)
        .map_err(|error| Problem::key(KeyPath::default(), "bad-path", error.to_string()).hint("write `kernels.set`"))?;
    let mut path = KeyPath::default();
    let mut schema = root();
    let mut rest = &whole.0[..];
    while let Some((segment, after)) = rest.split_first() {
        rest = after;
        match (field(schema).node, segment) {
            (Node::Map { properties, .. }, Segment::Key(key)) => {
                let known = properties.keys().map(String::as_str);
                schema = properties.get(key).ok_or_else(|| unknown::key(&path, key, known))?;
                path = path.key(key);
            }
            (Node::OneKey(variants), Segment::Key(key)) => {
                let known = variants.iter().map(|(variant, _)| *variant);
                let found = variants.iter().find(|(variant, _)| variant == key);
                schema = found.ok_or_else(|| unknown::key(&path, key, known))?.1;
                path = path.key(key);
            }
            (Node::Free(values), Segment::Key(key)) => {
                let dotted = after.is_empty() || key.contains('.');
                let key = if dotted {
                    key.clone()
                } else {
                    KeyPath([std::slice::from_ref(segment), after].concat()).to_string()
                };
                if !dotted {
                    rest = &[];
                }
                schema = values;
                path = path.key(key);
            }
            (Node::List(items), Segment::Index(index)) => {
                schema = items;
                path = path.index(*index);
            }
            (Node::List(_), Segment::Key(key)) => {
                let message = format!("`{path}` is a list, and `{key}` is no place in it");
                return Err(Problem::key(path.clone(), "unknown-key", message)
                    .hint(format!("write `{path}[0].{key}`"))
                    .into());
            }
            (_, Segment::Index(_)) => {
                return Err(Problem::key(path.clone(), "unknown-key", format!("`{path}` is not a list")).into());
            }
            (_, Segment::Key(key)) => {
                let message = format!("`{path}` is a single value, and has no key `{key}`");
                return Err(Problem::key(path.clone(), "unknown-key", message).into());
            }
        }
    }
    Ok((path, schema))
}

#[cfg(test)]
mod tests;
