//! The folder that models are kept in, outside every project.
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::model::weights::write::{free_bytes, hidden, writer};

/// Something that did not work in the folder of models.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nobody says where it is.
    #[error("there is no place to keep models: set RUVLAB_MODELS to a folder (or HOME)")]
    NoPlace,
    /// The system said no.
    #[error("cannot {action} {path}: {error}; RUVLAB_MODELS names another folder for models")]
    File {
        /// What was to be done, as a verb.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Too little room.
    #[error(
        "{what} needs {needed} more bytes in {folder}, {free} are free; free some, or set RUVLAB_MODELS to a folder \
        on a larger disk"
    )]
    Space {
        /// What was to be written.
        what: String,
        /// Bytes it needs.
        needed: u64,
        /// The folder.
        folder: String,
        /// Bytes that are free.
        free: u64,
    },
}

impl CacheError {
    /// Returns a function that gives an I/O error its action and path.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::File { action, path, error }
    }
}

/// The folder of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Returns `$RUVLAB_MODELS`, or `ruvlab/models` in the user's cache folder (XDG).
    ///
    /// # Errors
    ///
    /// If neither it nor the home folder is known.
    pub fn of_user() -> Result<Self, CacheError> {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || named("HOME").map(|home| home.join(".cache"));
        let root = named("RUVLAB_MODELS")
            .or_else(|| named("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("ruvlab").join("models")));
        let root = root.ok_or(CacheError::NoPlace)?;
        Ok(Self { root: std::path::absolute(&root).map_err(CacheError::of("find", &root))? })
    }

    /// Returns the cache in a folder.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where files of the hub are.
    #[must_use]
    pub fn hub(&self) -> PathBuf {
        self.root.join("hub")
    }

    /// Returns where synthetic weights are.
    #[must_use]
    pub fn synthetic(&self) -> PathBuf {
        self.root.join("synthetic")
    }
}

/// Bytes left free beside a file: a full disk hurts more than this one command.
const MARGIN_BYTES: u64 = 64 << 20;

/// Checks that `needed` more bytes fit into a folder that exists.
///
/// # Errors
///
/// If they do not.
pub(super) fn check_space(folder: &Path, what: &str, needed: u64) -> Result<(), CacheError> {
    let Some(free) = free_bytes(folder) else { return Ok(()) };
    if needed.saturating_add(MARGIN_BYTES) <= free {
        return Ok(());
    }
    Err(CacheError::Space { what: what.to_owned(), needed, folder: folder.display().to_string(), free })
}

/// What one process holds at a time, until it is dropped or the process ends.
pub(super) struct Lock {
    _file: File,
    /// False where the file system knows no locks, so that another process may write at the same time.
    pub(super) is_exclusive: bool,
}

/// Returns a lock; calls `waiting` once if another process has it.
///
/// # Errors
///
/// If the file cannot be made.
pub(super) fn lock(path: &Path, waiting: impl FnOnce()) -> Result<Lock, CacheError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CacheError::of("create", folder))?;
    }
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = opened.map_err(CacheError::of("create", path))?;
    let mut is_exclusive = true;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            waiting();
            file.lock().map_err(CacheError::of("lock", path))?;
        }
        // Then two writers waste work; each has names of its own, and rename keeps files whole.
        Err(TryLockError::Error(error)) if knows_no_locks(&error) => is_exclusive = false,
        Err(TryLockError::Error(error)) => return Err(CacheError::of("lock", path)(error)),
    }
    Ok(Lock { _file: file, is_exclusive })
}

/// Returns whether this is what a file system without locks says: some network file systems do (`flock(2)`).
fn knows_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error())
}

/// Replaces a JSON file as a whole, making its folder.
///
/// # Errors
///
/// If it cannot be written.
pub(super) fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CacheError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(CacheError::of("create", folder))?;
    }
    let text = serde_json::to_string_pretty(value).map_err(|error| CacheError::of("write", path)(error.into()))?;
    let temporary = hidden(path, &writer());
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all((text + "\n").as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).map_err(CacheError::of("write", path))
}

/// Removes what killed writers of a file left; only for who holds its lock.
pub(super) fn remove_leftovers(path: &Path) {
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in path.parent().map(entries).unwrap_or_default() {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(".tmp") && fs::remove_file(&entry).is_err() {
            // It only takes room; the next one who may write here removes it.
        }
    }
}

/// Returns what is in a folder, sorted; nothing if it cannot be read.
#[must_use]
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_checked_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        check_space(folder.path(), "a file", 1).unwrap();
        let error = check_space(folder.path(), "a file", u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("RUVLAB_MODELS") && error.contains("a file"), "{error}");
    }

    #[test]
    fn writers_differ_and_a_system_without_locks_is_known() {
        assert_ne!(writer(), writer());
        use rustix::io::Errno;
        assert!([Errno::NOLCK, Errno::OPNOTSUPP].iter().all(|error| knows_no_locks(&(*error).into())));
        assert!(!knows_no_locks(&Errno::ACCESS.into()));
    }

    #[test]
    fn a_second_holder_waits_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = lock(&path, || panic!("nobody holds it")).unwrap();
        let waited = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                lock(&path, || waited.store(true, std::sync::atomic::Ordering::SeqCst)).unwrap();
            });
            while !waited.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop(first);
            second.join().unwrap();
        });
    }

    #[test]
    fn leftovers_of_this_file_go_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        for name in [".a.gguf.12.tmp", ".b.gguf.12.tmp", "a.gguf"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_leftovers(&path);
        let left: Vec<String> =
            entries(folder.path()).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(left, [".b.gguf.12.tmp", "a.gguf"]);
    }
}
