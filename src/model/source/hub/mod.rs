//! The Hugging Face hub: which files a name means, and their way into the cache.
//!
//! The only place that knows the hub's client. Whatever the hub says is checked before it is used:
//! names of files stay below the cache, sizes and SHA-256 digests are those of the listing.
mod client;
mod fetch;
pub(crate) mod names;
mod pick;
mod shelf;

use serde::{Deserialize, Serialize};

pub(super) use client::Client;
pub(super) use fetch::{Place, digest, fetch};
pub use pick::PickError;
pub use shelf::{CachedFile, Shelf};

use super::{HubSource, cache::CacheError};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Its path in the repository.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// The SHA-256 of its content: the hub's where it keeps one (large files), else ours once the
    /// file was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// `owner/name`.
    pub repository: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The licence, as the model card names it.
    #[serde(default)]
    pub licence: Option<String>,
    /// All its files.
    pub files: Vec<ListedFile>,
}

impl Card {
    /// Returns a file's entry.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns the files a source means, and which of them is opened (the folder itself for none).
    ///
    /// # Errors
    ///
    /// If none or several fit, parts are missing, or a name is hostile.
    pub(super) fn pick(&self, source: &HubSource) -> Result<(Vec<String>, Option<String>), HubError> {
        let picked = pick::pick(&self.files, source.pick.as_deref());
        let picked = picked.map_err(|error| HubError::Pick { repository: source.repository(), error })?;
        Ok((picked.files, picked.open))
    }
}

/// Why the hub did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub wants to know who asks, or this person may not have it.
    #[error("{repository} is gated, private or not there (HTTP {status}): accept its terms at {endpoint}/{repository}, \
        then set HF_TOKEN to a token that may read it{}", if *.with_token { "; the token in use may not" } else { "" })]
    Denied {
        /// `owner/name`.
        repository: String,
        /// The hub's address.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// No such repository, revision or file.
    #[error("the hub has no {0}")]
    NotFound(String),
    /// The hub could not be reached, or broke off again and again.
    #[error("cannot {doing}: {problem}; run it again (what was fetched is kept), or use --offline with what is cached")]
    Network {
        /// What was to be done.
        doing: String,
        /// What went wrong.
        problem: String,
    },
    /// The hub's answer makes no sense.
    #[error("the hub's answer about {about} makes no sense: {problem}")]
    Answer {
        /// What it was asked about.
        about: String,
        /// What is wrong.
        problem: String,
    },
    /// The files asked for cannot be picked.
    #[error("{repository}: {error}")]
    Pick {
        /// `owner/name`.
        repository: String,
        /// Why.
        #[source]
        error: PickError,
    },
    /// The bytes that came are not those of the listing.
    #[error(
        "{file} arrived damaged: its SHA-256 is {found}, it should be {expected}; it was thrown away, run it again"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The file is another than the one that was pinned.
    #[error("{file} is not the one that was pinned: its SHA-256 is {found}, pinned {pinned}")]
    NotPinned {
        /// The file.
        file: String,
        /// What was pinned.
        pinned: String,
        /// What it is.
        found: String,
    },
    /// More bytes came than the listing has.
    #[error("{file} has {listed} bytes in the hub's listing, and more arrived; it was thrown away")]
    TooLong {
        /// The file.
        file: String,
        /// Its bytes in the listing.
        listed: u64,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Returns whether the environment forbids the network (`HF_HUB_OFFLINE`, as transformers reads it).
#[must_use]
pub fn is_offline_by_environment() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}
