//! The one writer of a run directory, from its first event to its compaction.
use std::path::{Path, PathBuf};

use super::{
    durable::{read_json, replace_json},
    journal::{self, Entry, Journal, Replay},
    layout, manifest, parquet,
    record::{Manifest, RunRecord, RunState},
    store::{Environment, StoreError, texts_read},
    summary::Summary,
};
use crate::{
    clock,
    event::{Event, Outcome},
    host::{Host, Load},
    metrics::{Collector, LaunchRecord, SampleRow, collect_tokens},
};

/// Writes one run. Its lock is held until it is finished or dropped; a run that is dropped stays
/// `running` on the disk, as after a crash, and the next [`super::Store::recover`] finishes it.
#[derive(Debug)]
pub struct RunWriter {
    directory: PathBuf,
    manifest: Manifest,
    journal: Journal,
    collector: Collector,
    problems: Vec<String>,
}

/// Returns a collector that has seen a journal, its damage included.
pub(super) fn collector_of(manifest: &Manifest, replay: &Replay) -> Collector {
    let mut collector = Collector::new(&manifest.run_id, &manifest.cell_hash);
    for entry in &replay.entries {
        match entry {
            Entry::Event(event) => collector.event(event),
            Entry::Damage(damage) => collector.damage(&format!("journal line {} is unreadable", damage.line)),
        }
    }
    collector
}

impl RunWriter {
    pub(super) fn begun(directory: PathBuf, manifest: Manifest, journal: Journal) -> Self {
        let collector = Collector::new(&manifest.run_id, &manifest.cell_hash);
        Self { directory, manifest, journal, collector, problems: Vec::new() }
    }

    /// Takes the lock of a run that exists and reads what is there, the manifest after the lock:
    /// another process may just have finished it.
    pub(super) fn resumed(directory: &Path) -> Result<Self, StoreError> {
        let (journal, replay) = Journal::open(&directory.join(layout::JOURNAL))?;
        let manifest = manifest::read(directory)?;
        let mut problems: Vec<String> = replay.damage().map(ToString::to_string).collect();
        if replay.torn_bytes > 0 {
            let path = journal.path().display();
            problems.push(format!("{path}: dropped {} bytes of an unfinished last line", replay.torn_bytes));
        }
        let collector = collector_of(&manifest, &replay);
        Ok(Self { directory: directory.to_owned(), manifest, journal, collector, problems })
    }

    pub(super) fn session(&mut self, host: &Host) -> Result<(), StoreError> {
        let build = host.build();
        self.append(&Event::SessionStarted { at: clock::timestamp(), pid: std::process::id(), build })
    }

    pub(super) fn mark_running(&mut self, session: &str) -> Result<(), StoreError> {
        if self.manifest.sessions.last().is_none_or(|last| last != session) {
            self.manifest.sessions.push(session.to_owned());
        }
        self.manifest.state = RunState::Running;
        self.manifest.ended_at = None;
        self.manifest.reason = None;
        manifest::write(&self.directory, &self.manifest)
    }

    /// Marks launches nobody saw end as failed.
    pub(super) fn end_open_launches(&mut self) -> Result<(), StoreError> {
        let open: Vec<u32> =
            self.collector.launches().filter(|record| record.outcome.is_none()).map(|record| record.launch).collect();
        for launch in open {
            let reason = "the process that ran it ended first".to_owned();
            let outcome = Outcome::Failed { exit_code: 1, reason };
            self.append(&Event::LaunchFinished { launch, outcome, wall_ms: 0 })?;
        }
        Ok(())
    }

    /// Returns the manifest as it stands.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the run's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns what reopening found wrong with the journal, for people: torn bytes that were
    /// dropped, lines that cannot be read.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Appends an event to the journal; one that is not durable is ignored. The end of a launch is
    /// on the disk when this returns, any other event survives the end of this process.
    ///
    /// # Errors
    ///
    /// If it could not be written. Everything appended before is kept, and it may be tried again.
    pub fn append(&mut self, event: &Event) -> Result<(), StoreError> {
        self.journal.append(event)?;
        self.collector.event(event);
        if matches!(event, Event::LaunchFinished { .. }) {
            self.journal.sync()?;
        }
        Ok(())
    }

    /// Waits until everything appended is on the disk.
    ///
    /// # Errors
    ///
    /// If the system reports that it is not.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        Ok(self.journal.sync()?)
    }

    /// Returns the number of the launch to start next; the same until its `LaunchStarted` is appended.
    #[must_use]
    pub fn next_launch(&self) -> u32 {
        self.collector.next_launch()
    }

    /// Returns the first round that no launch of this task has been part of.
    #[must_use]
    pub fn next_block(&self, task: &str) -> u32 {
        self.collector.launches().filter(|launch| launch.task == task).map(|launch| launch.block + 1).max().unwrap_or(0)
    }

    /// Returns the launches that finished well, by number, those of earlier sessions included: what
    /// a resumed run need not do again.
    #[must_use]
    pub fn finished_launches(&self) -> Vec<LaunchRecord> {
        self.collector.launches().filter(|record| record.is_complete()).cloned().collect()
    }

    /// Returns the rows collected so far, from memory.
    #[must_use]
    pub fn rows(&self) -> Vec<SampleRow> {
        self.collector.rows()
    }

    /// Ends the run: compacts the journal, as it is on the disk, to Parquet, writes the summary and
    /// then the manifest, each atomically.
    ///
    /// # Errors
    ///
    /// If a file cannot be written. The run is then `running` on the disk with its journal whole,
    /// and the next [`super::Store::recover`] compacts it.
    pub fn finish(self, state: RunState, reason: Option<String>) -> Result<RunRecord, StoreError> {
        self.finish_at(clock::timestamp(), state, reason)
    }

    /// Ends the run as of a moment that may be long past.
    pub(super) fn finish_at(
        mut self,
        ended_at: String,
        state: RunState,
        reason: Option<String>,
    ) -> Result<RunRecord, StoreError> {
        if state == RunState::Running {
            return Err(StoreError::NotAnEnd { run_id: self.manifest.run_id });
        }
        self.journal.sync()?;
        let replay = journal::read(self.journal.path())?;
        let collector = collector_of(&self.manifest, &replay);
        let complete = collector.launches().filter(|record| record.is_complete()).count();
        let failed = collector.launches().count() - complete;
        let reasons: Vec<String> = reason.into_iter().chain(replay.damage().map(ToString::to_string)).collect();
        self.manifest.state = state;
        self.manifest.ended_at = Some(ended_at);
        self.manifest.launches_complete = u32::try_from(complete).unwrap_or(u32::MAX);
        self.manifest.launches_failed = u32::try_from(failed).unwrap_or(u32::MAX);
        self.manifest.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        let texts = texts_read(&self.directory);
        let record = RunRecord { manifest: self.manifest, samples: collector.rows(), texts };
        let tokens = collect_tokens(&collector, replay.events());
        drop(replay);
        let summary = Summary::of(&record);
        parquet::write_samples(&self.directory.join(layout::SAMPLES), &record.samples)?;
        if !tokens.is_empty() {
            parquet::write_tokens(&self.directory.join(layout::TOKENS), &tokens)?;
        }
        parquet::write_run(&self.directory.join(layout::RUNS), &record.manifest, &summary)?;
        replace_json(&self.directory.join(layout::SUMMARY), &summary)?;
        let path = self.directory.join(layout::ENVIRONMENT);
        if state != RunState::Interrupted
            && let Ok(environment) = read_json::<Environment>(&path)
        {
            replace_json(&path, &Environment { load_at_end: Some(Load::now()), ..environment })?;
        }
        manifest::write(&self.directory, &record.manifest)?;
        Ok(record)
    }
}
