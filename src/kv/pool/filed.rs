//! Pages in the file, and what the file still has of those in memory.
use super::{PageId, Place, Pool, Slot};
use crate::kv::{CacheError, page::Page};

impl Pool {
    pub(in crate::kv) fn spills(&self) -> bool {
        self.file.is_some()
    }

    /// Moves a page to the file, without writing it where the file has it still; returns whether there
    /// was room.
    pub(in crate::kv) fn spill(&mut self, id: PageId) -> Result<bool, CacheError> {
        let (Some(page), Some(file)) = (self.page(id), &self.file) else { return Ok(false) };
        let (types, bytes) = (page.types(), page.bytes());
        if self.slot(id).stored.is_none() {
            if !file.has_room(bytes) {
                // Places of pages that are in memory too are there to be given up.
                (0..self.slots.len()).for_each(|id| self.forget_stored(id as PageId));
            }
            let (Some(page), Some(file)) = (self.page(id).map(Page::store), &mut self.file) else { return Ok(false) };
            self.slot_mut(id).stored = file.write(&page, types)?;
        }
        let Some(spilled) = self.slot_mut(id).stored.take() else { return Ok(false) };
        self.unpublish(id);
        self.used -= bytes;
        self.slot_mut(id).place = Place::File(spilled);
        Ok(true)
    }

    /// Brings a page back; returns whether it was in the file. It keeps its place there until it is
    /// changed: most pages of a sequence are full and never are.
    pub(in crate::kv) fn restore(&mut self, id: PageId) -> Result<bool, CacheError> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let slot = &mut self.slots[id as usize];
        let Place::File(spilled) = &slot.place else { return Ok(false) };
        let bytes = file.read(spilled)?;
        let page = Page::stored(&self.memory, &self.shape, spilled.types, &bytes);
        let size = page.bytes();
        if let Place::File(spilled) = std::mem::replace(&mut slot.place, Place::Memory(page)) {
            slot.stored = Some(spilled);
        }
        self.grow(size);
        Ok(true)
    }

    /// Returns the bytes of the pages that are in the file and not in memory.
    pub(in crate::kv) fn spilled(&self) -> u64 {
        let spilled = |slot: &Slot| match &slot.place {
            Place::File(spilled) => spilled.bytes as u64,
            Place::Memory(_) | Place::Nowhere => 0,
        };
        if self.spills() { self.slots.iter().map(spilled).sum() } else { 0 }
    }

    /// Frees the place in the file of a page in memory; what it holds will be another.
    pub(super) fn forget_stored(&mut self, id: PageId) {
        let stored = self.slot_mut(id).stored.take();
        if let (Some(stored), Some(file)) = (stored, &mut self.file) {
            file.free(&stored);
        }
    }
}
