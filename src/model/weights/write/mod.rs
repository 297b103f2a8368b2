//! Writing GGUF version 3: metadata, tensor entries, then every tensor's bytes as they are made.
//!
//! Nothing of a tensor is kept, so a model of any size is written in constant memory; the size of
//! the file is known before its first byte is.
mod value;

use std::{
    collections::hash_map::RandomState,
    ffi::OsString,
    fs::{self, File},
    hash::BuildHasher,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;

use super::{TensorType, Value};
use value::{put_entry, put_text};

const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;
const BUFFER_BYTES: usize = 1 << 20;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub kind: TensorType,
    /// Its shape, rows first: a matrix is `[rows, columns]`.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Returns how many bytes it takes; none if its rows are not whole blocks, or its size overflows.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let values = self.shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length as u64))?;
        let row = *self.shape.last()? as u64;
        let block = self.kind.block_values() as u64;
        if values == 0 || !row.is_multiple_of(block) {
            return None;
        }
        (values / block).checked_mul(self.kind.block_bytes() as u64)
    }
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system said no.
    #[error("cannot {action} {path}: {error}")]
    File {
        /// What was to be done, as a verb.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Too little room.
    #[error("{path} takes {needed} bytes, {free} are free there; free some, or name a file on a larger disk")]
    Space {
        /// The file.
        path: String,
        /// Bytes it takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The destination of the bytes said no.
    #[error("cannot write the model: {0}")]
    Output(#[from] io::Error),
    /// A list whose elements are of several types, or lists.
    #[error("metadata {key:?} is a list that GGUF cannot hold: its elements must be of one type and no lists")]
    List {
        /// Its key.
        key: String,
    },
    /// `general.alignment` is not one.
    #[error("general.alignment is {0:?}; it must be a power of two from 8 to {MAX_ALIGNMENT}")]
    Alignment(Value),
    /// A tensor that cannot be stored so.
    #[error("tensor {name:?} of shape {shape:?} cannot be stored as {kind}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        shape: Vec<usize>,
        /// Its type.
        kind: TensorType,
    },
    /// A name given twice.
    #[error("tensor {name:?} is there twice")]
    Twice {
        /// The tensor.
        name: String,
    },
    /// Its bytes were fewer or more than its shape and type take.
    #[error("tensor {name:?} takes {planned} bytes, {given} were given")]
    Length {
        /// The tensor.
        name: String,
        /// Bytes it takes.
        planned: u64,
        /// Bytes there were, or were until the first too many.
        given: u64,
    },
}

/// A file before it is written: its header, and where every tensor will be.
#[derive(Clone, Debug)]
pub struct Layout {
    header: Vec<u8>,
    tensors: Vec<(Planned, u64)>,
    alignment: u64,
    size: u64,
}

/// Takes one tensor's bytes, in any number of pieces.
pub struct TensorSink<'a> {
    out: &'a mut dyn Write,
    name: &'a str,
    planned: u64,
    given: u64,
}

impl TensorSink<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// If they cannot be written, or are more than the tensor takes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.given += bytes.len() as u64;
        if self.given > self.planned {
            return Err(self.wrong_length());
        }
        Ok(self.out.write_all(bytes)?)
    }

    fn wrong_length(&self) -> WriteError {
        WriteError::Length { name: self.name.to_owned(), planned: self.planned, given: self.given }
    }
}

impl Layout {
    /// Returns the layout of a file with these metadata and tensors, in this order.
    ///
    /// Values are written in the types llama.cpp reads: integers as u32 or i32 (as 64 bits where
    /// they need them), numbers with a fraction as f32, `split.no` and `split.count` as u16, token
    /// types as i32. A list takes the narrowest of these types that holds all its elements.
    ///
    /// # Errors
    ///
    /// If a list mixes types, `general.alignment` is none, a tensor's rows are not whole blocks, or
    /// a name comes twice.
    pub fn new(metadata: &IndexMap<String, Value>, tensors: Vec<Planned>) -> Result<Self, WriteError> {
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value
                .as_u64()
                .filter(|alignment| alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(alignment))
                .ok_or_else(|| WriteError::Alignment(value.clone()))?,
        };
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            put_entry(&mut header, key, value)?;
        }
        let mut names = std::collections::HashSet::new();
        let mut offset = 0u64;
        let mut placed = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(WriteError::Twice { name: tensor.name.clone() });
            }
            let wrong = || {
                let Planned { name, kind, shape } = tensor.clone();
                WriteError::Shape { name, shape, kind }
            };
            let bytes = tensor.bytes().filter(|_| tensor.shape.len() <= 4).ok_or_else(wrong)?;
            put_text(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for length in tensor.shape.iter().rev() {
                header.extend_from_slice(&(*length as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.kind.id().to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            placed.push(bytes);
            let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(alignment));
            offset = end.ok_or_else(wrong)?;
        }
        header.resize((header.len() as u64).next_multiple_of(alignment) as usize, 0);
        let size = header.len() as u64 + offset;
        drop(names);
        Ok(Self { header, tensors: tensors.into_iter().zip(placed).collect(), alignment, size })
    }

    /// Returns how many bytes the file will have. Every tensor is filled up to the alignment, the
    /// last one too, as llama.cpp's own writer does.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns everything before the first tensor's bytes.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Returns the tensors in the file's order, each with the bytes it takes.
    #[must_use]
    pub fn tensors(&self) -> &[(Planned, u64)] {
        &self.tensors
    }

    /// Writes the file to `out`; `fill` is asked for every tensor's bytes in turn.
    ///
    /// # Errors
    ///
    /// If writing fails, `fill` fails, or it gives fewer or more bytes than a tensor takes.
    pub fn write<E: From<WriteError>>(
        &self,
        out: &mut dyn Write,
        mut fill: impl FnMut(&Planned, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let padding = [0u8; 64];
        out.write_all(&self.header).map_err(WriteError::from)?;
        for (tensor, planned) in &self.tensors {
            let mut sink = TensorSink { out, name: &tensor.name, planned: *planned, given: 0 };
            fill(tensor, &mut sink)?;
            if sink.given != sink.planned {
                return Err(sink.wrong_length().into());
            }
            let mut missing = (planned.next_multiple_of(self.alignment) - planned) as usize;
            while missing > 0 {
                let piece = missing.min(padding.len());
                out.write_all(&padding[..piece]).map_err(WriteError::from)?;
                missing -= piece;
            }
        }
        Ok(())
    }

    /// Writes the file at `path`, which afterwards holds all of it or what it held before: the bytes
    /// go to a hidden file beside it that is renamed at the end. What killed writers of it left goes.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and if there is no room for the file, or it cannot be made or renamed.
    pub fn write_file<E: From<WriteError>>(
        &self,
        path: &Path,
        fill: impl FnMut(&Planned, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        replace(path, self.size, |file| {
            let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
            self.write(&mut writer, fill)?;
            let failed = |error| WriteError::File { action: "write", path: path.display().to_string(), error };
            writer.flush().map_err(failed)?;
            Ok(())
        })
    }
}

/// Replaces the file at `path` by what `fill` writes, `size` bytes, once all of it is there: until then they are in
/// a hidden file beside it.
pub(in crate::model) fn replace<E: From<WriteError>>(
    path: &Path,
    size: u64,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    remove_leftovers(path);
    if let Some(free) = free_bytes(folder(path)).filter(|free| *free < size) {
        return Err(WriteError::Space { path: path.display().to_string(), needed: size, free }.into());
    }
    let temporary = hidden(path, &writer());
    let failed = |action| {
        let path = path.display().to_string();
        move |error| WriteError::File { action, path, error }
    };
    let written = File::create(&temporary).map_err(failed("create")).map_err(E::from).and_then(|mut file| {
        // Held until the file is closed, however this process ends: so others see that it is no leftover.
        if file.try_lock().is_err() {
            // Where the file system knows no locks, nobody can take that of a leftover either, and all stay.
        }
        fill(&mut file)?;
        file.sync_all().map_err(failed("write"))?;
        fs::rename(&temporary, path).map_err(failed("replace"))?;
        Ok(())
    });
    if written.is_err() && fs::remove_file(&temporary).is_err() {
        // The first error is the one to tell; a leftover is hidden.
    }
    written
}

/// Removes what this process has written so far of the file at `path`: for who must end before it is whole.
pub fn abandon(path: &Path) {
    let own = std::process::id();
    for (_, file) in unfinished(path).into_iter().filter(|(process, _)| *process == own) {
        if fs::remove_file(&file).is_err() {
            // It has its name by now, or whoever writes here next removes it.
        }
    }
}

/// Removes what killed writers of a file left: a living one holds its own file's lock.
fn remove_leftovers(path: &Path) {
    for (_, file) in unfinished(path) {
        let opened = File::options().write(true).open(&file);
        if opened.is_ok_and(|file| file.try_lock().is_ok()) && fs::remove_file(&file).is_err() {
            // It only takes room; the next one who may write here removes it.
        }
    }
}

/// Returns the hidden files of a file's writers that have not been renamed, each with the writer's process.
fn unfinished(path: &Path) -> Vec<(u32, PathBuf)> {
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let of_writer = |file: PathBuf| {
        let writer = file.file_name()?.to_str()?.strip_prefix(prefix.as_str())?.strip_suffix(".tmp")?;
        let (process, number) = writer.split_once('-')?;
        let is_number = number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_hexdigit());
        let process = process.parse::<u32>().ok().filter(|_| is_number)?;
        Some((process, file))
    };
    fs::read_dir(folder(path)).into_iter().flatten().filter_map(|entry| of_writer(entry.ok()?.path())).collect()
}

/// Returns the folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns how many bytes are free in a folder. A file system that does not say how full it is will say so when it
/// is.
pub(in crate::model) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Returns a name that no other writer has, in this process, another, or on a machine that shares the
/// folder.
pub(in crate::model) fn writer() -> String {
    let process = std::process::id();
    // The keys of the standard library's hash maps are the random numbers at hand; every map has others.
    format!("{process}-{:016x}", RandomState::new().hash_one(process))
}

/// Returns the name of the hidden file that a file is written to before it is renamed.
pub(in crate::model) fn hidden(path: &Path, writer: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{writer}.tmp"));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;
