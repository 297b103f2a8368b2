//! A JSON Schema node, read as one of the few things a recipe is made of.
use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::recipe::schema::Recipe;

/// Returns the schema of the recipe types: the one source of the walk, of did-you-mean and of the
/// reference page.
pub(crate) fn root() -> &'static Value {
    static ROOT: OnceLock<Value> = OnceLock::new();
    ROOT.get_or_init(|| {
        let generator = SchemaSettings::draft2020_12().into_generator();
        generator.into_root_schema_for::<Recipe>().to_value()
    })
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Anything.
    Any,
    /// A map with these keys; those in `required` have no default.
    Map { properties: &'static Map<String, Value>, required: Vec<&'static str> },
    /// A map with keys of the user's choice.
    Free(&'static Value),
    /// A map with exactly one of these keys.
    OneKey(Vec<(&'static str, &'static Value)>),
    /// A list.
    List(&'static Value),
    /// One of these texts, each with its meaning.
    Choice(Vec<(&'static str, &'static str)>),
    /// A type of [`crate::units`], by its name.
    Unit(&'static str),
    /// Text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer { min: Option<f64>, max: Option<f64> },
    /// A number within bounds.
    Number { min: Option<f64>, max: Option<f64> },
}

/// A node, and whether `null` says something there.
pub(crate) struct Field {
    pub(crate) node: Node,
    pub(crate) nullable: bool,
}

/// Returns how a schema is to be read.
pub(crate) fn field(schema: &'static Value) -> Field {
    let present = |node| Field { node, nullable: false };
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
        if matches!(name, "Bytes" | "Percent" | "Threads") {
            return present(Node::Unit(match name {
                "Bytes" => "Bytes",
                "Percent" => "Percent",
                _ => "Threads",
            }));
        }
        return field(&root()["$defs"][name]);
    }
    if let Some(alternatives) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        return one_of(alternatives);
    }
    let bounds = || bounds(schema);
    let (kind, nullable) = match &schema["type"] {
        Value::Array(kinds) => {
            let kind = kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null");
            (kind, kinds.iter().any(|kind| kind == "null"))
        }
        kind => (kind.as_str(), false),
    };
    let node = match kind {
        Some("object") => map(schema),
        Some("array") => Node::List(&schema["items"]),
        Some("string") => choices(schema).map_or(Node::Text, Node::Choice),
        Some("boolean") => Node::Bool,
        Some("integer") => Node::Integer { min: bounds().0, max: bounds().1 },
        Some("number") => Node::Number { min: bounds().0, max: bounds().1 },
        _ => Node::Any,
    };
    Field { node, nullable }
}

fn one_of(alternatives: &'static [Value]) -> Field {
    let (nulls, values): (Vec<_>, Vec<_>) = alternatives.iter().partition(|schema| schema["type"] == "null");
    let nullable = !nulls.is_empty();
    if let [only] = values[..] {
        let Field { node, nullable: inner } = field(only);
        return Field { node, nullable: nullable || inner };
    }
    if let Some(choices) = values.iter().map(|schema| choices(schema)).collect::<Option<Vec<_>>>() {
        return Field { node: Node::Choice(choices.concat()), nullable };
    }
    let variant = |schema: &'static Value| {
        let properties = schema["properties"].as_object().filter(|properties| properties.len() == 1)?;
        properties.iter().next().map(|(key, schema)| (key.as_str(), schema))
    };
    let node = values.into_iter().map(variant).collect::<Option<Vec<_>>>().map_or(Node::Any, Node::OneKey);
    Field { node, nullable }
}

fn map(schema: &'static Value) -> Node {
    static NOTHING: OnceLock<Map<String, Value>> = OnceLock::new();
    match (&schema["properties"], &schema["additionalProperties"]) {
        (Value::Object(properties), _) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            Node::Map { properties, required }
        }
        (_, Value::Bool(false)) => Node::Map { properties: NOTHING.get_or_init(Map::new), required: Vec::new() },
        (_, values) => Node::Free(values),
    }
}

fn choices(schema: &'static Value) -> Option<Vec<(&'static str, &'static str)>> {
    let description = schema["description"].as_str().unwrap_or("");
    if let Some(only) = schema["const"].as_str() {
        return Some(vec![(only, description)]);
    }
    schema["enum"].as_array().map(|values| values.iter().filter_map(Value::as_str).map(|value| (value, "")).collect())
}

/// Returns the smallest and largest value a schema and its integer type allow.
fn bounds(schema: &Value) -> (Option<f64>, Option<f64>) {
    let of_type = match schema["format"].as_str() {
        Some("uint16") => Some(f64::from(u16::MAX)),
        Some("uint32") => Some(f64::from(u32::MAX)),
        _ => None,
    };
    (schema["minimum"].as_f64(), schema["maximum"].as_f64().or(of_type))
}

/// Returns what a schema's author says about it, on one line.
pub(crate) fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the dotted path of every key a recipe can have; list items are written `[]`.
pub(crate) fn all_keys() -> &'static [String] {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = Vec::new();
        collect(root(), "", &mut keys);
        keys
    })
}

fn collect(schema: &'static Value, prefix: &str, keys: &mut Vec<String>) {
    let mut below = |key: &str, schema: &'static Value| {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        keys.push(path.clone());
        collect(schema, &path, keys);
    };
    match field(schema).node {
        Node::Map { properties, .. } => properties.iter().for_each(|(key, schema)| below(key, schema)),
        Node::OneKey(variants) => variants.into_iter().for_each(|(key, schema)| below(key, schema)),
        Node::List(items) => collect(items, &format!("{prefix}[]"), keys),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_node_is_understood() {
        fn visit(schema: &'static Value, path: &str, leaves: &mut usize) {
            match field(schema).node {
                Node::Map { properties, .. } => {
                    for (key, schema) in properties {
                        visit(schema, &format!("{path}.{key}"), leaves);
                    }
                }
                Node::OneKey(variants) => {
                    for (key, schema) in variants {
                        visit(schema, &format!("{path}.{key}"), leaves);
                    }
                }
                Node::List(inner) | Node::Free(inner) => visit(inner, &format!("{path}[]"), leaves),
                Node::Any => assert!(path.starts_with(".matrix") || path.starts_with(".baseline.cell"), "{path}"),
                Node::Text => {
                    assert!(schema["pattern"].is_null(), "{path} has a pattern that nothing checks");
                    *leaves += 1;
                }
                _ => *leaves += 1,
            }
        }
        let mut leaves = 0;
        visit(root(), "", &mut leaves);
        assert!(leaves > 60, "only {leaves} leaves were seen");
    }

    #[test]
    fn keys_of_workloads_are_among_all_keys() {
        assert!(all_keys().iter().any(|key| key == "workloads[].decode.output_tokens"));
        assert!(all_keys().iter().any(|key| key == "kernels.verify.reference"));
    }
}
