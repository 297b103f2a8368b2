//! Where every key and value of a YAML text stands, and what can be wrong before meaning: syntax,
//! duplicate keys, tags, several documents, and texts that are small only until they are expanded.
mod scan;
mod words;

use std::collections::BTreeMap;

pub(crate) use scan::scan;

use super::path::KeyPath;
use crate::diag::{Diagnostic, Place};

/// Problems reported at once; who has more than that has one.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// The part of a text that is meant, in 1-based lines and 0-based characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    line: usize,
    column: usize,
    length: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: Option<Range>,
    value: Option<Range>,
}

/// The places of a text's keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    file: String,
    lines: Vec<String>,
    entries: BTreeMap<KeyPath, Entry>,
}

/// Positions and the problems found on the way; `fatal` when the text has no usable value.
pub(crate) struct Scan {
    pub(crate) spans: Spans,
    pub(crate) problems: Vec<Diagnostic>,
    pub(crate) fatal: bool,
}

impl Spans {
    /// Returns spans that know the text's lines and nothing else.
    pub(crate) fn of_lines(file: &str, text: &str) -> Self {
        let lines = text.lines().map(str::to_owned).collect();
        Self { file: file.to_owned(), lines, entries: BTreeMap::new() }
    }

    /// Returns the place of a key, or else of its value.
    pub(crate) fn key(&self, path: &KeyPath) -> Option<Place> {
        let entry = self.entries.get(path)?;
        Some(self.place(entry.key.or(entry.value)?))
    }

    /// Returns the place of a value, or of its key where the value is a block over many lines.
    pub(crate) fn value(&self, path: &KeyPath) -> Option<Place> {
        let entry = self.entries.get(path)?;
        Some(self.place(entry.value.or(entry.key)?))
    }

    /// Returns a place by 1-based line and 0-based column.
    pub(crate) fn point(&self, line: usize, column: usize, length: usize) -> Place {
        self.place(Range { line, column, length })
    }

    fn place(&self, Range { line, column, length }: Range) -> Place {
        let source = self.lines.get(line.saturating_sub(1)).cloned().unwrap_or_default();
        Place { file: self.file.clone(), line: line.max(1), column: column + 1, length: length.max(1), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str, path: &str) -> (usize, usize, usize) {
        let scan = scan("x.yaml", text);
        assert!(!scan.fatal, "{:?}", scan.problems);
        let place = scan.spans.value(&KeyPath::parse(path).unwrap()).unwrap();
        (place.line, place.column, place.length)
    }

    #[test]
    fn values_and_keys_are_found_where_they_stand() {
        let text = "é: ünï\nkernels:\n  threads: 4\nworkloads:\n  - decode: {output_tokens: 8}\n  - prefill:\n";
        assert_eq!(place_of(text, "é"), (1, 4, 3));
        assert_eq!(place_of(text, "kernels"), (2, 1, 7));
        assert_eq!(place_of(text, "kernels.threads"), (3, 12, 1));
        assert_eq!(place_of(text, "workloads[0]"), (5, 5, 6));
        assert_eq!(place_of(text, "workloads[0].decode"), (5, 13, 18));
        assert_eq!(place_of(text, "workloads[0].decode.output_tokens"), (5, 29, 1));
        assert_eq!(place_of(text, "workloads[1]"), (6, 5, 7));
    }

    #[test]
    fn a_duplicate_key_is_shown_at_its_second_place() {
        let scan = scan("x.yaml", "a: 1\nb: {c: 1, c: 2}\na: 3\n");
        let found: Vec<_> =
            scan.problems.iter().map(|d| (d.message.as_str(), d.place.as_ref().unwrap().line)).collect();
        assert_eq!(found, [("duplicate key `c` in `b`", 2), ("duplicate key `a`", 3)]);
    }

    #[test]
    fn aliases_are_counted_as_what_they_stand_for() {
        let bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned()
            + &('b'..='h')
                .map(|c| format!("{c}: &{c} [{}]\n", format!("*{},", char::from(c as u8 - 1)).repeat(10)))
                .collect::<String>();
        let scan = scan("x.yaml", &bomb);
        assert!(scan.fatal);
        assert_eq!(scan.problems[0].code, "yaml-size");
        assert_eq!(scan.problems[0].place.as_ref().unwrap().line, 5);
    }

    #[test]
    fn nesting_through_aliases_counts_as_nesting() {
        let levels = (1..40).map(|level| format!("k{level}: &k{level} [*k{}]\n", level - 1));
        let text = "k0: &k0 [1]\n".to_owned() + &levels.collect::<String>();
        let scan = scan("x.yaml", &text);
        assert!(scan.fatal);
        assert_eq!(scan.problems[0].code, "yaml-depth");
    }

    #[test]
    fn an_alias_inside_its_own_value_is_refused() {
        assert_eq!(scan("x.yaml", "a: &a [*a]\n").problems[0].code, "yaml-alias");
    }
}
