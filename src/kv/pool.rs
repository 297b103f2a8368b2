//! All pages, who maps them, and the bytes they take.
#[cfg(test)]
mod audit;
mod filed;

use std::collections::{BTreeMap, HashMap};

use ruvlab_kernels::{CacheMemory, Kernels};

use super::{
    CacheTypes, PageShape,
    page::Page,
    prefix::PrefixKey,
    spill::{SpillFile, Spilled},
};

/// A page of the pool.
pub(super) type PageId = u32;

enum Place {
    Nowhere,
    Memory(Page),
    File(Spilled),
}

struct Slot {
    place: Place,
    /// How often tables map it.
    references: u32,
    /// What its tokens are called, where others may share it.
    key: Option<PrefixKey>,
    /// Its place among the idle ones.
    idle: Option<u64>,
    /// Where the file still has what is in memory, as long as nobody changes it.
    stored: Option<Spilled>,
    /// The weight attention gave its tokens so far.
    mass: f64,
}

pub(super) struct Pool {
    pub(super) kernels: &'static Kernels,
    pub(super) shape: PageShape,
    memory: CacheMemory,
    slots: Vec<Slot>,
    free: Vec<PageId>,
    used: usize,
    peak: usize,
    prefixes: HashMap<PrefixKey, PageId>,
    /// Pages kept for their prefix alone, longest unused first.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
    /// Of a policy that spills.
    file: Option<SpillFile>,
}

impl Pool {
    pub(super) fn new(kernels: &'static Kernels, shape: PageShape, file: Option<SpillFile>) -> Self {
        Self {
            kernels,
            shape,
            memory: CacheMemory::default(),
            slots: Vec::new(),
            free: Vec::new(),
            used: 0,
            peak: 0,
            prefixes: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            file,
        }
    }

    /// Returns the bytes of all pages in memory.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    fn grow(&mut self, bytes: usize) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }

    fn slot(&self, id: PageId) -> &Slot {
        &self.slots[id as usize]
    }

    fn slot_mut(&mut self, id: PageId) -> &mut Slot {
        &mut self.slots[id as usize]
    }

    fn insert(&mut self, page: Page, mass: f64) -> PageId {
        self.grow(page.bytes());
        let slot = Slot { place: Place::Memory(page), references: 1, key: None, idle: None, stored: None, mass };
        match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as PageId
            }
        }
    }

    /// Returns a new page with one owner.
    pub(super) fn allocate(&mut self, types: CacheTypes) -> PageId {
        self.insert(Page::new(&self.memory, &self.shape, types), 0.0)
    }

    /// Returns a copy of a page in memory, with one owner, and takes one owner of the original.
    pub(super) fn copy(&mut self, id: PageId) -> PageId {
        let mass = self.slot(id).mass;
        let copy = self.page(id).cloned();
        let copy = copy.unwrap_or_else(|| Page::new(&self.memory, &self.shape, CacheTypes::default()));
        let new = self.insert(copy, mass);
        self.release(id);
        new
    }

    pub(super) fn retain(&mut self, id: PageId) {
        let idle = self.slot_mut(id).idle.take();
        if let Some(stamp) = idle {
            self.idle.remove(&stamp);
        }
        self.slot_mut(id).references += 1;
    }

    /// Takes one owner; the last one's page is free again, or idle where its prefix is known.
    pub(super) fn release(&mut self, id: PageId) {
        self.clock += 1;
        let stamp = self.clock;
        let slot = self.slot_mut(id);
        slot.references = slot.references.saturating_sub(1);
        if slot.references > 0 {
            return;
        }
        if slot.key.is_some() && matches!(slot.place, Place::Memory(_)) {
            slot.idle = Some(stamp);
            self.idle.insert(stamp, id);
            return;
        }
        self.discard(id);
    }

    fn discard(&mut self, id: PageId) {
        self.unpublish(id);
        self.forget_stored(id);
        match std::mem::replace(&mut self.slot_mut(id).place, Place::Nowhere) {
            Place::Memory(page) => self.used -= page.bytes(),
            Place::File(spilled) => {
                if let Some(file) = &mut self.file {
                    file.free(&spilled);
                }
            }
            Place::Nowhere => {}
        }
        self.free.push(id);
    }

    /// Frees the page that was idle longest; returns whether there was one.
    pub(super) fn forget(&mut self) -> bool {
        let Some((_, id)) = self.idle.pop_first() else { return false };
        self.slot_mut(id).idle = None;
        self.discard(id);
        true
    }

    /// Returns the bytes of the pages that are kept for their prefix alone.
    pub(super) fn idle_bytes(&self) -> usize {
        self.idle.values().map(|id| self.bytes(*id).0).sum()
    }

    pub(super) fn references(&self, id: PageId) -> u32 {
        self.slot(id).references
    }

    /// Returns a page in memory.
    pub(super) fn page(&self, id: PageId) -> Option<&Page> {
        match &self.slot(id).place {
            Place::Memory(page) => Some(page),
            Place::File(_) | Place::Nowhere => None,
        }
    }

    /// Returns a page in memory that is to be changed.
    pub(super) fn page_mut(&mut self, id: PageId) -> Option<&mut Page> {
        self.forget_stored(id);
        match &mut self.slots[id as usize].place {
            Place::Memory(page) => Some(page),
            Place::File(_) | Place::Nowhere => None,
        }
    }

    /// Returns the bytes a page takes, wherever it is, and whether it is in the file.
    pub(super) fn bytes(&self, id: PageId) -> (usize, bool) {
        match &self.slot(id).place {
            Place::Memory(page) => (page.bytes(), false),
            Place::File(spilled) => (spilled.bytes, true),
            Place::Nowhere => (0, false),
        }
    }

    pub(super) fn mass(&self, id: PageId) -> f64 {
        self.slot(id).mass
    }

    pub(super) fn add_mass(&mut self, id: PageId, mass: f64) {
        self.slot_mut(id).mass += mass;
    }

    /// Changes a page's types; nobody shares it by its prefix any more.
    pub(super) fn convert(&mut self, id: PageId, types: CacheTypes) {
        let Some(page) = self.page(id) else { return };
        let (before, new) = (page.bytes(), page.converted(self.kernels, &self.shape, types));
        self.unpublish(id);
        self.forget_stored(id);
        self.used -= before;
        self.grow(new.bytes());
        self.slot_mut(id).place = Place::Memory(new);
    }

    /// Makes a page known by what it holds, unless another is.
    pub(super) fn publish(&mut self, id: PageId, key: PrefixKey) {
        if self.slot(id).key.is_none() && !self.prefixes.contains_key(&key) {
            self.prefixes.insert(key, id);
            self.slot_mut(id).key = Some(key);
        }
    }

    pub(super) fn unpublish(&mut self, id: PageId) {
        if let Some(key) = self.slot_mut(id).key.take() {
            self.prefixes.remove(&key);
        }
    }

    pub(super) fn find(&self, key: &PrefixKey) -> Option<PageId> {
        self.prefixes.get(key).copied()
    }

    /// Returns pages in memory, those with several owners, and idle ones.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let in_memory = self.slots.iter().filter(|slot| matches!(slot.place, Place::Memory(_))).count();
        (in_memory, self.slots.iter().filter(|slot| slot.references > 1).count(), self.idle.len())
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}
