//! A repository of the hub as files on this machine: listed, compared with its pin, fetched, pinned.
use std::{collections::BTreeMap, fs, path::Path};

use super::{Fetch, LocateError, Located, Locator, Step};
use crate::model::source::{
    HubSource,
    cache::{self, CacheError},
    hub::{self, Card, HubError, Shelf},
    pins::{Pin, PinnedFile},
};

/// Returns the connection, made when it is first wanted.
fn connect(client: &mut Option<hub::Client>) -> Result<&hub::Client, HubError> {
    let made = match client.take() {
        Some(made) => made,
        None => hub::Client::new()?,
    };
    Ok(client.insert(made))
}

impl Locator<'_> {
    pub(super) fn hub(&mut self, source: &HubSource) -> Result<Located, LocateError> {
        let name = source.to_string();
        let shelf = Shelf::new(&self.cache()?, source);
        let pin = self.pins.as_ref().filter(|_| !self.update).and_then(|pins| pins.get(&name)).cloned();
        let mut card = self.card(source, &shelf, pin.as_ref())?;
        let (files, open) = card.pick(source)?;
        if let Some(pin) = &pin {
            self.compare(&name, &card, &files, pin)?;
        }
        let folder = shelf.files(&card.commit);
        let missing = missing(&card, &files, &folder);
        if !missing.is_empty() {
            if self.fetch != Fetch::Allowed {
                return Err(self.absent(&name, Some(bytes(&card, &missing))));
            }
            self.fetch(source, &shelf, &mut card, &missing, pin.as_ref())?;
        }
        self.complete(&shelf, &mut card, &files)?;
        if let Some(pin) = &pin {
            self.compare(&name, &card, &files, pin)?;
        }
        self.pin(&name, &card, &files);
        let opened = open.map_or_else(|| folder.clone(), |file| folder.join(file));
        Ok(Located { path: opened.display().to_string(), commit: Some(card.commit) })
    }

    /// Returns the listing: of the pinned commit, of what the hub says now, or of what it said last.
    fn card(&mut self, source: &HubSource, shelf: &Shelf, pin: Option<&Pin>) -> Result<Card, LocateError> {
        let name = source.to_string();
        let revision = source.revision.as_deref();
        let known = match (pin, self.fetch) {
            (Some(pin), _) => shelf.card(&pin.commit),
            // What a name stands for is the hub's to say, but a commit stands for itself.
            (None, Fetch::Allowed) => revision.filter(|it| hub::names::is_commit(it)).and_then(|it| shelf.card(it)),
            (None, _) => shelf.commit(revision).and_then(|commit| shelf.card(&commit)),
        };
        if let Some(card) = known {
            return Ok(card);
        }
        if self.fetch != Fetch::Allowed {
            return Err(self.absent(&name, None));
        }
        let asked = pin.map_or(revision, |pin| Some(pin.commit.as_str()));
        let mut card = connect(&mut self.client)?.card(source, asked)?;
        // Kept only once its names are known to be harmless.
        card.pick(source)?;
        shelf.keep(&mut card, asked)?;
        Ok(card)
    }

    fn fetch(
        &mut self,
        source: &HubSource,
        shelf: &Shelf,
        card: &mut Card,
        missing: &[String],
        pin: Option<&Pin>,
    ) -> Result<(), LocateError> {
        let Self { client, watch, pins, .. } = self;
        let client = connect(client)?;
        let bytes = bytes(card, missing);
        let name = source.to_string();
        let licence = card.licence.as_deref().unwrap_or("not stated");
        let size = bytes as f64 / 1e9;
        watch(Step::Note(&format!(
            "{} at {}: {} files, {size:.2} GB, licence: {licence}",
            card.repository,
            &card.commit[..12],
            missing.len(),
        )));
        let lock = cache::lock(&shelf.lock(), || {
            watch(Step::Note(&format!("another process is fetching {name}; waiting for it")));
        })?;
        let folder = shelf.files(&card.commit);
        fs::create_dir_all(&folder).map_err(CacheError::of("create", &folder))?;
        let there = |path: &String| fs::metadata(folder.join(format!("{path}.part"))).map_or(0, |part| part.len());
        let there: u64 = missing.iter().map(there).sum();
        cache::check_space(&folder, &name, bytes.saturating_sub(there))?;
        let place = hub::Place { folder: &folder, is_shared: !lock.is_exclusive };
        for path in missing {
            let Some(at) = card.files.iter().position(|file| file.path == *path) else { continue };
            // Another process may have had the lock before.
            if is_whole(&folder, path, card.files[at].size) {
                continue;
            }
            let pinned = pin.and_then(|pin| pin.files.get(path)).map(|file| file.sha256.as_str());
            let fetched = hub::fetch(client, source, card, &card.files[at], pinned, place, watch);
            let digest = fetched.map_err(|error| match (error, &*pins) {
                (HubError::NotPinned { file, pinned, found }, Some(pins)) => {
                    let problem = format!("SHA-256 {found}, pinned {pinned}");
                    LocateError::Pinned { name: name.clone(), file, lock: pins.path().display().to_string(), problem }
                }
                (error, _) => error.into(),
            })?;
            card.files[at].sha256 = Some(digest);
            let commit = card.commit.clone();
            shelf.keep(card, Some(&commit))?;
        }
        Ok(())
    }

    /// Computes the digests that a pin needs and nobody gave: of files that were there before.
    fn complete(&self, shelf: &Shelf, card: &mut Card, files: &[String]) -> Result<(), LocateError> {
        if self.pins.is_none() || self.fetch == Fetch::Never {
            return Ok(());
        }
        let (commit, mut is_new) = (card.commit.clone(), false);
        for file in card.files.iter_mut().filter(|file| file.sha256.is_none() && files.contains(&file.path)) {
            file.sha256 = Some(hub::digest(&shelf.files(&commit).join(&file.path))?);
            is_new = true;
        }
        if is_new && shelf.keep(card, Some(&commit)).is_err() {
            // A cache that only can be read; then the next one computes them, too.
        }
        Ok(())
    }

    /// Checks that the files are those that were pinned, by their listing: its digests are of the bytes as they came,
    /// and what is on the disk now is known by its size only.
    fn compare(&self, name: &str, card: &Card, files: &[String], pin: &Pin) -> Result<(), LocateError> {
        let lock = self.pins.as_ref().map(|pins| pins.path().display().to_string()).unwrap_or_default();
        let differs = |file: &str, problem: String| {
            let (name, file, lock) = (name.to_owned(), file.to_owned(), lock.clone());
            Err(LocateError::Pinned { name, file, lock, problem })
        };
        for (path, pinned) in &pin.files {
            let Some(file) = card.file(path).filter(|_| files.contains(path)) else {
                return differs(path, "it is no longer among the files".to_owned());
            };
            if file.size != pinned.size {
                return differs(path, format!("{} bytes, pinned {}", file.size, pinned.size));
            }
            if let Some(digest) = file.sha256.as_ref().filter(|digest| **digest != pinned.sha256) {
                return differs(path, format!("SHA-256 {digest}, pinned {}", pinned.sha256));
            }
        }
        match files.iter().find(|path| !pin.files.contains_key(*path)) {
            Some(new) => differs(new, "it is new among the files".to_owned()),
            None => Ok(()),
        }
    }

    fn pin(&mut self, name: &str, card: &Card, files: &[String]) {
        let Some(pins) = &mut self.pins else { return };
        let entry = |path: &String| {
            let file = card.file(path)?;
            Some((path.clone(), PinnedFile { sha256: file.sha256.clone()?, size: file.size }))
        };
        let pinned: BTreeMap<String, PinnedFile> = files.iter().filter_map(entry).collect();
        if pinned.len() == files.len() {
            pins.set(name, Pin { commit: card.commit.clone(), files: pinned });
        }
    }
}

fn bytes(card: &Card, files: &[String]) -> u64 {
    files.iter().filter_map(|path| card.file(path)).map(|file| file.size).sum()
}

fn is_whole(folder: &Path, path: &str, size: u64) -> bool {
    fs::metadata(folder.join(path)).is_ok_and(|found| found.is_file() && found.len() == size)
}

fn missing(card: &Card, files: &[String], folder: &Path) -> Vec<String> {
    let here = |path: &String| card.file(path).is_some_and(|file| is_whole(folder, path, file.size));
    files.iter().filter(|path| !here(path)).cloned().collect()
}
