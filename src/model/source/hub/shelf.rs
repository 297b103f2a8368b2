//! Repositories in the cache: `hub/OWNER/NAME/COMMIT/` with their files, `COMMIT.json` with their
//! listing, `revisions.json` with what branches and tags stood for when they were last asked about.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{Card, names};
use crate::model::source::{
    HubSource,
    cache::{self, Cache, CacheError},
};

/// What the main branch is called when nothing else is asked for.
const DEFAULT_REVISION: &str = "main";

/// One repository's place in the cache.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
}

/// A file of the hub that is in the cache, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// `owner/name`.
    pub repository: String,
    /// The commit it is of.
    pub commit: String,
    /// Its path in the repository.
    pub file: String,
    /// Its path here.
    pub path: PathBuf,
}

impl Shelf {
    /// Returns the place of a source's repository.
    #[must_use]
    pub fn new(cache: &Cache, source: &HubSource) -> Self {
        Self { folder: cache.hub().join(&source.owner).join(&source.name) }
    }

    /// Returns the folder of the repository.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder of a commit's files.
    #[must_use]
    pub fn files(&self, commit: &str) -> PathBuf {
        self.folder.join(commit)
    }

    /// Returns the path whose lock one process holds while it fetches.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.folder.join("fetch.lock")
    }

    /// Returns the commit a revision stood for when it was last asked about.
    #[must_use]
    pub fn commit(&self, revision: Option<&str>) -> Option<String> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        if names::is_commit(revision) {
            return Some(revision.to_owned());
        }
        self.revisions().remove(revision).filter(|commit| names::is_commit(commit))
    }

    fn revisions(&self) -> BTreeMap<String, String> {
        let text = fs::read(self.folder.join("revisions.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Returns a commit's listing; none if it is not here, or damaged, which is as good.
    #[must_use]
    pub fn card(&self, commit: &str) -> Option<Card> {
        let text = fs::read(self.folder.join(format!("{commit}.json"))).ok()?;
        serde_json::from_slice(&text).ok().filter(|card: &Card| card.commit == commit)
    }

    /// Keeps a listing, and what a revision stands for. Digests that the hub does not give, and that
    /// were computed when this commit was fetched before, are carried over into `card`.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn keep(&self, card: &mut Card, revision: Option<&str>) -> Result<(), CacheError> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        // Not the lock of who fetches, which may be held for hours.
        let _lock = cache::lock(&self.folder.join("listing.lock"), || ())?;
        if let Some(before) = self.card(&card.commit) {
            for file in card.files.iter_mut().filter(|file| file.sha256.is_none()) {
                let known = before.file(&file.path).filter(|known| known.size == file.size);
                file.sha256 = known.and_then(|known| known.sha256.clone());
            }
        }
        let card = &*card;
        cache::replace_json(&self.folder.join(format!("{}.json", card.commit)), card)?;
        if !names::is_commit(revision) {
            let mut revisions = self.revisions();
            revisions.insert(revision.to_owned(), card.commit.clone());
            cache::replace_json(&self.folder.join("revisions.json"), &revisions)?;
        }
        Ok(())
    }

    /// Returns every whole file of the hub in a cache, sorted.
    #[must_use]
    pub fn all(cache: &Cache) -> Vec<CachedFile> {
        let mut found = Vec::new();
        for owner in cache::entries(&cache.hub()) {
            for folder in cache::entries(&owner) {
                let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let repository = format!("{}/{}", name(&owner), name(&folder));
                let commits = cache::entries(&folder).into_iter().filter(|path| names::is_commit(&name(path)));
                for commit in commits {
                    let Some(card) = (Self { folder: folder.clone() }).card(&name(&commit)) else { continue };
                    for file in card.files {
                        let path = commit.join(&file.path);
                        if names::is_safe_path(&file.path) && path.is_file() {
                            let (repository, commit) = (repository.clone(), name(&commit));
                            found.push(CachedFile { repository, commit, file: file.path, path });
                        }
                    }
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}
