//! What distinguishes values that have parts: lists and maps.
use serde_json::Value;

/// A number, text or truth inside a value: where, what the last key on the way to it is, and what.
struct Leaf {
    path: String,
    key: String,
    text: String,
}

fn leaves(value: &Value, path: &str, key: &str, found: &mut Vec<Leaf>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, part)| leaves(part, &format!("{path}.{key}"), key, found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, part)| leaves(part, &format!("{path}[{at}]"), key, found));
        }
        Value::String(text) => found.push(Leaf { path: path.to_owned(), key: key.to_owned(), text: text.clone() }),
        other => found.push(Leaf { path: path.to_owned(), key: key.to_owned(), text: other.to_string() }),
    }
}

/// Returns each value as those of its parts that not all of them have, `key=part`, several of one key
/// as `key=one+other`.
pub(super) fn differences(values: &[Option<&Value>]) -> Vec<String> {
    let all: Vec<Vec<Leaf>> = values
        .iter()
        .map(|value| {
            let mut found = Vec::new();
            value.iter().for_each(|value| leaves(value, "", "", &mut found));
            found
        })
        .collect();
    let is_in = |leaves: &[Leaf], leaf: &Leaf| leaves.iter().any(|l| l.path == leaf.path && l.text == leaf.text);
    all.iter()
        .map(|own| {
            let mut words: Vec<(&str, String)> = Vec::new();
            for leaf in own.iter().filter(|leaf| !all.iter().all(|leaves| is_in(leaves, leaf))) {
                match words.last_mut().filter(|(key, _)| *key == leaf.key) {
                    Some((_, text)) => *text = format!("{text}+{}", leaf.text),
                    None => words.push((&leaf.key, leaf.text.clone())),
                }
            }
            let word =
                |(key, text): &(&str, String)| if key.is_empty() { text.clone() } else { format!("{key}={text}") };
            if words.is_empty() { "-".to_owned() } else { words.iter().map(word).collect::<Vec<_>>().join(" ") }
        })
        .collect()
}
