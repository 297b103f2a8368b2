//! Texts with labels: JSON, JSON lines or CSV.
use serde_json::Value;

/// Names of the field with the text; the label's is `label`.
const TEXT: [&str; 2] = ["text", "sentence"];
const LABEL: &str = "label";
/// Longer fields of a CSV file are refused: a quote that never closes would swallow the rest.
const MAX_FIELD: usize = 1 << 20;

/// A text and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// The label, as it is written.
    pub label: String,
}

/// Why a file holds no texts with labels.
#[derive(Debug, thiserror::Error)]
pub enum LabelledError {
    /// A record that lacks something.
    #[error(
        "record {record}: {problem} (a record is {{\"text\": …, \"label\": …}} or a line of a CSV file with these columns)"
    )]
    Record {
        /// Which, from 1.
        record: usize,
        /// What is wrong.
        problem: String,
    },
    /// No JSON.
    #[error("no JSON array: {0}")]
    Json(#[source] serde_json::Error),
    /// No labels to choose from.
    #[error("{0} (labels are a JSON array of at least two texts, each once)")]
    Names(String),
    /// Nothing at all.
    #[error("it holds no records")]
    Empty,
    /// A label there is not.
    #[error("record {record}: {label:?} is none of the labels ({})", known.join(", "))]
    UnknownLabel {
        /// Which, from 1.
        record: usize,
        /// Its label.
        label: String,
        /// Those there are.
        known: Vec<String>,
    },
}

/// Returns the records of a file: a JSON array of objects, such objects line by line, or CSV with a header.
/// The text is called `text` or `sentence`.
///
/// # Errors
///
/// If it is none of these, a record lacks something, or there is none.
pub fn records(content: &str) -> Result<Vec<Labelled>, LabelledError> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let records = match content.trim_start().as_bytes().first() {
        Some(b'[') => {
            let values: Vec<Value> = serde_json::from_str(content).map_err(LabelledError::Json)?;
            (1..).zip(&values).map(|(record, value)| object(record, value)).collect::<Result<_, _>>()?
        }
        Some(b'{') => {
            let lines = content.lines().filter(|line| !line.trim().is_empty());
            let read = |(record, line): (usize, &str)| {
                let value = serde_json::from_str(line)
                    .map_err(|error| LabelledError::Record { record, problem: error.to_string() })?;
                object(record, &value)
            };
            (1..).zip(lines).map(read).collect::<Result<_, _>>()?
        }
        Some(_) => csv(content)?,
        None => Vec::new(),
    };
    if records.is_empty() { Err(LabelledError::Empty) } else { Ok(records) }
}

/// Returns the labels that a JSON array names.
///
/// # Errors
///
/// If it is none, or has less than two, an empty one, or one twice.
pub fn names(content: &str) -> Result<Vec<String>, LabelledError> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let names: Vec<String> = serde_json::from_str(content).map_err(LabelledError::Json)?;
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    if names.len() < 2 {
        return Err(LabelledError::Names(format!("{} labels leave no choice", names.len())));
    }
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() || names[..at].contains(name) {
            return Err(LabelledError::Names(format!("label {}, {name:?}, is empty or there twice", at + 1)));
        }
    }
    Ok(names)
}

/// Returns each record's label as its place among the known ones.
///
/// # Errors
///
/// If one is not among them.
pub fn places(records: &[Labelled], known: &[String]) -> Result<Vec<usize>, LabelledError> {
    let place = |(record, Labelled { label, .. }): (usize, &Labelled)| {
        known.iter().position(|other| other == label).ok_or_else(|| LabelledError::UnknownLabel {
            record,
            label: label.clone(),
            known: known.to_vec(),
        })
    };
    (1..).zip(records).map(place).collect()
}

fn object(record: usize, value: &Value) -> Result<Labelled, LabelledError> {
    let wrong = |problem: &str| LabelledError::Record { record, problem: problem.to_owned() };
    let text = TEXT.iter().find_map(|key| value.get(key)?.as_str()).ok_or_else(|| wrong("it has no `text`"))?;
    let label = match value.get(LABEL) {
        Some(Value::String(label)) => label.trim().to_owned(),
        Some(Value::Number(label)) => label.to_string(),
        _ => return Err(wrong("it has no `label`")),
    };
    Ok(Labelled { text: text.to_owned(), label })
}

fn csv(content: &str) -> Result<Vec<Labelled>, LabelledError> {
    let wrong = |record: usize, problem: &str| LabelledError::Record { record, problem: problem.to_owned() };
    let mut rows = rows(content)?.into_iter();
    let header = rows.next().unwrap_or_default();
    let column = |names: &[&str]| header.iter().position(|name| names.contains(&name.trim()));
    let text = column(&TEXT).ok_or_else(|| wrong(1, "the header names no `text`"))?;
    let label = column(&[LABEL]).ok_or_else(|| wrong(1, "the header names no `label`"))?;
    let read = |(record, row): (usize, Vec<String>)| match (row.get(text), row.get(label)) {
        (Some(text), Some(label)) if row.len() == header.len() => {
            Ok(Labelled { text: text.clone(), label: label.trim().to_owned() })
        }
        _ => Err(wrong(record, "it has not as many fields as the header")),
    };
    (1..).zip(rows).map(read).collect()
}

/// Returns the fields of a CSV file (RFC 4180): separated by commas, quoted where they hold one, a quote or
/// a line's end, quotes within doubled.
fn rows(content: &str) -> Result<Vec<Vec<String>>, LabelledError> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut letters) = (false, content.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            letter => field.push(letter),
        }
        if field.len() > MAX_FIELD {
            let problem = format!("a field is longer than {MAX_FIELD} bytes: is a quote not closed?");
            return Err(LabelledError::Record { record: rows.len(), problem });
        }
    }
    if quoted {
        return Err(LabelledError::Record { record: rows.len(), problem: "a quote is not closed".to_owned() });
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows.retain(|row| row.iter().any(|field| !field.trim().is_empty()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_json_lines_and_csv_say_the_same() {
        let array = r#"[{"label": "a b", "sentence": "one, \"two\"\n"}, {"text": "three", "label": 4}]"#;
        let lines =
            "{\"text\": \"one, \\\"two\\\"\\n\", \"label\": \"a b\"}\n\n{\"text\": \"three\", \"label\": \"4\"}\n";
        let csv = "label,id,sentence\r\na b,7,\"one, \"\"two\"\"\n\"\r\n4,8,three\r\n";
        let found = records(array).unwrap();
        let own = |text: &str, label: &str| Labelled { text: text.to_owned(), label: label.to_owned() };
        assert_eq!(found, [own("one, \"two\"\n", "a b"), own("three", "4")]);
        assert_eq!(records(lines).unwrap(), found);
        assert_eq!(records(csv).unwrap(), found);
        let known = ["4", "a b"].map(str::to_owned);
        assert_eq!(places(&found, &known).unwrap(), [1, 0]);
        let error = places(&found, &known[..1]).unwrap_err().to_string();
        assert!(error.contains("record 1") && error.contains("a b"), "{error}");
    }

    #[test]
    fn what_holds_no_labels_is_refused_with_its_place() {
        let wrong = [
            ("", "no records"),
            ("[", "JSON"),
            ("[3]", "record 1"),
            (r#"[{"text": "x", "label": "a"}, {"text": "x"}]"#, "record 2"),
            ("{\"text\": \"x\", \"label\": \"a\"}\n{", "record 2"),
            ("text,other\nx,a\n", "`label`"),
            ("text,label\nx,a\ny\n", "record 2"),
            ("text,label\n", "no records"),
        ];
        for (content, reason) in wrong {
            let error = records(content).unwrap_err().to_string();
            assert!(error.contains(reason), "{content:?}: {error}");
        }
        for (content, reason) in [("{}", "JSON"), ("[\"a\"]", "choice"), ("[\"a\", \"a\"]", "twice")] {
            let error = names(content).unwrap_err().to_string();
            assert!(error.contains(reason), "{content:?}: {error}");
        }
        let open = format!("text,label\n\"{}", "x".repeat(MAX_FIELD + 1));
        for open in [open.as_str(), "label,text\na,\"x\nb,y\n"] {
            assert!(records(open).unwrap_err().to_string().contains("quote"), "{open:?}");
        }
    }

    #[test]
    fn marks_of_byte_order_and_spaces_around_labels_are_left_out() {
        let same = ["text,label\nx, a \n", "[{\"text\": \"x\", \"label\": \" a \"}]"];
        for content in same.into_iter().flat_map(|content| [content.to_owned(), format!("\u{feff}{content}")]) {
            assert_eq!(records(&content).unwrap()[0].label, "a", "{content:?}");
        }
        assert_eq!(names("\u{feff}[\" a\", \"b\"]").unwrap(), ["a", "b"]);
    }
}
