//! Tables as data: what `ui` draws on a terminal.
mod comparison;
mod learning;
mod results;

pub use comparison::{comparison_table, differences_table, gate_table, verdicts_table};
pub use learning::learning_table;
pub use results::{BaselineCell, baselines_table, results_table, runs_table};

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// What a cell says besides its text; a drawing may show it as a colour, and must not need to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// Surely better, or a pass.
    Good,
    /// Surely worse, or a failure.
    Bad,
    /// Undecided.
    Doubtful,
    /// Less important.
    Faint,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What it says; lines are separated by newlines.
    pub text: String,
    /// What it means.
    pub tone: Tone,
}

impl Entry {
    /// Returns an entry with a tone.
    #[must_use]
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    fn missing() -> Self {
        Self::new("-", Tone::Faint)
    }
}

impl<T: Into<String>> From<T> for Entry {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading; lines are separated by newlines.
    pub heading: String,
    /// How it is set.
    pub align: Align,
    /// Columns with a greater number go first where there is no room; 0 stays.
    pub rank: u8,
}

impl Column {
    /// Returns a column of text.
    #[must_use]
    pub fn text(heading: impl Into<String>, rank: u8) -> Self {
        Self { heading: heading.into(), align: Align::Left, rank }
    }

    /// Returns a column of numbers.
    #[must_use]
    pub fn number(heading: impl Into<String>, rank: u8) -> Self {
        Self { heading: heading.into(), align: Align::Right, rank }
    }
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// A line above; empty for none.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, each as long as there are columns.
    pub rows: Vec<Vec<Entry>>,
    /// Lines below.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests;
