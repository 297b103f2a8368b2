//! Where text leaves the program.
use std::io::{self, IsTerminal, Write};

use crate::{diag::Diagnostic, report::tables::Table};

use super::{
    diagnostics,
    table::{self, TableStyle},
};

/// One of the two standard streams.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    stream: Stream,
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    Stdout,
    Stderr,
}

impl Printer {
    /// Returns the printer of data.
    #[must_use]
    pub fn stdout() -> Self {
        Self { stream: Stream::Stdout }
    }

    /// Returns the printer of progress and diagnostics.
    #[must_use]
    pub fn stderr() -> Self {
        Self { stream: Stream::Stderr }
    }

    /// Returns whether colour is wanted: a terminal, and no `NO_COLOR` (<https://no-color.org>).
    #[must_use]
    pub fn color(self) -> bool {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        wanted && self.is_terminal()
    }

    /// Returns whether a person watches this stream.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self.stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        }
    }

    /// Prints text as it is.
    ///
    /// # Errors
    ///
    /// If the stream cannot be written, as when the reader of a pipe has left.
    pub fn text(self, text: &str) -> io::Result<()> {
        match self.stream {
            Stream::Stdout => io::stdout().lock().write_all(text.as_bytes()),
            Stream::Stderr => io::stderr().lock().write_all(text.as_bytes()),
        }
    }

    /// Prints text as it is and sends it off at once, for text that comes piece by piece.
    ///
    /// # Errors
    ///
    /// If the stream cannot be written, as when the reader of a pipe has left.
    pub fn stream(self, text: &str) -> io::Result<()> {
        self.text(text)?;
        match self.stream {
            Stream::Stdout => io::stdout().lock().flush(),
            Stream::Stderr => io::stderr().lock().flush(),
        }
    }

    /// Prints a value as indented JSON.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn json<T: serde::Serialize>(self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.text(&text)
    }

    /// Prints a table, fitted to the terminal when there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn table(self, table: &Table) -> io::Result<()> {
        let width = self.is_terminal().then(terminal_size::terminal_size).flatten().map(|(width, _)| width.0);
        self.text(&table::render(table, TableStyle { width, unicode: unicode(), color: self.color() }))
    }

    /// Prints diagnostics, if there are any.
    pub fn diagnostics(self, diagnostics: &[Diagnostic]) {
        if !diagnostics.is_empty() {
            self.best_effort(&diagnostics::render(diagnostics, self.color()));
        }
    }

    /// Prints one line for the person who watches.
    pub fn note(self, line: &str) {
        self.best_effort(&format!("{line}\n"));
    }

    /// Prints what nobody may be there to read: a closed standard error must not stop a run.
    fn best_effort(self, text: &str) {
        drop(self.text(text));
    }
}

/// Returns whether the locale can show more than ASCII; most can, and say so or say nothing.
fn unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_none_or(|locale| !matches!(locale.as_str(), "C" | "POSIX"))
}
