//! Walks the events of a YAML text once, within limits, and notes where everything stands.
use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::words::explanation;
use super::{Entry, MAX_PROBLEMS, Range, Scan, Spans};
use crate::diag::Diagnostic;
use crate::recipe::path::KeyPath;

/// Levels of nesting allowed; recipes need about seven.
const MAX_DEPTH: usize = 32;
/// Values allowed once every alias is expanded.
const MAX_VALUES: usize = 20_000;
/// Characters of the longest key. Together the three limits bound the memory positions take.
const MAX_KEY: usize = 128;

/// Returns where everything in `text` stands.
pub(crate) fn scan(file: &str, text: &str) -> Scan {
    let mut scanner = Scanner {
        spans: Spans::of_lines(file, text),
        problems: Vec::new(),
        frames: Vec::new(),
        anchors: BTreeMap::new(),
        values: 0,
        documents: 0,
    };
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => scanner.take(event, span),
            Err(error) => Err(scanner.explain(&error)),
        };
        if let Err(fatal) = step {
            let mut problems = scanner.problems;
            problems.push(*fatal);
            return Scan { spans: scanner.spans, problems, fatal: true };
        }
    }
    Scan { spans: scanner.spans, problems: scanner.problems, fatal: false }
}

/// An open map or list.
struct Frame {
    path: KeyPath,
    anchor: usize,
    /// Values seen before it, to know how many it holds.
    values_before: usize,
    /// The deepest level reached inside, counted from here.
    height: usize,
    /// Where its content starts.
    first: Option<Range>,
    kind: Kind,
}

enum Kind {
    Map { seen: BTreeSet<String>, pending: Option<String> },
    List { next: usize },
}

/// What an anchor stands for, once expanded.
#[derive(Clone, Copy)]
struct Size {
    values: usize,
    height: usize,
}

struct Scanner {
    spans: Spans,
    problems: Vec<Diagnostic>,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Size>,
    values: usize,
    documents: usize,
}

type Step = Result<(), Box<Diagnostic>>;

impl Scanner {
    fn take(&mut self, event: Event<'_>, span: Span) -> Step {
        let tag = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => tag.as_deref(),
            _ => None,
        };
        if let Some(tag) = tag {
            return self.fatal(
                span,
                "yaml-tag",
                format!("the YAML tag `{tag}` is not used in recipes"),
                "leave it out",
            );
        }
        match event {
            Event::DocumentStart(_) => self.document(span),
            Event::Scalar(text, style, anchor, _) => {
                const ONE: Size = Size { values: 1, height: 0 };
                self.anchors.insert(anchor, ONE);
                let range = range(&span, &text, style);
                if !self.takes_key(&text, range) {
                    return self.leaf(ONE, range, span);
                }
                if text.chars().count() > MAX_KEY {
                    return self.fatal(span, "yaml-key", format!("a key of more than {MAX_KEY} characters"), "");
                }
                self.count(ONE, span)
            }
            Event::Alias(anchor) => {
                let Some(size) = self.anchors.get(&anchor).copied() else {
                    return self.fatal(span, "yaml-alias", "this alias stands inside the value it repeats", "");
                };
                self.key_must_be_text(span)?;
                self.leaf(size, line_range(&span), span)
            }
            Event::SequenceStart(anchor, _) => self.open(span, anchor, Kind::List { next: 0 }),
            Event::MappingStart(anchor, _) => {
                self.open(span, anchor, Kind::Map { seen: BTreeSet::new(), pending: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close(span);
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn document(&mut self, span: Span) -> Step {
        self.documents += 1;
        if self.documents > 1 {
            let hint = "put the second recipe into a file of its own";
            return self.fatal(span, "yaml-documents", "a second document starts here; a file holds one recipe", hint);
        }
        Ok(())
    }

    /// Takes a scalar as a key where one is due, and says whether it did.
    fn takes_key(&mut self, text: &str, range: Range) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        let Kind::Map { seen, pending: pending @ None } = &mut frame.kind else { return false };
        let (path, fresh) = (frame.path.key(text), seen.insert(text.to_owned()));
        *pending = Some(text.to_owned());
        frame.first.get_or_insert(range);
        if fresh {
            self.spans.entries.entry(path).or_default().key = Some(range);
            return true;
        }
        let first = self.spans.entries.get(&path).and_then(|entry| entry.key).map_or(1, |first| first.line);
        let within = path.parent().filter(|parent| *parent != KeyPath::default());
        let within = within.map_or_else(String::new, |parent| format!(" in `{parent}`"));
        if self.problems.len() >= MAX_PROBLEMS {
            return true;
        }
        self.problems.push(
            Diagnostic::error("duplicate-key", format!("duplicate key `{text}`{within}"))
                .at(Some(self.spans.place(range)))
                .hint(format!("it is first set on line {first}; keep one of the two")),
        );
        true
    }

    fn key_must_be_text(&self, span: Span) -> Step {
        match self.frames.last() {
            Some(Frame { kind: Kind::Map { pending: None, .. }, .. }) => {
                self.fatal(span, "yaml-key", "a key must be plain text", "write `key: value`")
            }
            _ => Ok(()),
        }
    }

    /// Returns the path of the value that starts now, and moves its parent on.
    fn next_path(&mut self) -> KeyPath {
        match self.frames.last_mut() {
            None => KeyPath::default(),
            Some(Frame { path, kind: Kind::Map { pending, .. }, .. }) => path.key(pending.take().unwrap_or_default()),
            Some(Frame { path, kind: Kind::List { next }, .. }) => {
                *next += 1;
                path.index(*next - 1)
            }
        }
    }

    fn leaf(&mut self, size: Size, range: Range, span: Span) -> Step {
        let path = self.next_path();
        self.spans.entries.entry(path).or_default().value = Some(range);
        if let Some(frame) = self.frames.last_mut() {
            frame.first.get_or_insert(range);
        }
        self.count(size, span)
    }

    /// Adds a value of this size below the open frames.
    fn count(&mut self, size: Size, span: Span) -> Step {
        self.values = self.values.saturating_add(size.values);
        if self.values > MAX_VALUES {
            let hint = "aliases that repeat aliases grow fast; write the values out";
            return self.fatal(span, "yaml-size", format!("the recipe expands to more than {MAX_VALUES} values"), hint);
        }
        let open = self.frames.len();
        if open + size.height > MAX_DEPTH {
            return self.fatal(span, "yaml-depth", format!("nested more than {MAX_DEPTH} levels deep"), "");
        }
        for (level, frame) in self.frames.iter_mut().enumerate() {
            frame.height = frame.height.max(open - level + size.height);
        }
        Ok(())
    }

    fn open(&mut self, span: Span, anchor: usize, kind: Kind) -> Step {
        self.key_must_be_text(span)?;
        let values_before = self.values;
        let path = self.next_path();
        self.count(Size { values: 1, height: 0 }, span)?;
        let flow = span.end.index() > span.start.index();
        if flow {
            self.spans.entries.entry(path.clone()).or_default().value = Some(line_range(&span));
        }
        self.frames.push(Frame { path, anchor, values_before, height: 0, first: None, kind });
        Ok(())
    }

    fn close(&mut self, span: Span) {
        let flow_end = span.end.index() > span.start.index();
        let Some(Frame { path, anchor, values_before, height, first, .. }) = self.frames.pop() else { return };
        if anchor != 0 {
            self.anchors.insert(anchor, Size { values: self.values - values_before, height: height + 1 });
        }
        if let (Some(parent), Some(first)) = (self.frames.last_mut(), first) {
            parent.first.get_or_insert(first);
        }
        // A block without a key of its own, such as a list's item, is shown by its first line.
        let entry = self.spans.entries.entry(path).or_insert(Entry { key: None, value: first });
        if let Some(range) = &mut entry.value
            && flow_end
        {
            let to_line_end = self.spans.lines.get(range.line - 1).map_or(0, |line| line.chars().count());
            let end = if span.end.line() == range.line { span.end.col() } else { to_line_end };
            range.length = end.saturating_sub(range.column).max(1);
        }
    }

    fn fatal(&self, span: Span, code: &str, message: impl Into<String>, hint: &str) -> Step {
        let diagnostic = Diagnostic::error(code, message).at(Some(self.spans.place(line_range(&span))));
        Err(Box::new(if hint.is_empty() { diagnostic } else { diagnostic.hint(hint) }))
    }

    /// Returns the parser's complaint in plain words.
    fn explain(&self, error: &ScanError) -> Box<Diagnostic> {
        let (line, column) = (error.marker().line(), error.marker().col());
        let source = self.spans.lines.get(line.saturating_sub(1)).map_or("", String::as_str);
        let indentation = source.len() - source.trim_start().len();
        let tab = source.get(..indentation).and_then(|blank| blank.find('\t'));
        let info = error.info();
        let words = explanation(info);
        let (column, message, hint) = match (tab, words) {
            (Some(tab), _) => {
                (tab, "a tab in the indentation, where YAML allows only spaces", "replace the tab with spaces")
            }
            (None, Some((message, hint))) => (column, message, hint),
            (None, None) => (column, info, ""),
        };
        let diagnostic = Diagnostic::error("yaml-syntax", message).at(Some(self.spans.point(line, column, 1)));
        Box::new(if hint.is_empty() { diagnostic } else { diagnostic.hint(hint) })
    }
}

/// Returns the first line of a scalar.
fn range(span: &Span, text: &str, style: ScalarStyle) -> Range {
    let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
    if block || span.end.line() != span.start.line() {
        let first = text.lines().next().map_or(1, |line| line.chars().count());
        return at(span.start, first);
    }
    line_range(span)
}

fn line_range(span: &Span) -> Range {
    let one_line = span.end.line() == span.start.line();
    at(span.start, if one_line { span.end.col().saturating_sub(span.start.col()) } else { 1 })
}

fn at(start: Marker, length: usize) -> Range {
    Range { line: start.line(), column: start.col(), length: length.max(1) }
}
