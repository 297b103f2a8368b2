//! Work that is handed out as it is asked for.
use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Ranges of `0..total` handed out as they are asked for, so that a thread whose core is taken away
/// holds up the others by one range at most.
#[derive(Debug)]
pub struct Chunks {
    next: AtomicUsize,
    total: usize,
    size: usize,
}

impl Chunks {
    /// Returns the ranges `0..size`, `size..2 size` and so on up to `total`.
    ///
    /// # Panics
    ///
    /// If `size` is zero.
    #[must_use]
    pub fn new(total: usize, size: usize) -> Self {
        assert!(size > 0, "chunks of nothing");
        Self { next: AtomicUsize::new(0), total, size }
    }

    /// Returns a range nobody else got, or nothing when all are taken.
    #[must_use]
    pub fn next(&self) -> Option<Range<usize>> {
        let start = self.next.fetch_add(1, Ordering::Relaxed).checked_mul(self.size)?;
        (start < self.total).then(|| start..(start + self.size).min(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_range_once() {
        let chunks = Chunks::new(130, 64);
        assert_eq!(std::iter::from_fn(|| chunks.next()).collect::<Vec<_>>(), [0..64, 64..128, 128..130]);
        assert_eq!(chunks.next(), None);
        assert_eq!(Chunks::new(0, 4).next(), None);
    }
}
