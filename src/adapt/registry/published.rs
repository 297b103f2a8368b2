//! One value that many read while a writer replaces it.
use crossbeam_utils::CachePadded;

use super::primitives::{Arc, AtomicU64, Mutex, Ordering, PoisonError, RwLock, TryLockError, yield_now};

/// Slots, of which one is current: a reader has to stand still inside one for as long as it takes to go
/// through all others before a writer has to step over it.
pub(super) const SLOTS: usize = 64;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
const SLOT_MASK: u64 = SLOTS as u64 - 1;

#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) version: u64,
    value: Arc<T>,
}

/// A value with a version that only grows.
///
/// One atomic word says which slot is current and which version it must hold. A writer fills a slot that is
/// not current, then stores the word: readers see the old value or the new one, whole. A reader that comes
/// to a slot already given to a later version sees so and reads the word again. Each slot has a lock, held
/// while a pointer is copied; readers take it shared, and a writer never waits for one, but takes
/// another slot. What readers write to (the lock of the current slot) lies on no line of the cache that a writer
/// needs before it is done.
pub struct Published<T> {
    /// Version above, slot below.
    current: AtomicU64,
    pub(super) slots: Box<[CachePadded<RwLock<Slot<T>>>]>,
    writer: CachePadded<Mutex<()>>,
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
        Self::with_slots(value, SLOTS)
    }

    /// Returns one of fewer slots, at least two.
    pub(super) fn with_slots(value: T, slots: usize) -> Self {
        let value = Arc::new(value);
        let slot = |at: usize| Slot { version: u64::from(at == 0), value: Arc::clone(&value) };
        let slots = (0..slots.clamp(2, SLOTS)).map(|at| CachePadded::new(RwLock::new(slot(at)))).collect();
        Self { slots, current: AtomicU64::new(1 << SLOT_BITS), writer: CachePadded::new(Mutex::new(())) }
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
            drop(slot);
            yield_now();
        }
    }

    /// Makes a value current and returns its version, with the value whose slot it took, so that the caller
    /// can choose when to let go of it: that may be much memory.
    pub fn publish(&self, value: Arc<T>) -> (u64, Arc<T>) {
        let _only = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let word = self.current.load(Ordering::Relaxed);
        let version = (word >> SLOT_BITS) + 1;
        loop {
            for distance in 1..self.slots.len() as u64 {
                let at = ((word & SLOT_MASK) + distance) % self.slots.len() as u64;
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
            yield_now();
        }
    }
}
