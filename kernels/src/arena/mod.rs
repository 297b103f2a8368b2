//! Memory that several threads use: the room of all unsafe code that is not a tier's.
//!
//! Beside the arena itself these are what is given back and used again (`recycled`), buffers that threads
//! fill in parts (`strips`, by `claims`), and a closure lent to the threads of a pool (`lending`).
//!
//! An arena is one region of memory for all weights of a model, on huge pages.
//! A model is read from end to end for every token, so the cost of address translation counts: 2 MiB
//! pages let the prefetchers run on where 4 KiB ones stop them. The region is anonymous memory of
//! which the kernel provides only what is written to.
mod claims;
mod lending;
mod recycled;
mod strips;

use std::{ptr::NonNull, sync::Arc};

pub use claims::Claims;
pub(crate) use lending::{Alone, Borrower, Lender, lending};
pub(crate) use recycled::Number;
pub use recycled::{CacheBuffer, CacheMemory};
pub(crate) use strips::{Strip, Strips};

/// The size of a huge page, and the alignment of a region.
const HUGE_PAGE: usize = 2 << 20;

/// The alignment of every allocation: several cache lines, so that no two matrices share one.
const ALIGNMENT: usize = 256;

/// Why memory cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// The system refused the region.
    Refused {
        /// Its size.
        bytes: usize,
        /// What the system said.
        reason: String,
    },
    /// An allocation is larger than what is left.
    Full {
        /// The size asked for.
        bytes: usize,
        /// What is left of the region.
        left_bytes: usize,
    },
}

impl std::fmt::Display for ArenaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { bytes, reason } => {
                write!(f, "cannot reserve {bytes} bytes for weights: {reason} (use a smaller model or format)")
            }
            Self::Full { bytes, left_bytes } => {
                write!(f, "{bytes} bytes do not fit into the {left_bytes} left in the arena (reserve a larger one)")
            }
        }
    }
}

impl std::error::Error for ArenaError {}

/// A mapping, given back when the last block in it is dropped.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region is plain memory; who may write which part of it is settled by `Block`, of which
// there is one for each part, neither cloned nor overlapping.
unsafe impl Send for Region {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Region {}

impl Region {
    fn reserve(bytes: usize) -> Result<Self, ArenaError> {
        let refused = |reason: String| ArenaError::Refused { bytes, reason };
        let bytes = bytes.max(1).checked_next_multiple_of(HUGE_PAGE).ok_or_else(|| refused("too many".into()))?;
        let mapped = bytes.checked_add(HUGE_PAGE).ok_or_else(|| refused("too many".into()))?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that exists already.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(refused(std::io::Error::last_os_error().to_string()));
        }
        let start = start.cast::<u8>();
        let before = start.align_offset(HUGE_PAGE);
        let after = HUGE_PAGE - before;
        // SAFETY: `before` bytes in front of the aligned region and `after` bytes behind it, together
        // one huge page, lie inside the mapping made above and are used by nobody.
        let aligned = unsafe {
            if before > 0 {
                libc::munmap(start.cast(), before);
            }
            let aligned = start.add(before);
            if after > 0 {
                libc::munmap(aligned.add(bytes).cast(), after);
            }
            // Advice only: without it everything works on small pages.
            #[cfg(target_os = "linux")]
            libc::madvise(aligned.cast(), bytes, libc::MADV_HUGEPAGE);
            aligned
        };
        let start = NonNull::new(aligned).ok_or_else(|| refused("mapped at address 0".into()))?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `reserve` kept, and no block of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Memory that is handed out once, front to back, and given back as a whole.
///
/// The region stays until the arena and every matrix in it are dropped.
///
/// # Examples
///
/// ```
/// use ruvlab_kernels::{Arena, Format, Matrix};
///
/// let mut arena = Arena::with_capacity(Matrix::packed_bytes(Format::F32, 2, 3).unwrap()).unwrap();
/// let bytes: Vec<u8> = (0..6).flat_map(|x| (x as f32).to_le_bytes()).collect();
/// let matrix = Matrix::pack(&mut arena, Format::F32, 2, 3, &bytes).unwrap();
/// let mut row = [0.0; 3];
/// matrix.row(1, &mut row);
/// assert_eq!(row, [3.0, 4.0, 5.0]);
/// ```
#[derive(Debug)]
pub struct Arena {
    region: Arc<Region>,
    used: usize,
}

impl Arena {
    /// Returns an arena of at least so many bytes, of which none are resident yet.
    ///
    /// # Errors
    ///
    /// If the system refuses the address range.
    pub fn with_capacity(bytes: usize) -> Result<Self, ArenaError> {
        Ok(Self { region: Arc::new(Region::reserve(bytes)?), used: 0 })
    }

    /// Returns how many bytes were handed out.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used
    }

    /// Returns how many bytes can still be handed out.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.region.bytes - self.used
    }

    /// Returns how much of the arena an allocation of so many bytes uses up.
    pub(crate) const fn footprint(bytes: usize) -> usize {
        bytes.next_multiple_of(ALIGNMENT)
    }

    /// Returns so many zero bytes, 256-byte aligned, that nothing else refers to.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Block, ArenaError> {
        let full = ArenaError::Full { bytes, left_bytes: self.left_bytes() };
        let footprint = bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(|| full.clone())?;
        if footprint > self.left_bytes() {
            return Err(full);
        }
        let offset = self.used;
        self.used += footprint;
        Ok(Block { region: Arc::clone(&self.region), offset, bytes })
    }
}

/// A part of an arena, with one owner.
#[derive(Debug)]
pub(crate) struct Block {
    region: Arc<Region>,
    offset: usize,
    bytes: usize,
}

impl Block {
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `allocate` has checked that the part lies in the region, which `region` keeps alive
        // and which was zero before it was written; the only writer is `as_mut_slice` of this block.
        unsafe { std::slice::from_raw_parts(self.region.start.as_ptr().add(self.offset), self.bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and parts of different blocks do not overlap, because `allocate`
        // hands every byte out once.
        unsafe { std::slice::from_raw_parts_mut(self.region.start.as_ptr().add(self.offset), self.bytes) }
    }

    /// Returns it as whole numbers of a type.
    fn numbers<T: Number>(&self) -> &[T] {
        // SAFETY: all bits are a value of each `Number`.
        unsafe { self.as_slice().align_to() }.1
    }

    fn numbers_mut<T: Number>(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { self.as_mut_slice().align_to_mut() }.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zero_and_apart() {
        let mut arena = Arena::with_capacity(3 << 20).unwrap();
        assert_eq!(arena.left_bytes(), 4 << 20);
        let mut blocks: Vec<Block> = (1..40).map(|i| arena.allocate(i * 777).unwrap()).collect();
        for (i, block) in blocks.iter_mut().enumerate() {
            assert_eq!(block.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
            assert!(block.as_slice().iter().all(|byte| *byte == 0), "block {i} is not zero");
            block.as_mut_slice().fill(i as u8 + 1);
        }
        drop(arena);
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.as_slice().iter().all(|byte| *byte == i as u8 + 1), "block {i} was overwritten");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut arena = Arena::with_capacity(HUGE_PAGE).unwrap();
        assert!(arena.allocate(HUGE_PAGE - 10).is_ok());
        assert_eq!(arena.allocate(1).unwrap_err(), ArenaError::Full { bytes: 1, left_bytes: 0 });
        assert!(matches!(arena.allocate(usize::MAX), Err(ArenaError::Full { .. })));
        assert!(matches!(Arena::with_capacity(usize::MAX), Err(ArenaError::Refused { .. })));
        assert!(matches!(Arena::with_capacity(1 << 62), Err(ArenaError::Refused { .. })));
    }

    #[test]
    fn a_region_starts_on_a_huge_page() {
        for bytes in [0, 1, HUGE_PAGE, HUGE_PAGE + 1] {
            let region = Region::reserve(bytes).unwrap();
            assert_eq!(region.start.as_ptr().align_offset(HUGE_PAGE), 0);
            assert_eq!(region.bytes, bytes.max(1).next_multiple_of(HUGE_PAGE));
        }
    }
}
