//! From a source to files on this machine: found in the cache, fetched from the hub, or made.
mod repository;

use std::collections::BTreeMap;

use super::{
    GrammarError, Source,
    cache::{self, Cache, CacheError},
    hub::{self, HubError},
    pins::{Pins, PinsError},
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
        let lock = cache::lock(&path.with_extension("lock"), || {
            watch(Step::Note(&format!("another process is writing {name}; waiting for it")));
        })?;
        if path.is_file() {
            return Ok(located);
        }
        if lock.is_exclusive {
            cache::remove_leftovers(&path);
        }
        cache::check_space(&folder, &name, size)?;
        watch(Step::Begin { what: &name, done: 0, total: size });
        synthetic.write(&path, &mut |done, total| watch(Step::Advance { done, total })).map_err(failed)?;
        watch(Step::End);
        Ok(located)
    }
}
