//! A run being written: launches of one cell (and its baseline arm), journaled as they happen.
use std::path::Path;

use crate::{
    clock,
    event::{Arm, Event, Outcome, Sample},
    exit,
    host::Host,
    plan::{Cell, LaunchSpec, LaunchTask, PROTOCOL},
    recipe,
    results::{Manifest, RunFiles, RunKind, RunState, RunWriter, Store},
};

use super::{Interrupt, LaunchResult, Observer, RunError, child};

/// The folder inside a run's for what launches make beside measurements.
const ARTIFACTS: &str = "artifacts";

/// What every launch needs to know.
pub struct Context<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// This machine and build.
    pub host: &'a Host,
    /// The recipe as written.
    pub source_text: &'a str,
    /// What was asked of us by signals.
    pub interrupt: &'a Interrupt,
}

/// A run being written.
pub struct Session {
    /// The cell measured.
    pub cell: Cell,
    writer: RunWriter,
    failure: Option<(u8, String)>,
}

impl Session {
    /// Begins a new run of a cell.
    ///
    /// # Errors
    ///
    /// If its directory cannot be made.
    pub fn create(context: &Context<'_>, cell: &Cell, kind: RunKind) -> Result<Self, RunError> {
        let resolved_text = recipe::to_yaml(&cell.recipe).map_err(RunError::Resolved)?;
        let files = RunFiles { source_text: context.source_text, resolved_text: &resolved_text };
        let writer = context.store.create(cell, kind, files, context.host)?;
        Ok(Self { cell: cell.clone(), writer, failure: None })
    }

    /// Goes on with a run that was stopped.
    ///
    /// # Errors
    ///
    /// If another process is writing it, or its journal cannot be read.
    pub fn reopen(context: &Context<'_>, cell: &Cell, manifest: &Manifest) -> Result<Self, RunError> {
        let writer = context.store.reopen(manifest)?;
        Ok(Self { cell: cell.clone(), writer, failure: None })
    }

    /// Returns how many launches of a task finished well, those of earlier sessions included.
    #[must_use]
    pub fn finished(&self, task: LaunchTask) -> u32 {
        let finished = self.writer.finished_launches();
        u32::try_from(finished.iter().filter(|launch| launch.task == task.name()).count()).unwrap_or(u32::MAX)
    }

    /// Returns the run's writer, for what it has collected.
    #[must_use]
    pub fn writer(&self) -> &RunWriter {
        &self.writer
    }

    /// Returns exit code and reason of the launch that failed, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&(u8, String)> {
        self.failure.as_ref()
    }

    /// Runs one launch of `cell`, which is the session's own or its baseline.
    ///
    /// # Errors
    ///
    /// If the child cannot be started or the journal not be written.
    pub fn launch(
        &mut self,
        context: &Context<'_>,
        executable: &Path,
        step: &Step<'_>,
        observer: &mut dyn Observer,
    ) -> Result<LaunchResult, RunError> {
        let launch = self.writer.next_launch();
        let started = Event::LaunchStarted {
            launch,
            arm: step.arm,
            task: step.task.name().to_owned(),
            block: step.block,
            slot: step.slot,
            at: clock::timestamp(),
        };
        observer.event(step.cell, &started);
        self.writer.append(&started)?;
        let artifacts = Some(self.writer.directory().join(ARTIFACTS).join(step.arm.name()));
        let spec = LaunchSpec { protocol: PROTOCOL, launch, task: step.task, cell: step.cell.clone(), artifacts };
        let mut written = Ok(());
        let mut broken = None;
        let mut result = child::launch(executable, &spec, context.interrupt, |event| {
            observer.event(step.cell, &event);
            broken = broken.take().or_else(|| broken_value(&event));
            if event.is_durable() && written.is_ok() {
                written = self.writer.append(&event);
            }
        })?;
        written?;
        // A value that is no number would be left out of every statistic: it must not look like success.
        if let (Outcome::Complete, Some(reason)) = (&result.outcome, broken) {
            result.outcome = Outcome::Failed { exit_code: exit::NUMERICS, reason };
        }
        let outcome = match result.outcome.clone() {
            Outcome::Failed { exit_code, .. } if result.interrupted => {
                Outcome::Failed { exit_code, reason: "stopped by a signal".to_owned() }
            }
            outcome => outcome,
        };
        let finished = Event::LaunchFinished { launch, outcome, wall_ms: result.wall_ms };
        observer.event(step.cell, &finished);
        self.writer.append(&finished)?;
        self.writer.sync()?;
        if let (Outcome::Failed { exit_code, reason }, false) = (&result.outcome, result.interrupted) {
            let reason = format!("launch {launch} ({} {}): {reason}", step.arm.name(), step.task.name());
            self.failure = Some((*exit_code, reason));
        }
        Ok(result)
    }

    /// Ends the run in `state` and writes its Parquet files.
    ///
    /// # Errors
    ///
    /// If they cannot be written; the journal is kept.
    pub fn finish(self, state: RunState) -> Result<Manifest, RunError> {
        let reason = self.failure.map(|(_, reason)| reason);
        Ok(self.writer.finish(state, reason)?.manifest)
    }
}

/// Returns what is wrong with a measured value that is no number.
fn broken_value(event: &Event) -> Option<String> {
    let Event::Sample { sample, launch: _ } = event else { return None };
    let Sample { metric, workload, value, .. } = sample;
    let place = if workload.is_empty() { String::new() } else { format!(" of {workload}") };
    (!value.is_finite()).then(|| format!("{metric}{place} is {value}, which is no measurement"))
}

/// Where a launch stands in the order of things.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The cell it measures.
    pub cell: &'a Cell,
    /// Which side of a comparison that is.
    pub arm: Arm,
    /// What part of the cell.
    pub task: LaunchTask,
    /// The round.
    pub block: u32,
    /// The place inside the round.
    pub slot: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Phase;

    fn sample(metric: &str, value: f64) -> Event {
        let sample = Sample {
            metric: metric.to_owned(),
            phase: Phase::Eval,
            workload: "perplexity(heldout,c512)".to_owned(),
            rep: 0,
            warmup: false,
            value,
            n: 1,
            t_ns: 0,
            step: None,
            task: None,
            trained_through: None,
        };
        Event::Sample { launch: 0, sample }
    }

    #[test]
    fn a_value_that_is_no_number_is_told_and_any_other_is_not() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let told = broken_value(&sample("perplexity", value)).unwrap();
            assert!(told.starts_with("perplexity of perplexity(heldout,c512) is "), "{told}");
        }
        assert_eq!(broken_value(&sample("perplexity", 7.5)), None);
        let reason = "no counters".to_owned();
        assert_eq!(broken_value(&Event::Unavailable { launch: 0, metric: "energy_j".to_owned(), reason }), None);
    }
}
