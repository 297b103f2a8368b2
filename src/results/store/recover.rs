//! Runs whose process is gone.
use std::fs;

use super::{
    super::{
        journal::JournalError,
        layout,
        record::{Manifest, RunState},
        writer::RunWriter,
    },
    Store, StoreError,
};
use crate::clock;

impl Store {
    /// Finishes, as `interrupted`, every run in state `running` whose process is gone, and returns
    /// them. Runs this user may not write, or on a file system without locks, stay as they are: they
    /// can be read all the same.
    ///
    /// # Errors
    ///
    /// The first, after all were tried, if the store or a run cannot be read or written.
    pub fn recover(&self) -> Result<Vec<Manifest>, StoreError> {
        let mut recovered = Vec::new();
        let mut first_error = None;
        for manifest in self.list()?.manifests.iter().filter(|manifest| manifest.state == RunState::Running) {
            match self.recover_run(manifest) {
                Ok(Some(manifest)) => recovered.push(manifest),
                Ok(None) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(recovered), Err)
    }

    fn recover_run(&self, manifest: &Manifest) -> Result<Option<Manifest>, StoreError> {
        let directory = self.run_dir(manifest);
        let last_written = fs::metadata(directory.join(layout::JOURNAL)).and_then(|metadata| metadata.modified());
        let mut writer = match RunWriter::resumed(&directory) {
            Err(StoreError::Journal(JournalError::Locked(_) | JournalError::NoLocks { .. })) => return Ok(None),
            Err(StoreError::Journal(JournalError::File(error))) if error.is_read_only() => return Ok(None),
            writer => writer?,
        };
        if writer.manifest().state != RunState::Running {
            return Ok(None);
        }
        writer.end_open_launches()?;
        let reason = "the process that wrote it ended without finishing it".to_owned();
        // It ended when it was last heard of, not when somebody noticed.
        let ended_at = last_written.ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
        let ended_at = ended_at.map_or_else(clock::timestamp, |time| format!("{time:.3}"));
        Ok(Some(writer.finish_at(ended_at, RunState::Interrupted, Some(reason))?.manifest))
    }
}
