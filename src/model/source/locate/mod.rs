//! From a source to files on this machine: found in the cache, fetched from the hub, or made.
use std::{collections::BTreeMap, fs, path::Path};

use super::{
    GrammarError, HubSource, Source,
    cache::{self, Cache, CacheError},
    hub::{self, Card, HubError, Shelf},
    pins::{Pin, PinnedFile, Pins, PinsError},
    synthetic::Synthetic,
};
use crate::model::weights::write::WriteError;

/// What may be done to get a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Anything: ask the hub, fetch, write synthetic weights.
    Allowed,
    /// No network; synthetic weights are made all the same.
    Offline,
    /// Nothing that takes time or room.
    Never,
}

/// What happens on the way, for whoever watches.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Something worth a line.
    Note(&'a str),
    /// Bytes of a file begin to come.
    Begin {
        /// The file.
        what: &'a str,
        /// Bytes that are there already.
        done: u64,
        /// Bytes of all.
        total: u64,
    },
    /// More bytes came.
    Advance {
        /// Bytes that are there.
        done: u64,
        /// Bytes of all.
        total: u64,
    },
    /// The file is there, whole and checked.
    End,
}

/// A model's place on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// What is opened: a file, a folder, or `builtin:NAME`.
    pub path: String,
    /// The commit it is of, for a model of the hub.
    pub commit: Option<String>,
}

/// Why a model is not on this machine.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The source makes no sense.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// It is not here and may not be fetched.
    #[error("{name} is not on this machine, {reason}; {way_out}")]
    Absent {
        /// The source.
        name: String,
        /// Why it is not fetched.
        reason: &'static str,
        /// What to do.
        way_out: String,
    },
    /// The hub did not give it.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The hub, or the cache, no longer holds what was pinned.
    #[error(
        "{name}: {file} is not what {lock} pinned ({problem}); if the new one is wanted, run once with --update-lock"
    )]
    Pinned {
        /// The source.
        name: String,
        /// The file.
        file: String,
        /// The lock file.
        lock: String,
        /// What differs.
        problem: String,
    },
    /// Synthetic weights could not be written.
    #[error("{name}: {error}")]
    Write {
        /// The source.
        name: String,
        /// Why.
        #[source]
        error: WriteError,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Finds models, and gets them where that is allowed.
pub struct Locator<'a> {
    cache: Option<Cache>,
    fetch: Fetch,
    pins: Option<Pins>,
    update: bool,
    client: Option<hub::Client>,
    watch: Box<dyn FnMut(Step<'_>) + 'a>,
    found: BTreeMap<(String, Option<String>), Located>,
}

impl<'a> Locator<'a> {
    /// Returns one that may do what `fetch` says; `HF_HUB_OFFLINE` forbids the network in any case.
    #[must_use]
    pub fn new(fetch: Fetch, watch: impl FnMut(Step<'_>) + 'a) -> Self {
        let forbidden = fetch == Fetch::Allowed && hub::is_offline_by_environment();
        Self {
            cache: None,
            fetch: if forbidden { Fetch::Offline } else { fetch },
            pins: None,
            update: false,
            client: None,
            watch: Box::new(watch),
            found: BTreeMap::new(),
        }
    }

    /// Honours a lock file; with `update`, asks the hub again and pins what it says now.
    #[must_use]
    pub fn with_pins(mut self, pins: Pins, update: bool) -> Self {
        self.pins = Some(pins);
        self.update = update;
        self
    }

    /// Uses another cache than the user's.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Returns where a model is, after getting it if need be.
    ///
    /// # Errors
    ///
    /// If the source makes no sense, or the model is not here and cannot be got.
    pub fn locate(&mut self, source: &str, revision: Option<&str>) -> Result<Located, LocateError> {
        let key = (source.to_owned(), revision.map(str::to_owned));
        if let Some(found) = self.found.get(&key) {
            return Ok(found.clone());
        }
        let located = match Source::parse(source, revision)? {
            Source::Builtin(_) | Source::Path(_) => Located { path: source.to_owned(), commit: None },
            Source::Synthetic(synthetic) => self.synthetic(&synthetic)?,
            Source::Hub(hub) => self.hub(&hub)?,
        };
        self.found.insert(key, located.clone());
        Ok(located)
    }

    /// Writes the lock file if something new was resolved; says so.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), LocateError> {
        if let Some(pins) = &mut self.pins
            && pins.save()?
        {
            let line = format!("pinned in {}", pins.path().display());
            (self.watch)(Step::Note(&line));
        }
        Ok(())
    }

    fn cache(&self) -> Result<Cache, CacheError> {
        self.cache.clone().map_or_else(Cache::of_user, Ok)
    }

    fn absent(&self, name: &str, bytes: Option<u64>) -> LocateError {
        let (reason, way_out) = match self.fetch {
            Fetch::Offline => {
                ("and the network may not be used", format!("`ruvlab download {name}` without --offline brings it"))
            }
            Fetch::Allowed | Fetch::Never => {
                let size = bytes.map(|bytes| format!(" ({:.1} GB)", bytes as f64 / 1e9)).unwrap_or_default();
                ("and this command fetches nothing", format!("`ruvlab download {name}` brings it{size}"))
            }
        };
        LocateError::Absent { name: name.to_owned(), reason, way_out }
    }

    fn synthetic(&mut self, synthetic: &Synthetic) -> Result<Located, LocateError> {
        let name = format!("synthetic:{}", synthetic.name());
        let folder = self.cache()?.synthetic();
        let path = folder.join(synthetic.file_name());
        let located = Located { path: path.display().to_string(), commit: None };
        let failed = |error| LocateError::Write { name: name.clone(), error };
        if path.is_file() {
            return Ok(located);
        }
        let size = synthetic.layout().map_err(failed)?.size();
        if self.fetch == Fetch::Never {
            return Err(self.absent(&name, Some(size)));
        }
        let watch = &mut self.watch;
        let _lock = cache::lock(&path.with_extension("lock"), || {
            watch(Step::Note(&format!("another process is writing {name}; waiting for it")));
        })?;
        if path.is_file() {
            return Ok(located);
        }
        cache::remove_leftovers(&path);
        cache::check_space(&folder, &name, size)?;
        watch(Step::Begin { what: &name, done: 0, total: size });
        synthetic.write(&path, &mut |done, total| watch(Step::Advance { done, total })).map_err(failed)?;
        watch(Step::End);
        Ok(located)
    }

    fn client(&mut self) -> Result<&hub::Client, HubError> {
        if self.client.is_none() {
            self.client = Some(hub::Client::new()?);
        }
        self.client.as_ref().ok_or_else(|| HubError::NotFound("connection".to_owned()))
    }

    fn hub(&mut self, source: &HubSource) -> Result<Located, LocateError> {
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
            let bytes = missing.iter().filter_map(|path| card.file(path)).map(|file| file.size).sum();
            if self.fetch != Fetch::Allowed {
                return Err(self.absent(&name, Some(bytes)));
            }
            self.fetch(source, &shelf, &mut card, &missing, bytes)?;
            if let Some(pin) = &pin {
                self.compare(&name, &card, &files, pin)?;
            }
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
        let card = self.client()?.card(source, asked)?;
        if let Some(pin) = pin.filter(|pin| pin.commit != card.commit) {
            let about = format!("{} at {}", source.repository(), pin.commit);
            let problem = format!("it speaks of commit {}", card.commit);
            return Err(HubError::Answer { about, problem }.into());
        }
        // Kept only once its names are known to be harmless.
        card.pick(source)?;
        shelf.keep(&card, asked)?;
        Ok(card)
    }

    fn fetch(
        &mut self,
        source: &HubSource,
        shelf: &Shelf,
        card: &mut Card,
        missing: &[String],
        bytes: u64,
    ) -> Result<(), LocateError> {
        self.client()?;
        let Self { client: Some(client), watch, .. } = self else { return Ok(()) };
        let name = source.to_string();
        let licence = card.licence.as_deref().unwrap_or("not stated");
        let size = bytes as f64 / 1e9;
        watch(Step::Note(&format!(
            "{} at {}: {} files, {size:.2} GB, licence: {licence}",
            card.repository,
            &card.commit[..12],
            missing.len(),
        )));
        let _lock = cache::lock(&shelf.lock(), || {
            watch(Step::Note(&format!("another process is fetching {name}; waiting for it")));
        })?;
        let folder = shelf.files(&card.commit);
        fs::create_dir_all(&folder).map_err(CacheError::of("create", &folder))?;
        let there = |path: &String| fs::metadata(folder.join(format!("{path}.part"))).map_or(0, |part| part.len());
        let there: u64 = missing.iter().map(there).sum();
        cache::check_space(&folder, &name, bytes.saturating_sub(there))?;
        for path in missing {
            let Some(at) = card.files.iter().position(|file| file.path == *path) else { continue };
            // Another process may have had the lock before.
            if is_whole(&folder, path, card.files[at].size) {
                if let Some(other) = shelf.card(&card.commit) {
                    card.files[at].sha256 = other.file(path).and_then(|file| file.sha256.clone());
                }
                continue;
            }
            let digest = hub::fetch(client, source, card, &card.files[at], &folder, watch)?;
            card.files[at].sha256 = Some(digest);
            shelf.keep(card, Some(&card.commit))?;
        }
        Ok(())
    }

    /// Checks that the files are those that were pinned.
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

fn is_whole(folder: &Path, path: &str, size: u64) -> bool {
    fs::metadata(folder.join(path)).is_ok_and(|found| found.is_file() && found.len() == size)
}

fn missing(card: &Card, files: &[String], folder: &Path) -> Vec<String> {
    let here = |path: &String| card.file(path).is_some_and(|file| is_whole(folder, path, file.size));
    files.iter().filter(|path| !here(path)).cloned().collect()
}
