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

/// The address range taken at once; memory is resident as it is written to.
const RANGE: usize = 64 << 20;

/// A type of which all bits are a value.
pub trait Number: Copy + Default + Send + Sync + 'static {}

impl Number for f32 {}
impl Number for u16 {}
impl Number for u8 {}

#[derive(Debug, Default)]
struct Shelf {
    arena: Option<Arena>,
    /// Blocks that were given back, by their bytes. A cache has few sizes of page, and a size that was
    /// needed once is needed again; cutting large blocks for small pages would leave pieces of no use.
    free: BTreeMap<usize, Vec<Block>>,
}

impl Shelf {
    /// Returns a block, and whether it was used before.
    fn take(&mut self, bytes: usize) -> (Block, bool) {
        if let Some(block) = self.free.get_mut(&bytes).and_then(Vec::pop) {
            return (block, true);
        }
        if let Some(Ok(block)) = self.arena.as_mut().map(|arena| arena.allocate(bytes)) {
            return (block, false);
        }
        let new = Arena::with_capacity(bytes.max(RANGE)).and_then(|mut arena| Ok((arena.allocate(bytes)?, arena)));
        let Ok((block, arena)) = new else {
            // As a vector does where the system has no memory left.
            handle_alloc_error(Layout::from_size_align(bytes, ALIGNMENT).unwrap_or_else(|_| Layout::new::<u8>()));
        };
        self.arena = Some(arena);
        (block, false)
    }
}

/// Where the pages of a cache come from: what one gives back, the next of the same size gets. It goes
/// back to the system when the last handle and buffer are dropped.
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
            self.memory.shelf().free.entry(block.as_slice().len()).or_default().push(block);
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
    fn many_and_large_buffers_get_ranges_of_their_own() {
        let memory = CacheMemory::default();
        let large = memory.zeros::<u8>(RANGE + 1);
        let more: Vec<_> = (0..4).map(|_| memory.zeros::<u8>(RANGE / 3)).collect();
        assert_eq!(large.len(), RANGE + 1);
        for (i, one) in more.iter().enumerate() {
            for other in &more[i + 1..] {
                assert!(one.as_ptr_range().end <= other.as_ptr() || other.as_ptr_range().end <= one.as_ptr());
            }
        }
        assert_eq!(memory.zeros::<f32>(0).len(), 0);
    }
}
