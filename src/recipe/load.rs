//! From bytes to values: the only file that names `serde_yaml`.
//!
//! Positions come from [`super::spans`], which also bounds nesting and aliases before anything is
//! expanded here.
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::spans::{self, Spans};
use crate::diag::{Diagnostic, Place};

/// Bytes of the largest recipe read; real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 20;

/// A recipe file, read but not understood.
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) value: Value,
    pub(crate) spans: Spans,
    /// Problems that leave the value usable, such as duplicate keys.
    pub(crate) problems: Vec<Diagnostic>,
}

/// Returns the file's text, value and positions. `label` is the file as the user named it.
///
/// # Errors
///
/// Every problem that leaves no value: unreadable, too large, not UTF-8, not YAML, not a map.
pub(crate) fn read(file: &Path, label: &str) -> Result<Document, Vec<Diagnostic>> {
    let text = read_text(file, label).map_err(|problem| vec![*problem])?;
    parse(text, label)
}

fn read_text(file: &Path, label: &str) -> Result<String, Box<Diagnostic>> {
    let io = |error: &std::io::Error| {
        let problem = Diagnostic::error("file", format!("cannot read `{label}`: {}", plain(error)));
        Box::new(match error.kind() {
            std::io::ErrorKind::NotFound => problem.hint("check the path; it is relative to the current folder"),
            _ => problem,
        })
    };
    let size = std::fs::metadata(file).map_err(|error| io(&error))?;
    if size.is_dir() {
        return Err(Box::new(Diagnostic::error("file", format!("`{label}` is a folder, not a recipe"))));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| io(&error))?;
    // One byte more than allowed tells a full file from a cut one, even for a pipe without a size.
    std::io::Read::read_to_end(&mut std::io::Read::take(opened, MAX_BYTES + 1), &mut bytes)
        .map_err(|error| io(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("`{label}` is larger than {} KiB, which no recipe needs", MAX_BYTES >> 10);
        return Err(Box::new(Diagnostic::error("file", message).hint("is it the right file?")));
    }
    decode(bytes, label)
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "no permission".to_owned(),
        _ => error.to_string(),
    }
}

fn decode(bytes: Vec<u8>, label: &str) -> Result<String, Box<Diagnostic>> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line_start = bytes[..offset].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line_end = bytes[offset..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| offset + at);
        let place = Place {
            file: label.to_owned(),
            line: 1 + bytes[..offset].iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + String::from_utf8_lossy(&bytes[line_start..offset]).chars().count(),
            length: 1,
            source: String::from_utf8_lossy(&bytes[line_start..line_end]).into_owned(),
        };
        let message = format!("byte {offset} (0x{:02x}) is not UTF-8 text", bytes[offset]);
        Box::new(Diagnostic::error("not-utf8", message).at(Some(place)).hint("save the file as UTF-8"))
    })
}

/// Returns a text's value and positions.
///
/// # Errors
///
/// Every problem that leaves no value: not YAML, several documents, too deep, empty, not a map.
pub(crate) fn parse(text: String, label: &str) -> Result<Document, Vec<Diagnostic>> {
    // The mark some editors put first is no part of the text.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let spans::Scan { spans, mut problems, fatal } = spans::scan(label, &text);
    if fatal {
        return Err(problems);
    }
    let value = match value_of(&text) {
        Ok(value) => value,
        Err(error) => {
            let place = error.location().map(|at| spans.point(at.line(), at.column().saturating_sub(1), 1));
            problems.push(Diagnostic::error("yaml-syntax", reason(&error)).at(place));
            return Err(problems);
        }
    };
    let first = || spans.value(&super::path::KeyPath::default()).unwrap_or_else(|| spans.point(1, 0, 1));
    match value {
        Value::Object(_) => Ok(Document { text, value, spans, problems }),
        Value::Null => {
            let hint = "a recipe starts with `schema: ruvlab/v1`; recipes/quickstart.yaml is one to copy";
            problems.push(Diagnostic::error("empty", format!("`{label}` holds no recipe")).hint(hint));
            Err(problems)
        }
        other => {
            let message = format!("a recipe is a map of keys, and this is {}", super::shape::kind_of(&other));
            let hint = "start with `schema: ruvlab/v1`, one `key: value` a line";
            problems.push(Diagnostic::error("wrong-type", message).at(Some(first())).hint(hint));
            Err(problems)
        }
    }
}

/// Returns what `text` means as a value of `--set`: a YAML scalar, or a map or list in flow style.
/// Anything else is plain text.
///
/// # Errors
///
/// Says why a map, a list or a quoted text cannot be read.
pub(crate) fn setting(text: &str) -> Result<Value, String> {
    let text = text.trim();
    let flow = text.starts_with(['{', '[', '"', '\'']);
    if !flow && (text.contains('#') || text.contains('\n')) {
        return Ok(Value::String(text.to_owned()));
    }
    if flow {
        let scan = spans::scan("--set", text);
        if let Some(problem) = scan.problems.into_iter().next() {
            return Err(problem.message);
        }
    }
    match value_of(text) {
        Ok(Value::Object(_) | Value::Array(_)) | Err(_) if !flow => Ok(Value::String(text.to_owned())),
        Ok(value) => Ok(value),
        Err(error) => Err(reason(&error)),
    }
}

/// Returns a recipe as YAML, every default written out.
///
/// # Errors
///
/// If a value has no YAML form, with the reason.
pub fn to_yaml(recipe: &super::Recipe) -> Result<String, String> {
    serde_yaml::to_string(recipe).map_err(|error| error.to_string())
}

fn value_of(text: &str) -> Result<Value, serde_yaml::Error> {
    // `Option` is what lets a text without any document mean nothing instead of an error.
    let value = serde_yaml::from_str::<Option<Strict>>(text)?;
    Ok(value.map_or(Value::Null, |Strict(value)| value))
}

/// Returns an error's message without the place, which is shown otherwise.
fn reason(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// A JSON value read from YAML: key order kept, keys as they are written, the last of duplicate
/// keys wins (all are reported by their positions), and numbers JSON cannot hold stay text.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

fn float(value: f64) -> Value {
    let text = if value.is_nan() { ".nan" } else { ".inf" };
    Number::from_f64(value).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Strict, E> {
        Ok(Strict(float(v as f64)))
    }

    fn visit_u128<E>(self, v: u128) -> Result<Strict, E> {
        Ok(Strict(float(v as f64)))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Strict, E> {
        Ok(Strict(float(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
        Ok(Strict(Value::String(v.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Strict(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let Strict(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Strict(Value::Object(map)))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Strict, A::Error> {
        Err(A::Error::custom("YAML tags are not used in recipes"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn codes(text: &str) -> Vec<String> {
        match parse(text.to_owned(), "x.yaml") {
            Ok(document) => document.problems.into_iter().map(|problem| problem.code).collect(),
            Err(problems) => problems.into_iter().map(|problem| problem.code).collect(),
        }
    }

    #[test]
    fn key_order_is_kept() {
        let document = parse("b: 1\na: 2\nc: {z: 1, y: 2}\n".to_owned(), "x.yaml").unwrap();
        assert_eq!(document.value.to_string(), r#"{"b":1,"a":2,"c":{"z":1,"y":2}}"#);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_key() {
        let document = parse("\u{feff}a: 1\n".to_owned(), "x.yaml").unwrap();
        assert_eq!(document.value, json!({"a": 1}));
    }

    #[test]
    fn scientific_notation_is_a_number_with_and_without_a_point() {
        let document = parse("a: 2e-4\nb: 2.0e-4\n".to_owned(), "x.yaml").unwrap();
        assert_eq!(document.value, json!({"a": 2e-4, "b": 2e-4}));
    }

    #[test]
    fn what_is_not_one_map_is_refused() {
        assert_eq!(codes(""), ["empty"]);
        assert_eq!(codes("# nothing\n"), ["empty"]);
        assert_eq!(codes("- a\n"), ["wrong-type"]);
        assert_eq!(codes("a: 1\n---\nb: 1\n"), ["yaml-documents"]);
        assert_eq!(codes("a: !x 1\n"), ["yaml-tag"]);
        assert_eq!(codes("[a]: 1\n"), ["yaml-key"]);
        assert_eq!(codes("a: 1\na: 2\n"), ["duplicate-key"]);
    }

    #[test]
    fn a_setting_is_a_scalar_a_flow_value_or_plain_text() {
        assert_eq!(setting("4"), Ok(json!(4)));
        assert_eq!(setting("true"), Ok(json!(true)));
        assert_eq!(setting(""), Ok(Value::Null));
        assert_eq!(setting("[a, 1]"), Ok(json!(["a", 1])));
        assert_eq!(setting("{a: 1}"), Ok(json!({"a": 1})));
        assert_eq!(setting("why: not"), Ok(json!("why: not")));
        assert_eq!(setting("#1"), Ok(json!("#1")));
        assert_eq!(setting("@x"), Ok(json!("@x")));
        assert_eq!(setting("\"4\""), Ok(json!("4")));
        assert!(setting("[a").is_err());
    }
}
