//! Files on their way: a bar of bytes on a terminal, a line at each beginning and end elsewhere.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::Stopwatch;

use super::Printer;

/// Shows how files come: from the hub, or out of a generator.
pub struct Transfer {
    bar: ProgressBar,
    plain: bool,
    quiet: bool,
    what: String,
    begun: u64,
    watch: Stopwatch,
}

impl Transfer {
    /// Returns one that draws unless `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let plain = quiet || !Printer::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{bar:24} {bytes}/{total_bytes}  {bytes_per_sec} (about {eta} left)  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self { bar, plain, quiet, what: String::new(), begun: 0, watch: Stopwatch::start() }
    }

    /// Says something in a line.
    pub fn note(&self, line: &str) {
        if self.quiet {
            return;
        }
        if self.plain {
            Printer::stderr().note(line);
        } else {
            self.bar.println(line);
        }
    }

    /// Begins a file, of which `done` bytes are there.
    pub fn begin(&mut self, what: &str, done: u64, total: u64) {
        what.clone_into(&mut self.what);
        self.begun = done;
        self.watch = Stopwatch::start();
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.reset_eta();
        self.bar.set_message(self.what.clone());
        if self.plain {
            let from = if done > 0 { format!(" from byte {done} on") } else { String::new() };
            self.note(&format!("{what}: {total} bytes{from} ..."));
        }
    }

    /// Moves on.
    pub fn advance(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Ends a file.
    pub fn end(&self) {
        let bytes = self.bar.length().unwrap_or(0).saturating_sub(self.begun) as f64;
        let seconds = self.watch.elapsed().as_secs_f64();
        let line = format!("{}: done in {seconds:.1} s ({:.0} MB/s)", self.what, bytes / 1e6 / seconds.max(1e-3));
        self.note(&line);
        self.bar.set_draw_target(if self.plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(8)
        });
        self.bar.finish_and_clear();
    }
}
