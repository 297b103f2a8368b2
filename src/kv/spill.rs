//! Pages in a file.
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{CacheError, CacheTypes};

/// A page in the file.
pub(super) struct Spilled {
    offset: u64,
    pub(super) bytes: usize,
    pub(super) types: CacheTypes,
    hash: [u8; 32],
}

/// A file of pages, locked while its process lives and gone with the cache. What a crash left is
/// unlocked, and removed by the next.
pub(super) struct SpillFile {
    file: File,
    path: PathBuf,
    end: u64,
    most: u64,
    used: u64,
    /// Free places, by their size.
    free: BTreeMap<usize, Vec<u64>>,
}

const PREFIX: &str = "ruvlab-spill-";

/// Removes the files of processes that are gone; returns how many.
fn sweep(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        // What cannot be opened is someone else's.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        if is_ours && file.try_lock().is_ok() && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

impl SpillFile {
    /// Returns a new, empty file in a folder of its own kind below `folder`.
    pub(super) fn create(folder: &Path, most: u64) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = folder.join("ruvlab-spill");
        fs::create_dir_all(&folder)?;
        sweep(&folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PREFIX}{}-{number}.pages", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.lock()?;
        Ok(Self { file, path, end: 0, most, used: 0, free: BTreeMap::new() })
    }

    /// Returns the bytes of it that are taken.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Returns whether so many bytes can be written.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.free.get(&bytes).is_some_and(|places| !places.is_empty()) || self.end + bytes as u64 <= self.most
    }

    /// Returns where a page was written; none where that would take more than the file may have.
    pub(super) fn write(&mut self, bytes: &[u8], types: CacheTypes) -> Result<Option<Spilled>, CacheError> {
        let length = bytes.len() as u64;
        let offset = match self.free.get_mut(&bytes.len()).and_then(Vec::pop) {
            Some(offset) => offset,
            None if self.end + length > self.most => return Ok(None),
            None => {
                self.end += length;
                self.end - length
            }
        };
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        self.used += length;
        Ok(Some(Spilled { offset, bytes: bytes.len(), types, hash: *blake3::hash(bytes).as_bytes() }))
    }

    /// Returns what was written.
    pub(super) fn read(&mut self, page: &Spilled) -> Result<Vec<u8>, CacheError> {
        let mut bytes = vec![0; page.bytes];
        self.file.seek(SeekFrom::Start(page.offset))?;
        self.file.read_exact(&mut bytes)?;
        if *blake3::hash(&bytes).as_bytes() == page.hash { Ok(bytes) } else { Err(CacheError::Damaged) }
    }

    pub(super) fn free(&mut self, page: &Spilled) {
        self.used -= page.bytes as u64;
        self.free.entry(page.bytes).or_default().push(page.offset);
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // What cannot be removed is unlocked by now, and removed by the next to come.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_places_are_used_again_and_the_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SpillFile::create(folder.path(), 30).unwrap();
        let types = CacheTypes::default();
        let first = file.write(&[1; 10], types).unwrap().unwrap();
        let second = file.write(&[2; 20], types).unwrap().unwrap();
        assert!(file.write(&[3; 10], types).unwrap().is_none(), "more than the file may have");
        assert_eq!(file.read(&first).unwrap(), [1; 10]);
        file.free(&first);
        let third = file.write(&[3; 10], types).unwrap().unwrap();
        assert_eq!((third.offset, file.used(), file.read(&second).unwrap()), (first.offset, 30, vec![2; 20]));
        fs::write(&file.path, [0; 30]).unwrap();
        assert!(matches!(file.read(&third), Err(CacheError::Damaged)));
    }

    #[test]
    fn what_a_crash_left_is_removed_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let living = SpillFile::create(folder.path(), 1).unwrap();
        let left = folder.path().join("ruvlab-spill").join("ruvlab-spill-1-0.pages");
        let other = left.with_file_name("notes.txt");
        fs::write(&left, "x").unwrap();
        fs::write(&other, "x").unwrap();
        let next = SpillFile::create(folder.path(), 1).unwrap();
        assert!(!left.exists() && other.exists() && living.path.exists() && next.path.exists());
        let path = next.path.clone();
        drop(next);
        assert!(!path.exists());
    }
}
