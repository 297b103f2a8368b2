//! Metadata values as bytes, in the types llama.cpp reads.
use super::{Value, WriteError};

/// Writes a text with its length before it.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The types of metadata that are written, by their numbers in files (ggml's `gguf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    U16 = 2,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    U64 = 10,
    I64 = 11,
}

/// Returns the type of values under a key; none if no type holds them all.
fn form(key: &str, values: &[Value]) -> Option<Form> {
    let all = |test: fn(&Value) -> bool| values.iter().all(test);
    if all(|value| matches!(value, Value::Text(_))) {
        // An empty list, too: those of token lists are the only ones that are met.
        return Some(Form::Text);
    }
    if all(|value| matches!(value, Value::Bool(_))) {
        return Some(Form::Bool);
    }
    if matches!(key, "split.no" | "split.count") && all(|value| value.as_u64().is_some_and(|n| n <= u16::MAX.into())) {
        return Some(Form::U16);
    }
    let small = |value: &Value| match value {
        Value::Unsigned(n) => i32::try_from(*n).is_ok(),
        Value::Signed(n) => i32::try_from(*n).is_ok(),
        _ => false,
    };
    if key == "tokenizer.ggml.token_type" && all(small) {
        return Some(Form::I32);
    }
    if all(|value| matches!(value, Value::Unsigned(_))) {
        let narrow = all(|value| value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()));
        return Some(if narrow { Form::U32 } else { Form::U64 });
    }
    if all(|value| matches!(value, Value::Signed(_) | Value::Unsigned(_))) {
        let fits = |value: &Value| match value {
            Value::Unsigned(n) => i64::try_from(*n).is_ok(),
            _ => true,
        };
        return all(fits).then(|| if all(small) { Form::I32 } else { Form::I64 });
    }
    all(|value| value.as_f64().is_some()).then_some(Form::F32)
}

/// Writes a value that [`form`] found to be of that type.
fn put(out: &mut Vec<u8>, form: Form, value: &Value) {
    let unsigned = value.as_u64().unwrap_or(0);
    let signed = match value {
        Value::Signed(n) => *n,
        _ => unsigned as i64,
    };
    match form {
        Form::U16 => out.extend_from_slice(&(unsigned as u16).to_le_bytes()),
        Form::U32 => out.extend_from_slice(&(unsigned as u32).to_le_bytes()),
        Form::U64 => out.extend_from_slice(&unsigned.to_le_bytes()),
        Form::I32 => out.extend_from_slice(&(signed as i32).to_le_bytes()),
        Form::I64 => out.extend_from_slice(&signed.to_le_bytes()),
        Form::F32 => out.extend_from_slice(&(value.as_f64().unwrap_or(f64::NAN) as f32).to_le_bytes()),
        Form::Bool => out.push(u8::from(value.as_bool().unwrap_or(false))),
        Form::Text => put_text(out, value.as_str().unwrap_or_default()),
    }
}

/// Writes the type and the value of an entry, whose key has been written.
pub(super) fn put_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), WriteError> {
    const LIST: u32 = 9;
    let wrong = || WriteError::List { key: key.to_owned() };
    if let Value::List(values) = value {
        let form = form(key, values).ok_or_else(wrong)?;
        out.extend_from_slice(&LIST.to_le_bytes());
        out.extend_from_slice(&(form as u32).to_le_bytes());
        out.extend_from_slice(&(values.len() as u64).to_le_bytes());
        for value in values {
            put(out, form, value);
        }
    } else {
        let form = form(key, std::slice::from_ref(value)).ok_or_else(wrong)?;
        out.extend_from_slice(&(form as u32).to_le_bytes());
        put(out, form, value);
    }
    Ok(())
}
