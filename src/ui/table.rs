//! Tables as text. They fit the given width by leaving out the columns of least rank, and say which.
use comfy_table::{Cell, CellAlignment, ContentArrangement, TableComponent};

use crate::report::tables::{Align, Column, Entry, Table, Tone};

/// How a table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStyle {
    /// Columns of the terminal; absent for no limit (a pipe or a file).
    pub width: Option<u16>,
    /// Whether lines may be drawn with characters outside ASCII.
    pub unicode: bool,
    /// Whether tones are shown as colours.
    pub color: bool,
}

/// Wraps a toned text while it is laid out: invisible and of no width, so that columns stay aligned.
const MARKS: [(Tone, char, &str); 4] = [
    (Tone::Good, '\u{2061}', "\u{1b}[32m"),
    (Tone::Bad, '\u{2062}', "\u{1b}[31m"),
    (Tone::Doubtful, '\u{2063}', "\u{1b}[33m"),
    (Tone::Faint, '\u{2064}', "\u{1b}[2m"),
];
const MARK_END: char = '\u{2060}';
const COLOR_END: &str = "\u{1b}[0m";

/// Returns the table as text, each line ended by a newline. Without `color` it has no escape codes.
#[must_use]
pub fn render(table: &Table, style: TableStyle) -> String {
    let mut kept: Vec<usize> = (0..table.columns.len()).collect();
    let mut body = lay_out(table, &kept, style, None);
    while let Some(limit) = style.width.filter(|&limit| widest_line(&body) > usize::from(limit)) {
        let rank_of = |at: usize| table.columns[at].rank;
        let worst = kept.iter().copied().filter(|&at| rank_of(at) > 0).max_by_key(|&at| (rank_of(at), at));
        let Some(worst) = worst else {
            body = lay_out(table, &kept, style, Some(limit));
            break;
        };
        kept.retain(|&at| at != worst);
        body = lay_out(table, &kept, style, None);
    }
    let mut text = String::new();
    if !table.title.is_empty() {
        text.push_str(&plain_if(&table.title, style));
        text.push('\n');
    }
    if !table.rows.is_empty() {
        for line in body.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    for note in table.notes.iter().cloned().chain(left_out(table, &kept)) {
        text.push_str(&plain_if(&note, style));
        text.push('\n');
    }
    paint(text)
}

fn left_out(table: &Table, kept: &[usize]) -> Option<String> {
    let gone: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(at, _)| !kept.contains(at))
        .map(|(_, column)| column.heading.replace('\n', " "))
        .collect();
    (!gone.is_empty()).then(|| format!("left out for lack of room: {}", gone.join(", ")))
}

fn widest_line(text: &str) -> usize {
    text.lines().map(|line| line.chars().filter(|c| !is_mark(*c)).count()).max().unwrap_or(0)
}

fn is_mark(c: char) -> bool {
    c == MARK_END || MARKS.iter().any(|(_, mark, _)| *mark == c)
}

/// Returns the text in ASCII where nothing else may be drawn.
fn plain_if(text: &str, style: TableStyle) -> String {
    if style.unicode { text.to_owned() } else { text.replace('±', "+-").replace('·', "|") }
}

fn marked(entry: &Entry, style: TableStyle) -> String {
    let text = plain_if(&entry.text, style);
    match MARKS.iter().find(|(tone, _, _)| *tone == entry.tone) {
        Some((_, mark, _)) if style.color && !text.contains('\n') => format!("{mark}{text}{MARK_END}"),
        _ => text,
    }
}

fn lay_out(table: &Table, kept: &[usize], style: TableStyle, limit: Option<u16>) -> String {
    let mut drawn = comfy_table::Table::new();
    drawn.load_preset(comfy_table::presets::NOTHING);
    let (line, joint) = if style.unicode { ('─', '─') } else { ('-', '-') };
    drawn.set_style(TableComponent::HeaderLines, line).set_style(TableComponent::MiddleHeaderIntersections, joint);
    if let Some(limit) = limit {
        drawn.set_content_arrangement(ContentArrangement::Dynamic).set_width(limit);
    }
    let align = |column: &Column| match column.align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    };
    let heading = |&at: &usize| {
        let column = &table.columns[at];
        Cell::new(plain_if(&column.heading, style)).set_alignment(align(column))
    };
    drawn.set_header(kept.iter().map(heading));
    for row in &table.rows {
        let cell = |&at: &usize| {
            let text = row.get(at).map(|entry| marked(entry, style)).unwrap_or_default();
            Cell::new(text).set_alignment(align(&table.columns[at]))
        };
        drawn.add_row(kept.iter().map(cell));
    }
    let columns = drawn.column_iter_mut().len();
    for (at, column) in drawn.column_iter_mut().enumerate() {
        column.set_padding((0, if at + 1 < columns { 2 } else { 0 }));
    }
    drawn.to_string()
}

fn paint(mut text: String) -> String {
    for (_, mark, color) in MARKS {
        text = text.replace(mark, color);
    }
    text.replace(MARK_END, COLOR_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: TableStyle = TableStyle { width: None, unicode: true, color: false };

    fn table() -> Table {
        Table {
            title: "smoke: pico · q8_0".to_owned(),
            columns: vec![
                Column::text("cell", 0),
                Column::number("speed\ntokens/s", 0),
                Column::number("memory\nMiB", 4),
            ],
            rows: vec![
                vec!["avx2".into(), Entry::new("38.2 ±1.1", Tone::Good), "1,234".into()],
                vec!["reference".into(), "7.0 ±0.2".into(), "987".into()],
            ],
            notes: vec!["n=5".to_owned()],
        }
    }

    #[test]
    fn numbers_stand_right_and_no_line_ends_in_blanks() {
        insta::assert_snapshot!(render(&table(), WIDE), @"
        smoke: pico · q8_0
        cell            speed   memory
                     tokens/s      MiB
        ──────────────────────────────
        avx2        38.2 ±1.1    1,234
        reference    7.0 ±0.2      987
        n=5
        ");
    }

    #[test]
    fn narrow_terminals_lose_columns_of_least_rank_and_are_told() {
        let text = render(&table(), TableStyle { width: Some(24), ..WIDE });
        assert!(!text.contains("1,234"), "{text}");
        assert!(text.contains("left out for lack of room: memory MiB"), "{text}");
    }

    #[test]
    fn ascii_is_ascii() {
        let text = render(&table(), TableStyle { unicode: false, ..WIDE });
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains("38.2 +-1.1"));
    }

    #[test]
    fn colour_changes_nothing_but_escape_codes() {
        let coloured = render(&table(), TableStyle { color: true, ..WIDE });
        assert!(coloured.contains("\u{1b}[32m38.2 ±1.1\u{1b}[0m"), "{coloured:?}");
        let stripped = coloured.replace("\u{1b}[32m", "").replace(COLOR_END, "");
        assert_eq!(stripped, render(&table(), WIDE));
        assert!(!render(&table(), WIDE).contains('\u{1b}'));
    }

    #[test]
    fn an_empty_table_is_its_notes() {
        let empty = Table { rows: Vec::new(), notes: vec!["no runs stored".to_owned()], ..table() };
        assert_eq!(render(&empty, WIDE), "smoke: pico · q8_0\nno runs stored\n");
    }
}
