//! What Python's Jinja prints where minijinja would print otherwise.
use minijinja::{Error, ErrorKind, Output, State, Value, value::Kwargs, value::ValueKind};
use serde_json::Value as Json;

use super::MAX_DEPTH;

/// Writes what `{{ value }}` shows.
pub(super) fn write(out: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let result = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&text(value)?),
    };
    result.map_err(|error| Error::new(ErrorKind::WriteFailure, "the text cannot be written").with_source(error))
}

/// Most values in one that is shown, and units of 64 bytes of text in them.
const MOST_SHOWN: usize = 1 << 20;

/// Checks that a value can be walked: a few instructions make lists of themselves, doubled or nested at
/// every turn, that no fuel pays for when they are shown.
fn check_size(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    let size = 1 + value.as_str().map_or(0, str::len) / 64;
    *left = left.checked_sub(size).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && value.kind() != ValueKind::Seq {
        return Ok(());
    }
    let depth = depth.checked_sub(1).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, "recursion limit exceeded by a value of lists in lists")
    })?;
    for item in value.try_iter()? {
        check_size(&item, depth, left)?;
        if is_map {
            check_size(&value.get_item(&item)?, depth, left)?;
        }
    }
    Ok(())
}

/// Returns `str(value)`.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    check_size(value, MAX_DEPTH, &mut { MOST_SHOWN })?;
    Ok(match serde_json::to_value(value) {
        Ok(json) if is_plain(value) => {
            let mut out = String::new();
            repr(&json, &mut out);
            out
        }
        _ => value.to_string(),
    })
}

fn is_plain(value: &Value) -> bool {
    use ValueKind::{Bool, Map, None, Number, Seq, String};
    matches!(value.kind(), None | Bool | Number | String | Seq | Map)
}

/// Appends `repr(value)`.
fn repr(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("None"),
        Json::Bool(true) => out.push_str("True"),
        Json::Bool(false) => out.push_str("False"),
        Json::Number(number) => push_number(number, out),
        Json::String(text) => repr_text(text, out),
        Json::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            out.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr_text(key, out);
                out.push_str(": ");
                repr(value, out);
            }
            out.push('}');
        }
    }
}

fn repr_text(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_ascii_control() => push(out, format_args!("\\x{:02x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push(quote);
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.push_str(&arguments.to_string());
}

/// Appends a number as Python writes it: floats in the shortest form that reads back, with an exponent below 1e-4
/// and from 1e16.
fn push_number(number: &serde_json::Number, out: &mut String) {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return push(out, format_args!("{number}"));
    };
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
        push(out, format_args!("{digits}e{sign}{exponent:0>2}"));
    } else {
        push(out, format_args!("{float:?}"));
    }
}

/// How `json.dumps` lays out.
struct Layout {
    ensure_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// The filter `tojson` as transformers defines it: `json.dumps` with its parameters, without escaping HTML.
#[expect(clippy::needless_pass_by_value, reason = "minijinja gives a filter its arguments so")]
pub(super) fn to_json(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let wrong = |problem: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"));
    let indent = match arguments.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() || value.is_undefined() => None,
        Some(value) => match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                let width = usize::try_from(value).map_err(|error| wrong("indent is no number").with_source(error))?;
                Some(" ".repeat(width.min(64)))
            }
        },
    };
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (between_items, after_key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some([items, key]) => (items.clone(), key.clone()),
        Some(_) => return Err(wrong("separators are two")),
    };
    let layout = Layout {
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        between_items,
        after_key,
    };
    arguments.assert_all_used()?;
    if value.is_undefined() {
        return Err(wrong("the value is undefined"));
    }
    check_size(value, MAX_DEPTH, &mut { MOST_SHOWN })?;
    let json = serde_json::to_value(value).map_err(|error| wrong(&error.to_string()))?;
    let mut out = String::new();
    layout.push(&json, 0, &mut out);
    Ok(out)
}

impl Layout {
    fn push(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) => push_number(number, out),
            Json::String(text) => self.push_text(text, out),
            Json::Array(items) => {
                self.push_list(['[', ']'], items.iter(), depth, out, |item, out| self.push(item, depth + 1, out));
            }
            Json::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.push_list(['{', '}'], fields.into_iter(), depth, out, |(key, value), out| {
                    self.push_text(key, out);
                    out.push_str(&self.after_key);
                    self.push(value, depth + 1, out);
                });
            }
        }
    }

    fn push_list<T>(
        &self,
        brackets: [char; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        push: impl Fn(T, &mut String),
    ) {
        let empty = items.len() == 0;
        out.push(brackets[0]);
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push_str(&self.between_items);
            }
            self.break_line(depth + 1, out);
            push(item, out);
        }
        if !empty {
            self.break_line(depth, out);
        }
        out.push(brackets[1]);
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn push_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                letter if letter < ' ' || self.ensure_ascii && letter >= '\u{7f}' => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        push(out, format_args!("\\u{unit:04x}"));
                    }
                }
                letter => out.push(letter),
            }
        }
        out.push('"');
    }
}
