//! All pages, who maps them, and the bytes they take.
use std::collections::{BTreeMap, HashMap};

use ruvlab_kernels::Kernels;

use super::{
    CacheError, CacheTypes, PageShape,
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
    /// The weight attention gave its tokens so far.
    mass: f64,
}

pub(super) struct Pool {
    pub(super) kernels: &'static Kernels,
    pub(super) shape: PageShape,
    slots: Vec<Slot>,
    free: Vec<PageId>,
    used: usize,
    peak: usize,
    prefixes: HashMap<PrefixKey, PageId>,
    /// Pages kept for their prefix alone, longest unused first.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
}

impl Pool {
    pub(super) fn new(kernels: &'static Kernels, shape: PageShape) -> Self {
        Self {
            kernels,
            shape,
            slots: Vec::new(),
            free: Vec::new(),
            used: 0,
            peak: 0,
            prefixes: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
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
        let slot = Slot { place: Place::Memory(page), references: 1, key: None, idle: None, mass };
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
        self.insert(Page::new(&self.shape, types), 0.0)
    }

    /// Returns a copy of a page in memory, with one owner, and takes one owner of the original.
    pub(super) fn copy(&mut self, id: PageId) -> PageId {
        let mass = self.slot(id).mass;
        let copy = self.page(id).cloned();
        let copy = copy.unwrap_or_else(|| Page::new(&self.shape, CacheTypes::default()));
        let new = self.insert(copy, mass);
        self.release(id, None);
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
    pub(super) fn release(&mut self, id: PageId, spill: Option<&mut SpillFile>) {
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
        self.discard(id, spill);
    }

    fn discard(&mut self, id: PageId, spill: Option<&mut SpillFile>) {
        self.unpublish(id);
        match std::mem::replace(&mut self.slot_mut(id).place, Place::Nowhere) {
            Place::Memory(page) => self.used -= page.bytes(),
            Place::File(spilled) => {
                if let Some(file) = spill {
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
        self.discard(id, None);
        true
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

    pub(super) fn page_mut(&mut self, id: PageId) -> Option<&mut Page> {
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
        self.used -= before;
        self.grow(new.bytes());
        self.slot_mut(id).place = Place::Memory(new);
    }

    /// Moves a page to the file; returns whether there was room.
    pub(super) fn spill(&mut self, id: PageId, file: &mut SpillFile) -> Result<bool, CacheError> {
        let Some(page) = self.page(id) else { return Ok(false) };
        let (types, bytes) = (page.types(), page.bytes());
        let Some(spilled) = file.write(&page.store(), types)? else { return Ok(false) };
        self.unpublish(id);
        self.used -= bytes;
        self.slot_mut(id).place = Place::File(spilled);
        Ok(true)
    }

    /// Brings a page back; returns whether it was in the file.
    pub(super) fn restore(&mut self, id: PageId, file: &mut SpillFile) -> Result<bool, CacheError> {
        let Place::File(spilled) = &self.slot(id).place else { return Ok(false) };
        let bytes = file.read(spilled)?;
        let key_bytes = spilled.types.keys.bytes(self.shape.values()).unwrap_or(0);
        let page = Page::stored(spilled.types, &bytes, key_bytes);
        file.free(spilled);
        self.grow(page.bytes());
        self.slot_mut(id).place = Place::Memory(page);
        Ok(true)
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

    /// Returns what is wrong with it, given how often tables map each page.
    #[cfg(test)]
    pub(super) fn audit(&self, mapped: &[u32]) -> Result<(), String> {
        let mut used = 0;
        for (id, slot) in self.slots.iter().enumerate() {
            let owners = mapped.get(id).copied().unwrap_or(0);
            if slot.references != owners {
                return Err(format!("page {id} has {} references, {owners} tables map it", slot.references));
            }
            let (is_free, is_idle) = (self.free.contains(&(id as PageId)), slot.idle.is_some());
            if is_free == (owners > 0 || is_idle) {
                return Err(format!("page {id}: free {is_free}, mapped {owners} times, idle {is_idle}"));
            }
            if is_free != matches!(slot.place, Place::Nowhere) {
                return Err(format!("page {id} is free {is_free} and holds memory or not"));
            }
            if is_idle && (owners > 0 || slot.key.is_none()) {
                return Err(format!("page {id} is idle, mapped {owners} times"));
            }
            if let Place::Memory(page) = &slot.place {
                used += page.bytes();
                if page.bytes() != self.shape.bytes(page.types()) {
                    return Err(format!(
                        "page {id} takes {} bytes, predicted {}",
                        page.bytes(),
                        self.shape.bytes(page.types())
                    ));
                }
            }
            if let Some(key) = slot.key
                && self.find(&key) != Some(id as PageId)
            {
                return Err(format!("page {id} is not found by its key"));
            }
        }
        let mut free = self.free.clone();
        free.sort_unstable();
        free.dedup();
        if free.len() != self.free.len() {
            return Err("a page is free twice".to_owned());
        }
        let keys = self.slots.iter().filter(|slot| slot.key.is_some()).count();
        if keys != self.prefixes.len()
            || self.idle.len() != self.slots.iter().filter(|slot| slot.idle.is_some()).count()
        {
            return Err("prefixes or idle pages do not match".to_owned());
        }
        if used == self.used { Ok(()) } else { Err(format!("{used} bytes are used, {} counted", self.used)) }
    }
}
