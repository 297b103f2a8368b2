//! The adapters at hand: which there are, which is active, which are in use.
//!
//! Requests pin an adapter of one version and keep it to their end, whatever happens meanwhile. Writers
//! prepare a whole new state beside the current one and publish it in one step, so a request never sees
//! half a change. Loading from a disk happens on a thread of its own.
mod pins;
mod primitives;
mod published;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use pins::Pins;
pub use published::Published;

use crate::engine::{Adapter, LowRank};

/// Earlier active adapters that can be rolled back to.
const HISTORY: usize = 8;

/// Why the registry could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No adapter of that name is at hand.
    #[error("there is no adapter {name:?} (there are: {known})")]
    Unknown {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// There is no room, and nothing that may go.
    #[error(
        "no room for the adapter {name:?}: {adapters} adapters with {bytes} bytes would be held, {most_adapters} with {most_bytes} may be, and all others are active or in use; let requests end, or raise the limits"
    )]
    Full {
        /// The new one's name.
        name: String,
        /// Adapters with it.
        adapters: usize,
        /// Their bytes.
        bytes: u64,
        /// The limits.
        most_adapters: usize,
        /// The limits.
        most_bytes: u64,
    },
    /// Nothing was active before.
    #[error("there is nothing to roll back to: no adapter was active before this one")]
    NothingBefore,
    /// An adapter could not be read.
    #[error("cannot load the adapter {name:?}")]
    Load {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gave no thread.
    #[error("a thread to load an adapter")]
    Thread(#[source] io::Error),
}

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Adapters.
    pub adapters: usize,
    /// Bytes of their factors.
    pub bytes: u64,
}

/// An adapter that is held.
#[derive(Debug)]
struct Resident {
    name: String,
    adapter: Arc<Adapter>,
    bytes: u64,
    /// Requests that use it.
    pins: Pins,
    /// When it was last pinned, by the registry's own count.
    used: AtomicU64,
}

/// What is at hand in one version. Never changed, only replaced.
#[derive(Clone, Debug, Default)]
struct State {
    residents: BTreeMap<String, Arc<Resident>>,
    active: Option<Arc<Resident>>,
}

/// A request's adapter. The registry keeps it for as long as this lives.
#[derive(Debug)]
pub struct Pinned {
    version: u64,
    resident: Option<Arc<Resident>>,
}

impl Pinned {
    /// Returns the version of the registry that the request sees: what to return with its response.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the adapter, as engines attach it; none where none is active.
    #[must_use]
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.resident.as_ref().map(|resident| &resident.adapter)
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.resident.as_ref().map(|resident| resident.name.as_str())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(resident) = &self.resident {
            resident.pins.unpin();
        }
    }
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The version that has it.
    pub version: u64,
    /// The names of adapters that had to go.
    pub evicted: Vec<String>,
}

/// The adapters of a server.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    published: Published<State>,
    /// Active adapters before the current one, the last one last; whoever holds this may write.
    history: Mutex<Vec<Option<Arc<Resident>>>>,
    uses: AtomicU64,
}

impl Registry {
    /// Returns one that holds nothing, at version 1.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let published = Published::new(State::default());
        Self { limits, published, history: Mutex::default(), uses: AtomicU64::new(0) }
    }

    /// Returns the current version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.published.version()
    }

    /// Returns the names of what is at hand, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.published.load().1.residents.keys().cloned().collect()
    }

    /// Returns the active adapter for a request, or what a request without an adapter needs to know.
    #[must_use]
    pub fn pin_active(&self) -> Pinned {
        loop {
            let (version, state) = self.published.load();
            match &state.active {
                None => return Pinned { version, resident: None },
                Some(resident) if self.take(resident) => {
                    return Pinned { version, resident: Some(Arc::clone(resident)) };
                }
                // It went between the two; the next state is about to come.
                Some(_) => thread::yield_now(),
            }
        }
    }

    /// Returns the adapter of that name for a request.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn pin(&self, name: &str) -> Result<Pinned, RegistryError> {
        loop {
            let (version, state) = self.published.load();
            let Some(resident) = state.residents.get(name) else { return Err(unknown(name, &state)) };
            if self.take(resident) {
                return Ok(Pinned { version, resident: Some(Arc::clone(resident)) });
            }
            thread::yield_now();
        }
    }

    fn take(&self, resident: &Resident) -> bool {
        let taken = resident.pins.pin();
        if taken {
            resident.used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        taken
    }

    fn write(&self) -> MutexGuard<'_, Vec<Option<Arc<Resident>>>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an adapter at hand, in place of one of the same name, whose requests go on with what they have.
    /// Where that one is active, the new one is from now on. Others go if there must be room, those first
    /// that were not used for longest: never one that is active or that a request has. What could be rolled
    /// back to goes last.
    ///
    /// # Errors
    ///
    /// If there is no room; nothing has changed then.
    pub fn insert(&self, name: &str, adapter: impl Into<Arc<Adapter>>) -> Result<Change, RegistryError> {
        let adapter = adapter.into();
        let values: usize = adapter.values().map(LowRank::parameters).sum();
        let resident = Arc::new(Resident {
            name: name.to_owned(),
            adapter,
            bytes: (values * size_of::<f32>()) as u64,
            pins: Pins::new(),
            used: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed) + 1),
        });
        let mut history = self.write();
        let mut state = State::clone(&self.published.load().1);
        let mut kept_history = history.clone();
        let replaced = state.residents.insert(name.to_owned(), Arc::clone(&resident));
        if let (Some(active), Some(replaced)) = (&state.active, &replaced)
            && Arc::ptr_eq(active, replaced)
        {
            remember(&mut kept_history, Some(Arc::clone(active)));
            state.active = Some(Arc::clone(&resident));
        }
        let gone = self.make_room(&resident, replaced.as_ref(), &mut state, &mut kept_history)?;
        *history = kept_history;
        let evicted = gone.iter().map(|resident| resident.name.clone()).collect();
        let (version, old) = self.published.publish(Arc::new(state));
        // Whatever these hold last is let go of here, after the change is seen.
        drop((old, gone, replaced));
        Ok(Change { version, evicted })
    }

    /// Takes out of a state what is too much, and returns it.
    fn make_room(
        &self,
        new: &Arc<Resident>,
        replaced: Option<&Arc<Resident>>,
        state: &mut State,
        history: &mut Vec<Option<Arc<Resident>>>,
    ) -> Result<Vec<Arc<Resident>>, RegistryError> {
        let mut gone: Vec<Arc<Resident>> = Vec::new();
        loop {
            let in_use = replaced.filter(|replaced| replaced.pins.in_use());
            let (adapters, bytes) = held(state, history, in_use);
            let Limits { adapters: most_adapters, bytes: most_bytes } = self.limits;
            if adapters <= most_adapters && bytes <= most_bytes {
                return Ok(gone);
            }
            let in_history =
                |resident: &Arc<Resident>| history.iter().flatten().any(|other| Arc::ptr_eq(other, resident));
            let is_active = |resident: &Arc<Resident>| {
                Arc::ptr_eq(resident, new) || state.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, resident))
            };
            let mut candidates: Vec<&Arc<Resident>> =
                state.residents.values().filter(|resident| !is_active(resident) && !in_history(resident)).collect();
            candidates.sort_by_key(|resident| resident.used.load(Ordering::Relaxed));
            if let Some(victim) = candidates.into_iter().find(|resident| resident.pins.retire()).cloned() {
                state.residents.remove(&victim.name);
                gone.push(victim);
            } else if history.is_empty() {
                gone.iter().for_each(|resident| resident.pins.reinstate());
                let name = new.name.clone();
                return Err(RegistryError::Full { name, adapters, bytes, most_adapters, most_bytes });
            } else {
                history.remove(0);
            }
        }
    }

    /// Makes an adapter the active one, or none.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn activate(&self, name: Option<&str>) -> Result<u64, RegistryError> {
        let mut history = self.write();
        let mut state = State::clone(&self.published.load().1);
        let active = match name {
            None => None,
            Some(name) => match state.residents.get(name) {
                Some(resident) => Some(Arc::clone(resident)),
                None => return Err(unknown(name, &state)),
            },
        };
        remember(&mut history, std::mem::replace(&mut state.active, active));
        Ok(self.published.publish(Arc::new(state)).0)
    }

    /// Makes active what was so before, the very same numbers, under a new version.
    ///
    /// # Errors
    ///
    /// If nothing was, or it had to make room.
    pub fn rollback(&self) -> Result<u64, RegistryError> {
        let mut history = self.write();
        let before = history.pop().ok_or(RegistryError::NothingBefore)?;
        let mut state = State::clone(&self.published.load().1);
        if let Some(resident) = &before {
            state.residents.insert(resident.name.clone(), Arc::clone(resident));
        }
        state.active = before;
        Ok(self.published.publish(Arc::new(state)).0)
    }

    /// Reads an adapter on a thread of its own and puts it at hand. Requests go on meanwhile and see it once
    /// it is there as a whole.
    ///
    /// # Errors
    ///
    /// If the system gives no thread; the thread's result is that of `read` and of [`Registry::insert`].
    pub fn load<E>(
        self: &Arc<Self>,
        name: &str,
        read: impl FnOnce() -> Result<Adapter, E> + Send + 'static,
    ) -> Result<JoinHandle<Result<Change, RegistryError>>, RegistryError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let (registry, name) = (Arc::clone(self), name.to_owned());
        let job = move || {
            let failed = |source: E| RegistryError::Load { name: name.clone(), source: Box::new(source) };
            let adapter = read().map_err(failed)?;
            registry.insert(&name, adapter)
        };
        thread::Builder::new().name("adapter-load".to_owned()).spawn(job).map_err(RegistryError::Thread)
    }
}

/// Returns how many adapters a state and what can be rolled back to hold, and their bytes.
fn held(state: &State, history: &[Option<Arc<Resident>>], replaced: Option<&Arc<Resident>>) -> (usize, u64) {
    let mut all: Vec<&Arc<Resident>> = state.residents.values().collect();
    for resident in history.iter().flatten().chain(&state.active).chain(replaced) {
        if !all.iter().any(|other| Arc::ptr_eq(other, resident)) {
            all.push(resident);
        }
    }
    (all.len(), all.iter().map(|resident| resident.bytes).sum())
}

fn remember(history: &mut Vec<Option<Arc<Resident>>>, before: Option<Arc<Resident>>) {
    if history.len() == HISTORY {
        history.remove(0);
    }
    history.push(before);
}

fn unknown(name: &str, state: &State) -> RegistryError {
    let known = state.residents.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    RegistryError::Unknown { name: name.to_owned(), known }
}
