//! Progress of one long piece of work: a bar on a terminal, nothing elsewhere.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Printer;

/// Steps whose number is known.
pub struct Steps {
    bar: ProgressBar,
    quiet: bool,
}

impl Steps {
    /// Returns progress over so many steps, which draws unless `quiet`.
    #[must_use]
    pub fn new(quiet: bool, count: u64) -> Self {
        let hidden = quiet || !Printer::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        let bar = ProgressBar::with_draw_target(Some(count), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len}  {elapsed_precise}  {wide_msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self { bar, quiet }
    }

    /// Says which step begins.
    pub fn next(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something to the person who watches.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            Printer::stderr().note(line);
        }
    }
}
