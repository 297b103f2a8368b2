//! How many requests use a value that is shared, until none may any more.
use super::primitives::{AtomicU32, Ordering};

/// The mark of a value that is to go, in place of a number of pins.
const RETIRED: u32 = u32::MAX;

/// A number of pins. While there is one, the value cannot be retired; once it is, it cannot be pinned.
#[derive(Debug)]
pub(super) struct Pins(AtomicU32);

impl Pins {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds a pin; not to a value that is retired.
    pub(super) fn pin(&self) -> bool {
        let more = |pins: u32| (pins < RETIRED - 1).then_some(pins + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Takes a pin back that [`Self::pin`] has added.
    pub(super) fn unpin(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Retires a value that nobody has pinned; returns whether it did.
    pub(super) fn retire(&self) -> bool {
        self.0.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes a retirement back; only whoever has retired the value may.
    pub(super) fn reinstate(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Returns whether anybody has pinned it.
    pub(super) fn in_use(&self) -> bool {
        !matches!(self.0.load(Ordering::Acquire), 0 | RETIRED)
    }
}
