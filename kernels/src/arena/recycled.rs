//! Memory of cached keys and values, on huge pages like the weights.
//!
//! Every token reads all of what is cached before it, in pieces of some KiB from everywhere in it: on
//! pages of 4 KiB most pieces begin with a walk through the page tables.
use std::{
    alloc::{Layout, handle_alloc_error},
    collections::BTreeMap,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ALIGNMENT, Arena, Block};

/// The bytes of an extent, where its blocks are not larger.
const EXTENT: usize = 16 << 20;

/// The bytes of extents that are kept though nothing in them is used.
const RESERVE: usize = 64 << 20;

/// A type of which all bits are a value.
pub trait Number: Copy + Default + Send + Sync + 'static {}

impl Number for f32 {}
impl Number for u16 {}
impl Number for u8 {}

/// An address range of blocks of one size, of which what is written to is resident.
///
/// A cache has few sizes of page; cutting large blocks for small pages would leave pieces of no use.
#[derive(Debug)]
struct Extent {
    arena: Arena,
    /// Blocks that were given back.
    free: Vec<Block>,
    /// How many are in use.
    used: usize,
}

impl Extent {
    /// Returns a block, and whether it was used before.
    fn take(&mut self, bytes: usize) -> Option<(Block, bool)> {
        let found = match self.free.pop() {
            Some(block) => (block, true),
            None => (self.arena.allocate(bytes).ok()?, false),
        };
        self.used += 1;
        Some(found)
    }
}

#[derive(Debug, Default)]
struct Shelf {
    /// By the bytes of their blocks and by address. Low ones are taken from first, so that the high
    /// ones of a cache that shrinks come to be unused as a whole.
    extents: BTreeMap<(usize, usize), Extent>,
    /// The bytes of extents of which nothing is used.
    spare: usize,
}

impl Shelf {
    fn take(&mut self, bytes: usize) -> (Block, bool) {
        for extent in self.extents.range_mut((bytes, 0)..=(bytes, usize::MAX)).map(|(_, extent)| extent) {
            if let Some(found) = extent.take(bytes) {
                if extent.used == 1 {
                    self.spare -= extent.arena.region.bytes;
                }
                return found;
            }
        }
        let new = Arena::with_capacity(bytes.max(EXTENT)).ok().and_then(|arena| {
            let mut extent = Extent { arena, free: Vec::new(), used: 0 };
            Some((extent.take(bytes)?, extent))
        });
        let Some((found, extent)) = new else {
            // As a vector does where the system has no memory left.
            handle_alloc_error(Layout::from_size_align(bytes, ALIGNMENT).unwrap_or_else(|_| Layout::new::<u8>()));
        };
        self.extents.insert(place(&found.0), extent);
        found
    }

    /// Takes a block back. An extent of which nothing is used any more goes back to the system, unless the
    /// reserve has room for it. Single blocks do not: that would break huge pages apart, and the memory
    /// would come again on small ones.
    fn give_back(&mut self, block: Block) {
        let place = place(&block);
        let Some(extent) = self.extents.get_mut(&place) else { return };
        let bytes = extent.arena.region.bytes;
        extent.free.push(block);
        extent.used -= 1;
        if extent.used > 0 {
            return;
        }
        if self.spare + bytes > RESERVE {
            self.extents.remove(&place);
        } else {
            self.spare += bytes;
        }
    }
}

/// Returns the key of a block's extent.
fn place(block: &Block) -> (usize, usize) {
    (block.bytes, block.region.start.addr().get())
}

/// Where the pages of a cache come from: what one gives back, the next of the same size gets.
///
/// Memory is taken in extents of 16 MiB (or one larger buffer) for each size. One of which nothing is used
/// goes back to the system, but for 64 MiB that are kept for what comes next; all of it does when the last
/// handle and buffer are dropped.
#[derive(Clone, Debug, Default)]
pub struct CacheMemory(Arc<Mutex<Shelf>>);

impl CacheMemory {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns so many zeros.
    ///
    /// # Examples
    ///
    /// ```
    /// use ruvlab_kernels::CacheMemory;
    ///
    /// let memory = CacheMemory::default();
    /// let mut buffer = memory.zeros::<f32>(3);
    /// buffer[1] = 2.0;
    /// assert_eq!(*buffer, [0.0, 2.0, 0.0]);
    /// ```
    #[must_use]
    pub fn zeros<T: Number>(&self, length: usize) -> CacheBuffer<T> {
        let bytes = length.saturating_mul(size_of::<T>());
        let (block, used) = self.shelf().take(bytes);
        let mut buffer = CacheBuffer { block: Some(block), memory: self.clone(), numbers: PhantomData };
        if used {
            buffer.fill(T::default());
        }
        buffer
    }
}

/// Numbers in the memory of a cache.
#[derive(Debug)]
pub struct CacheBuffer<T: Number> {
    /// There until it is dropped.
    block: Option<Block>,
    memory: CacheMemory,
    numbers: PhantomData<T>,
}

impl<T: Number> CacheBuffer<T> {
    /// Returns where it comes from.
    #[must_use]
    pub fn memory(&self) -> &CacheMemory {
        &self.memory
    }
}

impl<T: Number> Deref for CacheBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.block.as_ref().map_or(&[], Block::numbers)
    }
}

impl<T: Number> DerefMut for CacheBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.block.as_mut().map_or(&mut [], Block::numbers_mut)
    }
}

impl<T: Number> Clone for CacheBuffer<T> {
    fn clone(&self) -> Self {
        let mut copy = self.memory.zeros(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Number> Drop for CacheBuffer<T> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.memory.shelf().give_back(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_apart_and_used_again() {
        let memory = CacheMemory::default();
        let mut halves = memory.zeros::<u16>(1001);
        let mut singles = memory.zeros::<f32>(77);
        halves.fill(7);
        singles.fill(1.5);
        assert!(halves.len() == 1001 && halves.iter().all(|x| *x == 7));
        assert!(singles.len() == 77 && singles.iter().all(|x| *x == 1.5));
        let copy = halves.clone();
        let at = halves.as_ptr();
        drop(halves);
        assert!(copy.iter().all(|x| *x == 7));
        let again = memory.zeros::<u8>(2002);
        assert_eq!(again.as_ptr(), at.cast(), "the same size gets what was given back");
        assert!(again.iter().all(|x| *x == 0));
        let other = memory.zeros::<u8>(2001);
        assert_ne!(other.as_ptr(), at.cast());
        drop(memory);
        assert!(other.iter().all(|x| *x == 0) && copy[0] == 7);
    }

    #[test]
    fn many_and_large_buffers_get_extents_of_their_own() {
        let memory = CacheMemory::default();
        let large = memory.zeros::<u8>(EXTENT + 1);
        let more: Vec<_> = (0..4).map(|_| memory.zeros::<u8>(EXTENT / 3)).collect();
        assert_eq!(large.len(), EXTENT + 1);
        for (i, one) in more.iter().enumerate() {
            for other in &more[i + 1..] {
                assert!(one.as_ptr_range().end <= other.as_ptr() || other.as_ptr_range().end <= one.as_ptr());
            }
        }
        assert_eq!(memory.zeros::<f32>(0).len(), 0);
    }

    /// Returns the bytes of all extents, and how many of them are in memory.
    #[cfg(target_os = "linux")]
    fn held(memory: &CacheMemory) -> (usize, usize) {
        let (mut all, mut resident) = (0, 0);
        for Extent { arena, .. } in memory.shelf().extents.values() {
            let mut pages = vec![0; arena.region.bytes / 4096];
            // SAFETY: this looks up which pages of the extent are in memory, and reads none of them; there
            // is room for a byte of each, and for more than enough where pages are larger.
            let code =
                unsafe { libc::mincore(arena.region.start.as_ptr().cast(), arena.region.bytes, pages.as_mut_ptr()) };
            assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
            all += arena.region.bytes;
            resident += pages.iter().filter(|page| **page & 1 == 1).count() * 4096;
        }
        (all, resident)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_not_used_goes_back_to_the_system_but_for_a_reserve() {
        const PAGE: usize = 1 << 20;
        let memory = CacheMemory::default();
        let mut wide: Vec<_> = (0..2 * RESERVE / PAGE).map(|_| memory.zeros::<u8>(PAGE)).collect();
        wide.iter_mut().for_each(|page| page.fill(1));
        assert_eq!(held(&memory), (2 * RESERVE, 2 * RESERVE));
        // Narrower pages take their place, as when a policy quantises: what stays is not the sum of both.
        let quarter = |_| {
            let mut page = memory.zeros::<u8>(PAGE / 4);
            page.fill(2);
            page
        };
        let narrow: Vec<_> = wide.drain(..).map(quarter).collect();
        assert_eq!(held(&memory), (3 * RESERVE / 2, 3 * RESERVE / 2));
        // What was kept is used again before anything new is taken.
        let again: Vec<_> = (0..RESERVE / PAGE).map(|_| memory.zeros::<u8>(PAGE)).collect();
        assert!(again.iter().all(|page| page.iter().all(|byte| *byte == 0)));
        assert!(narrow.iter().all(|page| page.iter().all(|byte| *byte == 2)));
        let spare = || memory.shelf().spare;
        assert_eq!((spare(), held(&memory).0), (0, 3 * RESERVE / 2));
        drop((again, narrow));
        assert_eq!((spare(), held(&memory).0), (RESERVE, RESERVE));
    }

    #[test]
    fn low_addresses_are_used_again_first() {
        let memory = CacheMemory::default();
        let mut pages: Vec<_> = (0..5).map(|_| memory.zeros::<u8>(EXTENT)).collect();
        pages.sort_by_key(|page| page.as_ptr());
        let low = pages[1].as_ptr();
        drop(pages.drain(1..3));
        assert_eq!(memory.zeros::<u8>(EXTENT).as_ptr(), low);
    }
}
