//! The plotted numbers as CSV (RFC 4180).

/// A table of text and numbers.
pub(super) struct Csv {
    text: String,
}

impl Csv {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut csv = Self { text: String::new() };
        csv.row(header.iter().map(|field| (*field).to_owned()));
        csv
    }

    pub(super) fn row(&mut self, fields: impl IntoIterator<Item = String>) {
        let quoted: Vec<String> = fields.into_iter().map(|field| quote(&field)).collect();
        self.text.push_str(&quoted.join(","));
        self.text.push('\n');
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Returns a number with all its digits, or nothing.
pub(super) fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_quotes_are_quoted() {
        let mut csv = Csv::new(&["cell", "value"]);
        csv.row(["decode(p128,n64) \"x\"".to_owned(), number(Some(0.1))]);
        assert_eq!(csv.finish(), "cell,value\n\"decode(p128,n64) \"\"x\"\"\",0.1\n");
    }
}
