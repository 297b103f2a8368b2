//! One value that many read while a writer replaces it.
use std::sync::{
    Arc, Mutex, PoisonError, RwLock, TryLockError,
    atomic::{AtomicU64, Ordering},
};

/// Slots, of which one is current: a reader has to stand still inside one for as long as it takes to go
/// through all others before a writer has to step over it.
const SLOTS: usize = 64;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
const SLOT_MASK: u64 = SLOTS as u64 - 1;

struct Slot<T> {
    version: u64,
    value: Arc<T>,
}

/// A value with a version that only grows.
///
/// One atomic word says which slot is current and which version it must hold. A writer fills a slot that is
/// not current, then stores the word: readers see the old value or the new one, whole. A reader that comes
/// to a slot already given to a later version sees so and reads the word again. Each slot has a lock, held
/// while a pointer is copied; readers take it shared, and a writer never waits for one, but takes
/// another slot.
pub struct Published<T> {
    /// Version above, slot below.
    current: AtomicU64,
    slots: Box<[RwLock<Slot<T>>]>,
    writer: Mutex<()>,
}

impl<T> std::fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl<T> Published<T> {
    /// Publishes a first value, as version 1.
    #[must_use]
    pub fn new(value: T) -> Self {
        let value = Arc::new(value);
        let slot = |at: usize| RwLock::new(Slot { version: u64::from(at == 0), value: Arc::clone(&value) });
        Self { slots: (0..SLOTS).map(slot).collect(), current: AtomicU64::new(1 << SLOT_BITS), writer: Mutex::new(()) }
    }

    /// Returns the version that is current now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.current.load(Ordering::Acquire) >> SLOT_BITS
    }

    /// Returns the current version with its value.
    #[must_use]
    pub fn load(&self) -> (u64, Arc<T>) {
        loop {
            let word = self.current.load(Ordering::Acquire);
            let slot = self.slots[(word & SLOT_MASK) as usize].read().unwrap_or_else(PoisonError::into_inner);
            if slot.version == word >> SLOT_BITS {
                return (slot.version, Arc::clone(&slot.value));
            }
        }
    }

    /// Makes a value current and returns its version, with the value whose slot it took, so that the caller
    /// can choose when to let go of it: that may be much memory.
    pub fn publish(&self, value: Arc<T>) -> (u64, Arc<T>) {
        let _only = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let word = self.current.load(Ordering::Relaxed);
        let version = (word >> SLOT_BITS) + 1;
        loop {
            for distance in 1..SLOTS as u64 {
                let at = (word + distance) & SLOT_MASK;
                let mut slot = match self.slots[at as usize].try_write() {
                    Ok(slot) => slot,
                    Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
                    Err(TryLockError::WouldBlock) => continue,
                };
                let Slot { value: replaced, .. } = std::mem::replace(&mut *slot, Slot { version, value });
                drop(slot);
                self.current.store(version << SLOT_BITS | at, Ordering::Release);
                return (version, replaced);
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn versions_grow_by_one_and_values_are_theirs() {
        let published = Published::new(10u64);
        assert_eq!(published.load(), (1, Arc::new(10)));
        for i in 2..300 {
            let (version, replaced) = published.publish(Arc::new(10 * i));
            assert_eq!(version, i);
            // Whoever was there a round ago, the first value where nobody was.
            let expected = if i <= SLOTS as u64 { 10 } else { 10 * (i - SLOTS as u64) };
            assert_eq!(*replaced, expected);
            assert_eq!((published.load(), published.version()), ((i, Arc::new(10 * i)), i));
        }
    }

    /// A writer goes around slots that are held, and comes back to them.
    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let published = Published::new(0u64);
        let held = published.slots[5].read().unwrap();
        for i in 1..200 {
            published.publish(Arc::new(i));
            assert_eq!(*published.load().1, i);
        }
        assert_eq!(held.version, 0);
        drop(held);
        (200..300).for_each(|i| _ = published.publish(Arc::new(i)));
        assert!(published.slots[5].read().unwrap().version > 200);
    }

    #[test]
    fn writers_at_once_get_versions_of_their_own() {
        let published = Published::new(0u64);
        let (stop, write) = (AtomicBool::new(false), |_| (0..5000).map(|i| published.publish(Arc::new(i)).0).collect());
        let versions: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (version, _) = published.load();
                    assert!(version >= last, "{version} after {last}");
                    last = version;
                }
            });
            let writers: Vec<_> = (0..2).map(|writer| scope.spawn(move || write(writer))).collect();
            let versions = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
            versions
        });
        let mut all = versions.concat();
        all.sort_unstable();
        assert_eq!(all, (2..10_002).collect::<Vec<u64>>());
        assert!(versions.iter().all(|own| own.is_sorted()));
    }
}
