//! Texts by name: the ones built in, and files.
use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
};

/// Texts larger than this are refused: they are read whole.
const MAX_BYTES: u64 = 1 << 30;

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("builtin:", $name), include_str!(concat!("../assets/texts/", $name, ".txt")))),*]
    };
}

const BUILTIN: &[(&str, &str)] = builtin![
    "heldout",
    "french.train",
    "french.test",
    "german.train",
    "german.test",
    "jargon.train",
    "jargon.test",
    "kjv.train",
    "kjv.test",
    "python.train",
    "python.test",
];

/// A text and its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The source it was asked for by.
    pub name: String,
    /// The text.
    pub content: Cow<'static, str>,
    /// BLAKE3 of its bytes, in 64 hexadecimal digits.
    pub hash: String,
}

/// Why a text could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// No text of that name is built in.
    #[error("there is no built-in text {name:?} (there are: {})", names().collect::<Vec<_>>().join(", "))]
    UnknownBuiltin {
        /// The name asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read the text {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is no file: what comes out of a pipe comes once, and each launch reads the text anew.
    #[error(
        "the text {path} is no regular file (a folder, a pipe or a device), and every launch reads it again: write it to a file first, and name that"
    )]
    NotAFile {
        /// Where it was looked for.
        path: String,
    },
    /// The file is too large to read whole.
    #[error("the text {path} has {bytes} bytes or more, and {most} at most are read whole: take a part of it")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size, as far as it was read.
        bytes: u64,
        /// The most that is read.
        most: u64,
    },
    /// The file is not text.
    #[error("the text {path} is not UTF-8 at byte {at}; convert it first (iconv -t UTF-8)")]
    NotUtf8 {
        /// The file.
        path: String,
        /// The first byte that is not.
        at: usize,
    },
}

/// Returns the names of the built-in texts, with their `builtin:`.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// Returns the text named `builtin:NAME`, or the one in a file.
///
/// # Errors
///
/// If there is no such text, or the file cannot be read, is no regular file, is too large or is not UTF-8.
pub fn load(source: &str) -> Result<Text, TextError> {
    let content = if source.starts_with("builtin:") {
        let text = BUILTIN.iter().find(|(name, _)| *name == source).map(|(_, text)| *text);
        Cow::Borrowed(text.ok_or_else(|| TextError::UnknownBuiltin { name: source.to_owned() })?)
    } else {
        Cow::Owned(read(source, MAX_BYTES)?)
    };
    let hash = blake3::hash(content.as_bytes()).to_hex().to_string();
    Ok(Text { name: source.to_owned(), content, hash })
}

fn read(path: &str, most: u64) -> Result<String, TextError> {
    let unreadable = |error| TextError::Unreadable { path: path.to_owned(), error };
    // Asked before it is opened, which would wait for who writes into a pipe.
    let found = fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        return Err(TextError::NotAFile { path: path.to_owned() });
    }
    let mut content = Vec::new();
    if found.len() <= most {
        // A file may say too little of itself, or grow.
        File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content)).map_err(unreadable)?;
    }
    let bytes = found.len().max(content.len() as u64);
    if bytes > most {
        return Err(TextError::TooLarge { path: path.to_owned(), bytes, most });
    }
    String::from_utf8(content)
        .map_err(|error| TextError::NotUtf8 { path: path.to_owned(), at: error.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_texts_load_by_name_with_their_hash() {
        for name in names() {
            let text = load(name).unwrap();
            assert!(text.content.len() > 1000, "{name} has {} bytes", text.content.len());
            assert_eq!(text.hash, blake3::hash(text.content.as_bytes()).to_hex().to_string());
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = load("builtin:heldoutt").unwrap_err().to_string();
        assert!(message.contains("builtin:heldoutt") && message.contains("builtin:kjv.train"), "{message}");
    }

    #[test]
    fn a_file_that_is_not_text_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1.txt");
        fs::write(&path, b"caf\xe9").unwrap();
        let message = load(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("byte 3"), "{message}");
        assert!(load("/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_str().unwrap(), "/dev/null"] {
            let message = load(path).unwrap_err().to_string();
            assert!(message.contains(path) && message.contains("write it to a file first"), "{message}");
        }
        let path = folder.path().join("five.txt");
        fs::write(&path, "bytes").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(read(path, 5).unwrap(), "bytes");
        assert!(matches!(read(path, 4), Err(TextError::TooLarge { bytes: 5, most: 4, .. })));
        // A file that says it has no bytes, and has some.
        #[cfg(target_os = "linux")]
        assert!(matches!(read("/proc/self/maps", 16), Err(TextError::TooLarge { bytes: 17, .. })));
    }
}
