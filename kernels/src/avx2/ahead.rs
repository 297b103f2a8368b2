//! What is read next, asked for while something else is computed.
use std::arch::x86_64::*;

use crate::attention::Cached;

const LINE: usize = 64;

/// Cache lines that are asked for a few at a time, into the second cache. The first awaits only some two dozen at
/// once, so that what is brought there comes no faster than 64 bytes x 24 / latency; and where more are asked for
/// together, whatever is to be read after them waits too.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    next: *const u8,
    left: usize,
    a_step: usize,
}

impl Ahead {
    /// Returns the lines of what is cached, to be asked for in so many steps.
    pub(crate) fn new(cached: Cached<'_>, steps: usize) -> Self {
        let (next, bytes) = match cached {
            Cached::F32(all) => (all.as_ptr().cast(), size_of_val(all)),
            Cached::F16(all) => (all.as_ptr().cast(), size_of_val(all)),
            Cached::Q8_0(all) | Cached::Q5_1(all) | Cached::Q4_0(all) => (all.as_ptr(), all.len()),
        };
        let left = bytes.div_ceil(LINE);
        Self { next, left, a_step: left.div_ceil(steps.max(1)) }
    }

    #[inline]
    pub(crate) fn step(&mut self) {
        let count = self.a_step.min(self.left);
        for _ in 0..count {
            // SAFETY: a hint, which reads nothing and which all x86-64 have.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(LINE);
        }
        self.left -= count;
    }
}
