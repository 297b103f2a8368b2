//! Waiting: spinning for a while, then parked.
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering, fence},
    thread,
};

/// Spins before parking: some tens of microseconds, longer than the gap between two phases.
pub(super) const PATIENT_SPINS: u32 = 1500;
/// Spins where threads share processors.
pub(super) const SHARED_SPINS: u32 = 20;

/// A thread that waits for a counter to change.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    parked: AtomicBool,
}

impl Sleeper {
    /// Returns when `done` holds. `wake` of the thread that makes it hold comes afterwards.
    pub(super) fn wait(&self, spins: &Patience, done: impl Fn() -> bool) {
        let most = spins.get();
        for _ in 0..most {
            if done() {
                spins.worked();
                return;
            }
            std::hint::spin_loop();
        }
        spins.failed(most);
        loop {
            // Either this store is seen by `wake`, or `done` sees what was stored before `wake`: both
            // sides use sequentially consistent accesses. The fence says it once more for emulators,
            // which run ARM's as acquire and release on processors that reorder those.
            self.parked.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if done() {
                self.parked.store(false, Ordering::SeqCst);
                return;
            }
            thread::park();
        }
    }

    /// Calls `unpark` if the thread may be parked.
    pub(super) fn wake(&self, unpark: impl FnOnce()) {
        // The flag stays for whoever waits to clear: what woke is not always who waits now, where
        // several threads share a pool, and waking once too often costs nothing.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) {
            unpark();
        }
    }
}

/// How long to spin: less after waits that spinning did not end, so that a machine whose cores are
/// busy with something else is not kept busy for nothing. Every few waits the whole patience is tried
/// again: without that, threads that were once held up would park in every wait from then on, however
/// short, because only spinning can show that waits have become short.
#[derive(Debug)]
pub(super) struct Patience {
    most: u32,
    now: AtomicU32,
    waits: AtomicU32,
}

/// Of so many waits, one is spun out in full.
const TRIED_AGAIN: u32 = 4;

impl Patience {
    pub(super) fn new(most: u32) -> Self {
        Self { most, now: AtomicU32::new(most), waits: AtomicU32::new(0) }
    }

    fn get(&self) -> u32 {
        let waits = self.waits.fetch_add(1, Ordering::Relaxed);
        if waits.is_multiple_of(TRIED_AGAIN) { self.most } else { self.now.load(Ordering::Relaxed) }
    }

    fn worked(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if now < self.most {
            self.now.store((now * 4).min(self.most), Ordering::Relaxed);
        }
    }

    /// A wait that was given up early tells nothing.
    fn failed(&self, spins: u32) {
        if spins >= self.most {
            let now = self.now.load(Ordering::Relaxed);
            self.now.store((now / 2).max(SHARED_SPINS), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_comes_back_when_waits_are_short_again() {
        let patience = Patience::new(PATIENT_SPINS);
        for _ in 0..20 {
            patience.failed(PATIENT_SPINS);
        }
        assert_eq!(patience.now.load(Ordering::Relaxed), SHARED_SPINS);
        // Waits that need a thousand spins.
        for _ in 0..40 {
            let spins = patience.get();
            if spins >= 1000 { patience.worked() } else { patience.failed(spins) }
        }
        assert_eq!(patience.now.load(Ordering::Relaxed), PATIENT_SPINS);
    }
}
