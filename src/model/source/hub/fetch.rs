//! Fetching files: on from where it stopped, checked while they arrive.
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    thread,
};

use sha2::{Digest, Sha256};

use super::{
    Card, Client, HubError, ListedFile,
    client::{FIRST_DELAY, StreamError},
};
use crate::model::{
    source::{HubSource, cache::CacheError, locate::Step},
    weights::write,
};

/// Where files go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a Path,
    /// Whether another process may write there at the same time. If not, what is not whole is
    /// `NAME.part`, which a later call goes on with; if so, it has a name of its own and goes with the call.
    pub(crate) is_shared: bool,
}

/// Times in a row that a connection may break without `WORTHWHILE` bytes between.
const CUTS: u32 = 5;
const WORTHWHILE: u64 = 1 << 20;
/// Times that a file may begin anew because the other side sends no parts of it.
const RESTARTS: u32 = 3;
/// From here on the hub keeps files outside git, with their digest.
const LARGE: u64 = 10 << 20;

/// Fetches a file into a place and returns its SHA-256.
///
/// The file appears under its name only when it is whole and its digest that of the hub, and the
/// pinned one.
pub(crate) fn fetch(
    client: &Client,
    source: &HubSource,
    card: &Card,
    file: &ListedFile,
    pinned: Option<&str>,
    place: Place<'_>,
    watch: &mut dyn FnMut(Step<'_>),
) -> Result<String, HubError> {
    let listed = match &file.sha256 {
        Some(known) => Some(known.clone()),
        None => client.digest(source, &card.commit, &file.path)?,
    };
    let not_pinned = |pinned: &str, found: &str| HubError::NotPinned {
        file: file.path.clone(),
        pinned: pinned.to_owned(),
        found: found.to_owned(),
    };
    if let (Some(listed), Some(pinned)) = (&listed, pinned.filter(|pinned| Some(*pinned) != listed.as_deref())) {
        return Err(not_pinned(pinned, listed));
    }
    if listed.is_none() && pinned.is_none() && file.size > LARGE {
        let problem = "the hub gives no SHA-256 of it, so only its size can be checked";
        watch(Step::Note(&format!("{}: {problem}", file.path)));
    }
    let Place { folder, is_shared } = place;
    let path = folder.join(&file.path);
    let writer = if is_shared { format!(".{}", write::writer()) } else { String::new() };
    let part = folder.join(format!("{}{writer}.part", file.path));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(CacheError::of("create", parent))?;
    }
    let fetched = receive(client, source, card, file, &part, watch);
    let checked = fetched.and_then(|partial| {
        let found = partial.digest();
        let error = match (listed, pinned) {
            (Some(expected), _) if expected != found => HubError::Damaged { file: file.path.clone(), expected, found },
            (_, Some(pinned)) if pinned != found => not_pinned(pinned, &found),
            _ => {
                partial.publish(&path)?;
                return Ok(found);
            }
        };
        partial.discard()?;
        Err(error)
    });
    if checked.is_err() && is_shared && fs::remove_file(&part).is_err() {
        // It is gone already, or only takes room.
    }
    let found = checked?;
    watch(Step::End);
    Ok(found)
}

/// Returns the file once all its bytes are there.
fn receive<'a>(
    client: &Client,
    source: &HubSource,
    card: &Card,
    file: &'a ListedFile,
    part: &'a Path,
    watch: &mut dyn FnMut(Step<'_>),
) -> Result<Partial<'a>, HubError> {
    let mut partial = Partial::open(part, file)?;
    watch(Step::Begin { what: &file.path, done: partial.length, total: file.size });
    let (mut delay, mut cuts, mut restarts) = (FIRST_DELAY, 0, 0);
    while partial.length < file.size {
        let before = partial.length;
        let streamed = client.stream(source, &card.commit, file, before, &mut |bytes| {
            partial.push(bytes)?;
            watch(Step::Advance { done: partial.length, total: file.size });
            Ok(())
        });
        let problem = match streamed {
            Ok(()) if partial.length >= file.size => break,
            Ok(()) => "the connection ended early".to_owned(),
            Err(StreamError::Cut(problem)) => problem,
            Err(StreamError::Whole) => {
                partial.restart()?;
                restarts += 1;
                "the other side cannot send a part of it".to_owned()
            }
            Err(StreamError::Sink(error)) => {
                if matches!(error, HubError::TooLong { .. }) {
                    partial.discard()?;
                }
                return Err(error);
            }
            Err(StreamError::Hub(error)) => return Err(error),
        };
        cuts = if partial.length >= before + WORTHWHILE { 1 } else { cuts + 1 };
        if cuts > CUTS || restarts > RESTARTS {
            let doing =
                format!("get {} of {} ({} of {} bytes are there)", file.path, source, partial.length, file.size);
            return Err(HubError::Network { doing, problem });
        }
        watch(Step::Note(&format!("{}: {problem}; going on at byte {}", file.path, partial.length)));
        thread::sleep(delay);
        delay = if cuts == 1 { FIRST_DELAY } else { delay * 2 };
    }
    Ok(partial)
}

/// Returns the SHA-256 of a file that is there.
pub(crate) fn digest(path: &Path) -> Result<String, CacheError> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(CacheError::of("open", path))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(CacheError::of("read", path))?;
        if count == 0 {
            return Ok(hexadecimal(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

fn hexadecimal(hasher: Sha256) -> String {
    use std::fmt::Write as _;
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// A file that is not whole yet.
struct Partial<'a> {
    file: File,
    path: &'a Path,
    listed: &'a ListedFile,
    length: u64,
    hasher: Sha256,
}

impl<'a> Partial<'a> {
    /// Opens what is there, and reads it once for the digest.
    fn open(path: &'a Path, listed: &'a ListedFile) -> Result<Self, HubError> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let file = opened.map_err(CacheError::of("create", path))?;
        let mut partial = Self { file, path, listed, length: 0, hasher: Sha256::new() };
        let there = partial.file.metadata().map_err(CacheError::of("read", path))?.len();
        if there > listed.size {
            partial.restart()?;
            return Ok(partial);
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = partial.file.read(&mut buffer).map_err(CacheError::of("read", path))?;
            if count == 0 {
                return Ok(partial);
            }
            partial.hasher.update(&buffer[..count]);
            partial.length += count as u64;
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let (file, listed) = (self.listed.path.clone(), self.listed.size);
        if self.length + bytes.len() as u64 > listed {
            return Err(HubError::TooLong { file, listed });
        }
        self.file.write_all(bytes).map_err(CacheError::of("write", self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(CacheError::of("write", self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(CacheError::of("write", self.path))?;
        self.length = 0;
        self.hasher = Sha256::new();
        Ok(())
    }

    fn digest(&self) -> String {
        hexadecimal(self.hasher.clone())
    }

    fn discard(self) -> Result<(), HubError> {
        Ok(fs::remove_file(self.path).map_err(CacheError::of("remove", self.path))?)
    }

    fn publish(self, path: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(CacheError::of("write", self.path))?;
        Ok(fs::rename(self.path, path).map_err(CacheError::of("rename", self.path))?)
    }
}
