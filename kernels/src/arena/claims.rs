//! Who writes which part of a shared buffer, settled at run time.
use std::sync::atomic::{AtomicU64, Ordering};

/// A flag for each part of a buffer that several threads fill, reused from buffer to buffer.
///
/// A part can be claimed once between two resets, so two threads never hold the same part.
#[derive(Debug, Default)]
pub struct Claims {
    words: Vec<AtomicU64>,
}

impl Claims {
    /// Returns flags for no parts; buffers that use them make room.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all claims and makes room for `parts`; allocates only when there never were as many.
    pub(crate) fn reset(&mut self, parts: usize) {
        let words = parts.div_ceil(64);
        if self.words.len() < words {
            self.words.resize_with(words, AtomicU64::default);
        }
        for word in &mut self.words[..words] {
            *word.get_mut() = 0;
        }
    }

    /// Claims `first..end` and returns whether all of them were free.
    pub(crate) fn claim(&self, first: usize, end: usize) -> bool {
        let mut free = true;
        let mut at = first;
        while at < end {
            let (word, bit) = (at / 64, at % 64);
            let count = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            // Which thread came first needs no order with other memory: what is written to a part is
            // handed over by whatever ends the threads' work.
            free &= self.words[word].fetch_or(mask, Ordering::Relaxed) & mask == 0;
            at += count;
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_claimed_once() {
        let mut claims = Claims::new();
        claims.reset(300);
        assert!(claims.claim(10, 200));
        assert!(claims.claim(0, 10) && claims.claim(200, 300) && claims.claim(5, 5));
        for (first, end) in [(0, 1), (9, 11), (63, 65), (127, 129), (199, 200), (299, 300)] {
            assert!(!claims.claim(first, end), "{first}..{end} twice");
        }
        claims.reset(300);
        assert!(claims.claim(0, 300));
        assert!(!claims.claim(150, 151));
    }
}
