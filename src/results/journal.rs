//! `events.jsonl`: the append-only journal of a run, and the truth about it.
//!
//! A line is one durable event as JSON, ended by a newline and written by one call, so a line that
//! a crash cut has no newline and was never acknowledged. That is why lines carry no checksum: the
//! newline says a line is whole, and what is whole but unreadable is reported by its number. Readers
//! need no lock. The writer holds an exclusive lock on the file (`flock`), which the system frees
//! when the process ends, however it ends; on NFS that needs version 4 or a lock daemon, on Lustre
//! the mount option `flock`. Without locks writing is refused, reading still works.
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::durable::{FileError, sync_directory};
use crate::event::Event;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process holds the lock.
    #[error("{} is being written by another process", .0.display())]
    Locked(PathBuf),
    /// The file system has no locks.
    #[error("{} cannot be locked, so two processes could write it at once: {error}; \
             mount the file system with locks or choose another place with --store DIR", .path.display())]
    NoLocks {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// An event that is no JSON.
    #[error("an event cannot be written to {}: {error}", .path.display())]
    Event {
        /// The journal.
        path: PathBuf,
        /// What serde said.
        error: serde_json::Error,
    },
}

/// A line of a journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A readable one.
    Event(Event),
    /// One that ends well but is no event.
    Damage(Damage),
}

/// A line that cannot be read, with readable ones after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: unreadable line in the journal: {reason}", .path.display())]
pub struct Damage {
    /// The journal.
    pub path: PathBuf,
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// A journal's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Its lines, in order.
    pub entries: Vec<Entry>,
    /// Bytes after the last good line: a line that was never acknowledged, or what a power loss
    /// left. They are dropped, and cut off when the journal is written again.
    pub torn_bytes: u64,
    /// Bytes before those.
    pub whole_bytes: u64,
}

impl Replay {
    /// Returns the events, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Event(event) => Some(event),
            Entry::Damage(_) => None,
        })
    }

    /// Returns the unreadable lines, in order.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Event(_) => None,
            Entry::Damage(damage) => Some(damage),
        })
    }
}

/// Reads a journal, which another process may be writing.
///
/// # Errors
///
/// If the file cannot be read. Unreadable lines are no error: they are in the replay, and every
/// readable line before and after them is too.
pub fn read(path: &Path) -> Result<Replay, FileError> {
    Ok(replay(path, &fs::read(path).map_err(FileError::of("read", path))?))
}

/// The tail starts after the last line that is JSON: garbage there, a power loss leaves (zeros, or
/// a page that was never written). Whole JSON that is no event is never tail: a newer version may
/// have written it.
fn replay(path: &Path, bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut kept = 0;
    let mut offset = 0;
    for (index, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        offset += text.len() as u64;
        let Some(text) = text.strip_suffix(b"\n") else { break };
        let parsed = serde_json::from_slice::<Event>(text);
        let whole = match &parsed {
            Ok(_) => true,
            Err(_) => serde_json::from_slice::<serde_json::Value>(text).is_ok(),
        };
        replay.entries.push(match parsed {
            Ok(event) => Entry::Event(event),
            Err(error) => Entry::Damage(Damage { path: path.to_owned(), line: index + 1, reason: error.to_string() }),
        });
        if whole {
            kept = replay.entries.len();
            replay.whole_bytes = offset;
        }
    }
    replay.entries.truncate(kept);
    replay.torn_bytes = bytes.len() as u64 - replay.whole_bytes;
    replay
}

/// A journal being written. The lock lasts as long as it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines: where the file is cut after a write that failed halfway.
    length: u64,
    torn: bool,
    unsynced: bool,
    line: Vec<u8>,
}

impl Journal {
    /// Creates an empty journal and locks it.
    ///
    /// # Errors
    ///
    /// If the file exists, cannot be created or cannot be locked.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let file = file.map_err(FileError::of("create", path))?;
        lock(path, &file)?;
        sync_directory(path)?;
        Ok(Self::over(path, file, 0))
    }

    /// Locks a journal, reads it and cuts a torn tail off.
    ///
    /// # Errors
    ///
    /// If another process writes it, or it cannot be read or written.
    pub fn open(path: &Path) -> Result<(Self, Replay), JournalError> {
        let file = OpenOptions::new().append(true).open(path).map_err(FileError::of("open", path))?;
        lock(path, &file)?;
        let replay = read(path)?;
        let mut journal = Self::over(path, file, replay.whole_bytes);
        journal.torn = replay.torn_bytes > 0;
        journal.mend()?;
        Ok((journal, replay))
    }

    fn over(path: &Path, file: File, length: u64) -> Self {
        Self { path: path.to_owned(), file, length, torn: false, unsynced: false, line: Vec::new() }
    }

    /// Returns it under the path its directory is about to get.
    pub(super) fn renamed(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    /// Appends an event, `Progress` excepted. When it returns, the line survives the end of this
    /// process; after [`Journal::sync`] it survives a power loss.
    ///
    /// # Errors
    ///
    /// If the line could not be written, when the disk is full for example. What was appended
    /// before stays as it is, and appending may be tried again.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        if !event.is_durable() {
            return Ok(());
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)
            .map_err(|error| JournalError::Event { path: self.path.clone(), error })?;
        self.line.push(b'\n');
        self.mend()?;
        self.unsynced = true;
        if let Err(error) = self.file.write_all(&self.line) {
            self.torn = true;
            return Err(FileError::of("write", &self.path)(error).into());
        }
        self.length += self.line.len() as u64;
        Ok(())
    }

    /// Waits until everything appended is on the disk; returns at once when it is.
    ///
    /// # Errors
    ///
    /// If the system reports that it is not.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.mend()?;
        if self.unsynced {
            self.file.sync_data().map_err(FileError::of("write", &self.path))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts off what a failed write left.
    fn mend(&mut self) -> Result<(), FileError> {
        if self.torn {
            self.file.set_len(self.length).map_err(FileError::of("write", &self.path))?;
            self.torn = false;
            self.unsynced = true;
        }
        Ok(())
    }
}

impl Drop for Journal {
    /// Closing the file is not enough: a process that is being started has it open, too, until it runs its program.
    fn drop(&mut self) {
        // Nothing could be done about an error, and the lock ends with the last who has the file open.
        drop(self.file.unlock());
    }
}

fn lock(path: &Path, file: &File) -> Result<(), JournalError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => JournalError::Locked(path.to_owned()),
        TryLockError::Error(error) if error.kind() == ErrorKind::PermissionDenied => {
            FileError::of("lock", path)(error).into()
        }
        TryLockError::Error(error) => JournalError::NoLocks { path: path.to_owned(), error },
    })
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
