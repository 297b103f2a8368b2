//! `ruvlab.lock`: what sources of the hub stood for, so that they stand for the same tomorrow.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    cache::{self, CacheError},
    hub::names,
};

/// The file's name.
pub const FILE_NAME: &str = "ruvlab.lock";

const VERSION: u32 = 1;
const MAX_BYTES: u64 = 4 << 20;

/// What a source stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The commit.
    pub commit: String,
    /// Its files, by path.
    pub files: BTreeMap<String, PinnedFile>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its SHA-256.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    sources: BTreeMap<String, Pin>,
}

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It holds something else.
    #[error(
        "{path} is damaged or of another version of ruvlab: {problem}; mend it, or remove it to resolve everything again"
    )]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Unwritable(#[from] CacheError),
}

/// A lock file.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    sources: BTreeMap<String, Pin>,
    changed: bool,
}

impl Pins {
    /// Reads the lock file of a folder; an empty one if there is none.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, or holds what no lock file holds.
    pub fn of_folder(folder: &Path) -> Result<Self, PinsError> {
        let path = folder.join(FILE_NAME);
        let name = || path.display().to_string();
        let text = match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(PinsError::Content { path: name(), problem: format!("it has {} bytes", found.len()) });
            }
            _ => fs::read(&path),
        };
        let sources = match text {
            Ok(text) => parse(&text).map_err(|problem| PinsError::Content { path: name(), problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(PinsError::Unreadable { path: name(), error }),
        };
        Ok(Self { path, sources, changed: false })
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what a source stood for.
    #[must_use]
    pub fn get(&self, source: &str) -> Option<&Pin> {
        self.sources.get(source)
    }

    /// Notes what a source stands for.
    pub fn set(&mut self, source: &str, pin: Pin) {
        if self.sources.get(source) != Some(&pin) {
            self.sources.insert(source.to_owned(), pin);
            self.changed = true;
        }
    }

    /// Writes the file if anything is new, and returns whether it did.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&mut self) -> Result<bool, PinsError> {
        if !self.changed {
            return Ok(false);
        }
        let content = Content { version: VERSION, sources: self.sources.clone() };
        cache::replace_json(&self.path, &content)?;
        self.changed = false;
        Ok(true)
    }
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Pin>, String> {
    let content: Content = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("it is of version {}, this is {VERSION}", content.version));
    }
    for (source, pin) in &content.sources {
        let sound = names::is_commit(&pin.commit)
            && !pin.files.is_empty()
            && pin.files.iter().all(|(path, file)| names::is_safe_path(path) && names::is_sha256(&file.sha256));
        if !sound {
            return Err(format!("the entry of {source:?} has no commit, no files, or an impossible name or digest"));
        }
    }
    Ok(content.sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(path: &str) -> Pin {
        let file = PinnedFile { sha256: "0f".repeat(32), size: 7 };
        Pin { commit: "ab".repeat(20), files: BTreeMap::from([(path.to_owned(), file)]) }
    }

    #[test]
    fn it_is_written_once_sorted_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut pins = Pins::of_folder(folder.path()).unwrap();
        assert!(!pins.save().unwrap() && !pins.path().exists());
        pins.set("hf:b/b", pin("x.gguf"));
        pins.set("hf:a/a:Q8_0", pin("y.gguf"));
        assert!(pins.save().unwrap());
        assert!(!pins.save().unwrap(), "nothing new, nothing written");
        let text = fs::read_to_string(pins.path()).unwrap();
        assert!(text.find("hf:a/a").unwrap() < text.find("hf:b/b").unwrap() && text.ends_with("}\n"), "{text}");
        let mut again = Pins::of_folder(folder.path()).unwrap();
        assert_eq!(again.get("hf:b/b"), Some(&pin("x.gguf")));
        again.set("hf:b/b", pin("x.gguf"));
        assert!(!again.save().unwrap());
    }

    #[test]
    fn what_no_lock_file_holds_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut pins = Pins::of_folder(folder.path()).unwrap();
        pins.set("hf:a/a", pin("x.gguf"));
        pins.save().unwrap();
        let good = fs::read_to_string(pins.path()).unwrap();
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("x.gguf", "../x.gguf"),
            ("abab", "main"),
            ("0f0f", "0F0F"),
            ("\"size\"", "\"sise\""),
            ("}\n", "\n"),
        ] {
            fs::write(pins.path(), good.replacen(from, to, 1)).unwrap();
            let message = Pins::of_folder(folder.path()).unwrap_err().to_string();
            assert!(message.contains("remove it"), "{from} -> {to}: {message}");
        }
    }
}
