//! Texts by name: the ones built in, and files.
use std::{borrow::Cow, fs, io};

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
    /// The file is too large to read whole.
    #[error("the text {path} has {bytes} bytes, more than the {MAX_BYTES} that are read whole")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
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
/// If there is no such text, or the file cannot be read, is too large or is not UTF-8.
pub fn load(source: &str) -> Result<Text, TextError> {
    let content = if source.starts_with("builtin:") {
        let text = BUILTIN.iter().find(|(name, _)| *name == source).map(|(_, text)| *text);
        Cow::Borrowed(text.ok_or_else(|| TextError::UnknownBuiltin { name: source.to_owned() })?)
    } else {
        Cow::Owned(read(source)?)
    };
    let hash = blake3::hash(content.as_bytes()).to_hex().to_string();
    Ok(Text { name: source.to_owned(), content, hash })
}

fn read(path: &str) -> Result<String, TextError> {
    let unreadable = |error| TextError::Unreadable { path: path.to_owned(), error };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_BYTES {
        return Err(TextError::TooLarge { path: path.to_owned(), bytes });
    }
    String::from_utf8(fs::read(path).map_err(unreadable)?)
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
}
