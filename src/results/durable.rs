//! Files that are whole or not there: temp, fsync, rename, fsync of the directory.
use std::{
    collections::hash_map::RandomState,
    ffi::OsString,
    fs::{self, File},
    hash::BuildHasher,
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// An operation on a file that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}{}", .path.display(), way_out(.error))]
pub struct FileError {
    /// What was to be done, as a verb.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl FileError {
    /// Returns a function that gives an I/O error its action and path.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { action, path, error }
    }

    /// Returns whether the store may be read but not written by this user.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space and run again: what was measured before is kept"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; choose another place with --store DIR",
        _ => "",
    }
}

/// Replaces a file by what `write` writes: afterwards it holds either all of it or what it held
/// before, through a crash or a power loss too.
///
/// Relies on `rename` being atomic, which holds on local file systems and, among clients that look
/// after it returned, on NFS.
pub(super) fn replace<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary(path);
    let written =
        File::create(&temporary).map_err(FileError::of("create", &temporary)).map_err(E::from).and_then(|file| {
            let mut writer = BufWriter::new(file);
            write(&mut writer)?;
            let file = writer.into_inner().map_err(|error| FileError::of("write", path)(error.into_error()))?;
            file.sync_all().map_err(FileError::of("write", path))?;
            fs::rename(&temporary, path).map_err(FileError::of("replace", path))?;
            sync_directory(path)?;
            Ok(())
        });
    if written.is_err() && fs::remove_file(&temporary).is_err() {
        // The first error is the one to tell; a leftover is hidden.
    }
    written
}

/// Returns the name of a hidden file that no other writer has: not another thread's, nor one of a process
/// with the same number on a machine that shares the store.
fn temporary(path: &Path) -> PathBuf {
    let process = std::process::id();
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    // The keys of the standard library's hash maps are the random numbers at hand; every map has others.
    name.push(format!(".{process}-{:016x}.tmp", RandomState::new().hash_one(process)));
    path.with_file_name(name)
}

/// Makes the entry of `path` in its directory survive a power loss.
pub(super) fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    match synced {
        // Some network and FUSE file systems know no fsync of a directory; their rename is durable or nothing is.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(FileError::of("write", directory)),
    }
}

/// Replaces a text file.
pub(super) fn replace_text(path: &Path, text: &str) -> Result<(), FileError> {
    replace(path, |writer| writer.write_all(text.as_bytes()).map_err(FileError::of("write", path)))
}

/// Replaces a JSON file, indented, with a newline at its end.
pub(super) fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| FileError::of("write", path)(error.into()))?;
    replace_text(path, &(text + "\n"))
}

/// Why a JSON file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{} is damaged or of another version: {error}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Reads a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, JsonError> {
    let bytes = fs::read(path).map_err(FileError::of("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| JsonError::Content { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        replace_text(&path, "old").unwrap();
        let error = replace(&path, |writer| {
            writer.write_all(b"half of the n").map_err(FileError::of("write", &path))?;
            Err(FileError::of("write", &path)(ErrorKind::StorageFull.into()))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.json") && error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_writer_has_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        assert_ne!(temporary(&path), temporary(&path));
        // The inner one comes first, whole; then the outer one, whole.
        replace::<FileError>(&path, |writer| {
            replace_text(&path, "inner")?;
            assert_eq!(fs::read_to_string(&path).unwrap(), "inner");
            writer.write_all(b"outer").map_err(FileError::of("write", &path))
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "outer");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("a.json");
        let error = replace_text(&path, "x").unwrap_err().to_string();
        assert!(error.starts_with("cannot create ") && error.contains("missing"), "{error}");
    }
}
