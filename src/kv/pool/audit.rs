//! What has to be true of a pool at any time.
use super::{PageId, Place, Pool};
use crate::kv::spill::SpillFile;

impl Pool {
    /// Returns the bytes of the file that are taken.
    pub(in crate::kv) fn in_file(&self) -> u64 {
        self.file.as_ref().map_or(0, SpillFile::used)
    }

    /// Returns what is wrong with it, given how often tables map each page.
    pub(in crate::kv) fn audit(&self, mapped: &[u32]) -> Result<(), String> {
        let (mut used, mut stored) = (0, 0);
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
            if let Place::File(spilled) = &slot.place {
                stored += spilled.bytes as u64;
            }
            stored += slot.stored.as_ref().map_or(0, |spilled| spilled.bytes as u64);
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
        let in_file = self.in_file();
        if stored != in_file {
            return Err(format!("{in_file} bytes of the file are taken, {stored} are known"));
        }
        if used == self.used { Ok(()) } else { Err(format!("{used} bytes are used, {} counted", self.used)) }
    }
}
