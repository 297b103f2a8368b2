//! Live progress on standard error: a bar on a terminal, one line a launch elsewhere.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    clock::Stopwatch,
    event::{Arm, Event, Outcome},
    plan::Cell,
    run::Observer,
};

use super::Printer;

/// A sink of events that draws them. It draws only when an event comes, so it never ticks inside a
/// timed step.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    quiet: bool,
    watch: Stopwatch,
    cached: u64,
    /// Metrics of the launch under way, for its closing line.
    highlights: Vec<String>,
    /// The latest step of a training under way.
    live: Vec<(&'static str, String)>,
    /// When its first progress was seen, and how far it was.
    began: Option<(f64, u64)>,
}

impl Progress {
    /// Returns progress that draws unless `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let plain = quiet || !Printer::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{bar:24} {pos}/{len} launches  {elapsed_precise} (about {eta} left)  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self {
            bar,
            plain,
            quiet,
            watch: Stopwatch::start(),
            cached: 0,
            highlights: Vec::new(),
            live: Vec::new(),
            began: None,
        }
    }

    /// Takes the bar away and says what was there already.
    pub fn finish(self) {
        let measured = self.bar.position();
        self.bar.finish_and_clear();
        if self.quiet {
            return;
        }
        let seconds = self.watch.elapsed().as_secs_f64();
        let line = match (measured, self.cached) {
            (0, 0) => "nothing was measured".to_owned(),
            (0, 1) => "the one cell is cached: nothing to measure".to_owned(),
            (0, cached) => format!("all {cached} cells are cached: nothing to measure"),
            (launches, 0) => format!("{launches} launches in {seconds:.1} s"),
            (launches, cached) => format!("{launches} launches in {seconds:.1} s, {cached} cells cached"),
        };
        Printer::stderr().note(&line);
    }

    /// Returns how long the rest of a workload takes at the pace it had so far.
    fn left(&mut self, done: u64, total: u64) -> Option<String> {
        let now = self.watch.elapsed().as_secs_f64();
        let (since, first) = *self.began.get_or_insert((now, done));
        let made = done.checked_sub(first).filter(|made| *made > 0)?;
        let seconds = (now - since) / made as f64 * total.saturating_sub(done) as f64;
        Some(format!("  {seconds:.0} s left"))
    }

    fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.plain {
            Printer::stderr().note(text);
        } else {
            self.bar.println(text);
        }
    }
}

impl Observer for Progress {
    fn cached(&mut self, _: &Cell) {
        self.cached += 1;
    }

    fn expect(&mut self, launches: u64) {
        self.bar.inc_length(launches);
    }

    fn event(&mut self, cell: &Cell, event: &Event) {
        match event {
            Event::LaunchStarted { arm, task, .. } => {
                self.highlights.clear();
                self.live.clear();
                self.began = None;
                let side = if *arm == Arm::Baseline { "baseline " } else { "" };
                self.bar.set_message(format!("{side}{task} {}", cell.label()));
            }
            Event::Progress { workload, done, total, .. } => {
                let live: String = self.live.iter().map(|(_, shown)| format!("  {shown}")).collect();
                let left = self.left(*done, *total).filter(|_| !live.is_empty()).unwrap_or_default();
                self.bar.set_message(format!("{workload} {done}/{total}{live}{left}  {}", cell.label()));
            }
            Event::Sample { sample, .. } if sample.step.is_some() => {
                let shown = match sample.metric.as_str() {
                    "train_loss" => ("loss", format!("loss {:.4}", sample.value)),
                    "train_learning_rate" => ("lr", format!("lr {:.2e}", sample.value)),
                    "train_tok_s" => ("tok_s", format!("{:.0} tokens/s", sample.value)),
                    "train_eval_nll" => ("eval", format!("held-out {:.4}", sample.value)),
                    _ => return,
                };
                self.live.retain(|(name, _)| *name != shown.0);
                self.live.push(shown);
                self.live
                    .sort_by_key(|(name, _)| ["loss", "eval", "lr", "tok_s"].iter().position(|known| known == name));
            }
            Event::Sample { sample, .. } if !sample.warmup && sample.step.is_none() => {
                let shown = match sample.metric.as_str() {
                    "decode_tok_s" => Some(format!("decode {:.1} tokens/s", sample.value)),
                    "prefill_tok_s" => Some(format!("prefill {:.1} tokens/s", sample.value)),
                    "perplexity" => Some(format!("perplexity {:.4}", sample.value)),
                    "train_loss" => Some(format!("loss {:.4}", sample.value)),
                    "train_eval_nll" => Some(format!("held-out {:.4}", sample.value)),
                    "train_tok_s" => Some(format!("training {:.0} tokens/s", sample.value)),
                    "verify_nmse" => Some(format!("kernel error {:.1e}", sample.value)),
                    _ => None,
                };
                if let Some(shown) = shown {
                    let name = shown.split(' ').next().unwrap_or_default().to_owned();
                    self.highlights.retain(|earlier| !earlier.starts_with(&name));
                    self.highlights.push(shown);
                }
            }
            Event::LaunchFinished { outcome, wall_ms, .. } => {
                self.bar.inc(1);
                let label = cell.label();
                let seconds = *wall_ms as f64 / 1000.0;
                match outcome {
                    Outcome::Complete if self.plain => {
                        let count = format!("[{}/{}]", self.bar.position(), self.bar.length().unwrap_or(0));
                        self.line(&format!("{count} {label}  {}  ({seconds:.1} s)", self.highlights.join("  ")));
                    }
                    Outcome::Complete => {}
                    Outcome::Failed { reason, .. } => self.line(&format!("failed: {label}: {reason}")),
                }
            }
            _ => {}
        }
    }
}
