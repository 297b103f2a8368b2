//! Draws diagnostics in rustc's style: the message, the place, the line, a caret, the way out.
use crate::diag::{Diagnostic, Place, Severity};

/// Columns of source shown; longer lines are cut around the caret.
const MAX_COLUMNS: usize = 120;
/// Columns kept to the left of the caret when a line is cut.
const KEPT_LEFT: usize = 40;
const TAB: &str = "    ";

/// Returns diagnostics as text, with an empty line between two and a newline at the end.
///
/// Control characters and escape sequences in names and sources come out as visible text, so a
/// hostile file cannot drive the terminal.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], color: bool) -> String {
    let style = Style { color };
    diagnostics.iter().map(|diagnostic| style.diagnostic(diagnostic)).collect::<Vec<_>>().join("\n")
}

#[derive(Clone, Copy)]
struct Style {
    color: bool,
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const CYAN: &str = "1;36";
const BOLD: &str = "1";

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn diagnostic(self, diagnostic: &Diagnostic) -> String {
        let Diagnostic { severity, code, message, place, hint } = diagnostic;
        let (word, hue) = match severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let head = self.paint(hue, &format!("{word}[{}]", visible(code)));
        let mut text = format!("{head}{}\n", self.paint(BOLD, &format!(": {}", visible(message))));
        let gutter = place.as_ref().map_or(0, |place| place.line.to_string().len());
        if let Some(place) = place {
            text += &self.place(place, gutter, hue);
        }
        if let Some(hint) = hint {
            let indent = " ".repeat(gutter);
            let (equals, help) = (self.paint(BLUE, "="), self.paint(CYAN, "help"));
            text.extend([indent.as_str(), " ", &equals, " ", &help, ": ", &visible(hint), "\n"]);
        }
        text
    }

    fn place(self, place: &Place, gutter: usize, hue: &str) -> String {
        let Place { file, line, column, length, source } = place;
        let indent = " ".repeat(gutter);
        let (bar, arrow) = (self.paint(BLUE, "|"), self.paint(BLUE, "-->"));
        let number = self.paint(BLUE, &line.to_string());
        let window = Window::around(source, column.saturating_sub(1), *length);
        let carets = self.paint(hue, &"^".repeat(window.carets));
        let blank = " ".repeat(window.before);
        format!(
            "{indent}{arrow} {}:{line}:{column}\n{indent} {bar}\n{number} {bar} {}\n{indent} {bar} {blank}{carets}\n",
            visible(file),
            window.text
        )
    }
}

/// The part of a line that is shown, and where the caret stands under it, in columns.
struct Window {
    text: String,
    before: usize,
    carets: usize,
}

impl Window {
    /// Returns the part around `length` characters from the 0-based character `start`.
    fn around(source: &str, start: usize, length: usize) -> Self {
        let cells: Vec<(String, usize)> = source.chars().map(cell).collect();
        let columns =
            |from: usize, to: usize| -> usize { cells.iter().take(to).skip(from).map(|(_, width)| width).sum() };
        let start = start.min(cells.len());
        let end = start.saturating_add(length.max(1)).min(cells.len());
        let mut first = 0;
        if columns(0, cells.len()) > MAX_COLUMNS && columns(0, end) > MAX_COLUMNS - KEPT_LEFT {
            while first < start && columns(first, start) > KEPT_LEFT {
                first += 1;
            }
        }
        let mut last = first;
        let mut used = 0;
        while let Some((_, width)) = cells.get(last).filter(|(_, width)| used + width <= MAX_COLUMNS) {
            used += width;
            last += 1;
        }
        let (left, right) = (if first > 0 { "…" } else { "" }, if last < cells.len() { "…" } else { "" });
        let shown: String = cells[first..last].iter().map(|(text, _)| text.as_str()).collect();
        Self {
            text: format!("{left}{shown}{right}").trim_end().to_owned(),
            before: columns(first, start) + left.chars().count(),
            carets: columns(start, end.min(last)).max(1),
        }
    }
}

/// Returns how a character is shown and how many columns that takes.
fn cell(c: char) -> (String, usize) {
    if c == '\t' {
        return (TAB.to_owned(), TAB.len());
    }
    let text = shown(c);
    let width = text.chars().map(width).sum();
    (text, width)
}

/// Returns a text in which nothing can move the cursor, change colours or the reading direction.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { " ".to_owned() } else { shown(c) }).collect()
}

/// Returns a character, or its code point when showing it would do something else than show it.
fn shown(c: char) -> String {
    let invisible = matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).map_or_else(String::new, String::from),
        '\u{7f}' => '\u{2421}'.to_string(),
        c if c.is_control() || invisible => format!("<U+{:04X}>", u32::from(c)),
        c => c.to_string(),
    }
}

/// Returns the terminal columns of a printable character (Unicode TR 11: wide is two; combining
/// marks take none).
fn width(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{483}'..='\u{489}'
        | '\u{591}'..='\u{5bd}'
        | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{231a}'..='\u{231b}'
        | '\u{23e9}'..='\u{23ec}'
        | '\u{2614}'..='\u{2615}'
        | '\u{2648}'..='\u{2653}'
        | '\u{26a1}'
        | '\u{2705}'
        | '\u{270a}'..='\u{270b}'
        | '\u{2728}'
        | '\u{274c}'
        | '\u{2753}'..='\u{2757}'
        | '\u{2795}'..='\u{2797}'
        | '\u{2b1b}'..='\u{2b1c}'
        | '\u{2b50}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{33ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{a000}'..='\u{a4cf}'
        | '\u{a960}'..='\u{a97f}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{1fa70}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, column: usize, length: usize) -> String {
        let place = Place { file: "x.yaml".to_owned(), line: 14, column, length, source: source.to_owned() };
        render(&[Diagnostic::error("k", "m").at(Some(place))], false)
    }

    /// Returns the text that stands above the carets, when every character takes one column.
    fn underlined(text: &str) -> String {
        let lines: Vec<_> = text.lines().collect();
        let (source, carets) = (lines[3], lines[4]);
        let start = carets.chars().position(|c| c == '^').unwrap();
        source.chars().skip(start).take(carets.chars().filter(|c| *c == '^').count()).collect()
    }

    #[test]
    fn a_diagnostic_has_message_place_line_caret_and_help() {
        let place = Place {
            file: "recipes/x.yaml".to_owned(),
            line: 14,
            column: 7,
            length: 13,
            source: "      max_new_token: 128".to_owned(),
        };
        let message = "unknown key `max_new_token` in `workloads[0].decode`";
        let diagnostic =
            Diagnostic::error("unknown-key", message).at(Some(place)).hint("did you mean `max_new_tokens`?");
        let expected = "\
error[unknown-key]: unknown key `max_new_token` in `workloads[0].decode`
  --> recipes/x.yaml:14:7
   |
14 |       max_new_token: 128
   |       ^^^^^^^^^^^^^
   = help: did you mean `max_new_tokens`?
";
        assert_eq!(render(&[diagnostic], false), expected);
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_under_its_text() {
        assert_eq!(underlined(&at("\t\tkey: 1", 3, 3)), "key");
        let wide = at("名前: 値", 5, 1);
        assert!(wide.ends_with("   |       ^^\n"), "{wide}");
        let combining = at("e\u{301}: x", 5, 1);
        assert!(combining.ends_with("   |    ^\n"), "{combining}");
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let source = format!("{}target{}", "a".repeat(5000), "b".repeat(5000));
        let text = at(&source, 5001, 6);
        assert_eq!(underlined(&text), "target");
        assert!(text.lines().all(|line| line.chars().count() < 140));
        assert_eq!(underlined(&at(&source, 1, 3)), "aaa");
        assert!(at(&source, 3, 9000).lines().all(|line| line.chars().count() < 140));
    }

    #[test]
    fn a_hostile_source_cannot_drive_the_terminal() {
        let hostile = "\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{200b}\u{0}x\r";
        let place = Place { file: hostile.to_owned(), line: 1, column: 1, length: 1, source: hostile.to_owned() };
        let diagnostic = Diagnostic::error(hostile, hostile).at(Some(place)).hint(hostile);
        let text = render(&[diagnostic], false);
        assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}' || c == '\u{200b}')), "{text:?}");
    }

    #[test]
    fn a_place_outside_its_line_still_has_a_caret() {
        for (source, column, length) in [("", 1, 1), ("ab", 3, 1), ("ab", 40, 5), ("ab", 0, 0)] {
            assert!(at(source, column, length).contains('^'));
        }
        assert!(at("ab", 1, usize::MAX).contains("^^"));
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let place = Place { file: "x".to_owned(), line: 1, column: 1, length: 1, source: "a".to_owned() };
        let diagnostics = [Diagnostic::warning("k", "m").at(Some(place)).hint("h"), Diagnostic::error("e", "n")];
        let mut plain = String::new();
        let colored = render(&diagnostics, true);
        let mut rest = colored.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain += before;
            rest = after.split_once('m').unwrap().1;
        }
        assert_eq!(plain + rest, render(&diagnostics, false));
    }
}
