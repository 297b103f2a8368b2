//! Pages in a file.
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::{CacheError, CacheTypes};

/// A page in the file.
pub(super) struct Spilled {
    offset: u64,
    pub(super) bytes: usize,
    pub(super) types: CacheTypes,
    hash: [u8; 32],
}

/// A file of pages, without a name: nobody else can open it, and the system removes it with the process, whatever
/// ends that.
pub(super) struct SpillFile {
    file: File,
    /// Bytes from the first to the last that is taken.
    end: u64,
    most: u64,
    used: u64,
    /// The lengths of free ranges before the end, by their offsets; no two of them touch.
    free: BTreeMap<u64, u64>,
}

impl SpillFile {
    /// Returns a new, empty file on the file system of a folder.
    pub(super) fn create(folder: &Path, most: u64) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, end: 0, most, used: 0, free: BTreeMap::new() })
    }

    /// Returns the bytes of it that are taken.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Returns where so many bytes can be written: the first range they fit, or the end.
    fn place(&self, bytes: u64) -> Option<u64> {
        let found = self.free.iter().find(|(_, length)| **length >= bytes).map(|(offset, _)| *offset);
        found.or_else(|| (self.end + bytes <= self.most).then_some(self.end))
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.place(bytes as u64).is_some()
    }

    /// Returns where a page was written; none where that would take more than the file may have. A write that fails
    /// takes nothing.
    pub(super) fn write(&mut self, bytes: &[u8], types: CacheTypes) -> Result<Option<Spilled>, CacheError> {
        let length = bytes.len() as u64;
        let Some(offset) = self.place(length) else { return Ok(None) };
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        match self.free.remove(&offset) {
            Some(all) if all > length => drop(self.free.insert(offset + length, all - length)),
            Some(_) => {}
            None => self.end += length,
        }
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
        let (mut start, mut end) = (page.offset, page.offset + page.bytes as u64);
        self.used -= page.bytes as u64;
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        let before = self.free.range(..start).next_back().map(|(offset, length)| (*offset, offset + length));
        if let Some((offset, _)) = before.filter(|(_, end)| *end == start) {
            self.free.remove(&offset);
            start = offset;
        }
        if end == self.end {
            self.end = start;
        } else {
            self.free.insert(start, end - start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(file: &mut SpillFile, fill: u8, bytes: usize) -> Option<Spilled> {
        file.write(&vec![fill; bytes], CacheTypes::default()).unwrap()
    }

    #[test]
    fn pages_come_back_places_are_used_again_and_the_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SpillFile::create(folder.path(), 30).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a name that a crash would leave");
        let first = write(&mut file, 1, 10).unwrap();
        let second = write(&mut file, 2, 20).unwrap();
        assert!(write(&mut file, 3, 10).is_none(), "more than the file may have");
        assert_eq!(file.read(&first).unwrap(), [1; 10]);
        file.free(&first);
        let third = write(&mut file, 3, 10).unwrap();
        assert_eq!((third.offset, file.used(), file.read(&second).unwrap()), (first.offset, 30, vec![2; 20]));
        file.file.seek(SeekFrom::Start(0)).unwrap();
        file.file.write_all(&[0; 30]).unwrap();
        assert!(matches!(file.read(&third), Err(CacheError::Damaged)));
    }

    #[test]
    fn what_is_free_holds_pages_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SpillFile::create(folder.path(), 40).unwrap();
        let [a, b, c, d] = [1, 2, 3, 4].map(|fill| write(&mut file, fill, 10).unwrap());
        // Narrower pages go where a wide one was, and a wide one where neighbours were.
        file.free(&b);
        let [e, f] = [5, 6].map(|fill| write(&mut file, fill, 5).unwrap());
        assert!(write(&mut file, 7, 1).is_none());
        file.free(&e);
        file.free(&c);
        file.free(&f);
        let wide = write(&mut file, 8, 20).unwrap();
        assert_eq!((wide.offset, file.read(&wide).unwrap()), (10, vec![8; 20]));
        assert_eq!((file.read(&a).unwrap(), file.read(&d).unwrap()), (vec![1; 10], vec![4; 10]));
        for page in [&a, &wide, &d] {
            file.free(page);
        }
        assert_eq!((file.used(), file.end, file.free.len()), (0, 0, 0));
        assert!(write(&mut file, 9, 40).is_some());
    }

    #[test]
    fn a_write_that_fails_takes_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("read-only");
        fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        let mut file = SpillFile { file, end: 0, most: 30, used: 0, free: BTreeMap::new() };
        for _ in 0..4 {
            assert!(matches!(file.write(&[1; 10], CacheTypes::default()), Err(CacheError::Spill(_))));
        }
        assert!((file.used(), file.end) == (0, 0) && file.has_room(30));
    }
}
