//! Making room: what each stage of a policy does.
use std::ops::Range;

use super::{
    CacheError, CacheType, CacheTypes, PagedCache, Policy, Rotation, Stage, Transition, TransitionKind, page::Page,
    pool::PageId, table::Table,
};
use crate::clock::Stopwatch;

impl PagedCache {
    /// Brings the bytes in use, and those a step needs, below the watermark as far as the policy can.
    pub(super) fn relieve(&mut self, demand: &[(u32, usize)], rotation: &dyn Rotation) -> Result<(), CacheError> {
        let Some(budget) = self.settings.budget_bytes else { return Ok(()) };
        let Some(policy) = self.settings.policy.clone() else { return Ok(()) };
        let share = |watermark: f64| (budget as f64 * watermark) as usize;
        let need = self.need(demand)?;
        if self.pool.used() + need <= share(policy.high_watermark) {
            return Ok(());
        }
        let target = share(policy.low_watermark).saturating_sub(need);
        if policy.stages != [Stage::Reject] {
            self.transition(TransitionKind::Forgotten, |cache| {
                let mut pages = 0;
                while cache.pool.used() > target && cache.pool.forget() {
                    pages += 1;
                }
                Ok(pages)
            })?;
        }
        for stage in &policy.stages {
            if self.pool.used() <= target {
                break;
            }
            match stage {
                Stage::Evict => self.transition(TransitionKind::Evicted, |cache| {
                    cache.evict(&policy, target, rotation, Self::longest)
                })?,
                Stage::EvictLight => self.transition(TransitionKind::EvictedLight, |cache| {
                    cache.evict(&policy, target, rotation, Self::lightest)
                })?,
                Stage::Quantize => {
                    self.transition(TransitionKind::Narrowed, |cache| Ok(cache.narrow(&policy, target)))?
                }
                Stage::Spill => self.transition(TransitionKind::Spilled, |cache| cache.spill_cold(demand, target))?,
                // It acts when sequences are admitted.
                Stage::Reject => {}
            }
        }
        Ok(())
    }

    /// Does something to pages, and takes note of it where there were any.
    fn transition(
        &mut self,
        kind: TransitionKind,
        act: impl FnOnce(&mut Self) -> Result<usize, CacheError>,
    ) -> Result<(), CacheError> {
        let (stopwatch, before_bytes) = (Stopwatch::start(), self.pool.used() as u64);
        let pages = act(self)?;
        if pages > 0 {
            let after_bytes = self.pool.used() as u64;
            let duration_ns = stopwatch.elapsed_ns();
            self.transitions.push(Transition { kind, pages, before_bytes, after_bytes, duration_ns });
        }
        Ok(())
    }

    /// Evicts until a sequence and its new rows are within the context, where the policy evicts.
    pub(super) fn fit_context(&mut self, id: u32, rows: usize, rotation: &dyn Rotation) -> Result<(), CacheError> {
        if !self.evicts() || self.table(id)?.length + rows <= self.settings.context_length {
            return Ok(());
        }
        let Some(policy) = self.settings.policy.clone() else { return Ok(()) };
        self.transition(TransitionKind::Evicted, |cache| {
            let mut pages = 0;
            while cache.table(id)?.length + rows > cache.settings.context_length {
                let cold = cache.table(id)?.cold(cache.settings.shape.page_tokens, policy.sinks, policy.window);
                if cold.is_empty() {
                    break;
                }
                if !cache.drop_page(id, cold.start, &policy, rotation)? {
                    break;
                }
                pages += 1;
            }
            Ok(pages)
        })?;
        let needed = self.table(id)?.length + rows;
        let context_length = self.settings.context_length;
        if needed > context_length { Err(CacheError::Context { needed, context_length }) } else { Ok(()) }
    }

    /// Returns whether dropping a page leaves the cache within its budget: what is before it may have
    /// to be copied, where others share it, or widened.
    fn can_drop(&self, id: u32, index: usize, sinks: usize) -> Result<bool, CacheError> {
        let Some(budget) = self.settings.budget_bytes else { return Ok(true) };
        let table = self.table(id)?;
        let mut after = self.pool.used();
        for (place, page) in table.pages[..index].iter().enumerate() {
            let Some(types) = self.pool.page(*page).map(Page::types) else {
                // Back from the file, copied, and widened: no more than this.
                after += 2 * self.pool.bytes(*page).0 + self.settings.shape.bytes(self.settings.types);
                continue;
            };
            let own = if place < sinks { CacheTypes { keys: CacheType::F32, ..types } } else { types };
            after += self.settings.shape.bytes(own);
            if self.pool.references(*page) <= 1 {
                after -= self.settings.shape.bytes(types);
            }
        }
        let dropped = table.pages[index];
        let (bytes, is_away) = self.pool.bytes(dropped);
        if self.pool.references(dropped) <= 1 && !is_away {
            after -= bytes;
        }
        Ok(after as u64 <= budget)
    }

    /// Drops one page after the other until so many bytes are used.
    fn evict(
        &mut self,
        policy: &Policy,
        target: usize,
        rotation: &dyn Rotation,
        choose: fn(&Self, &Policy) -> Option<(u32, usize)>,
    ) -> Result<usize, CacheError> {
        let mut pages = 0;
        while self.pool.used() > target {
            let Some((id, index)) = choose(self, policy) else { break };
            if !self.drop_page(id, index, policy, rotation)? {
                break;
            }
            pages += 1;
        }
        Ok(pages)
    }

    /// Returns whether pages up to the end of a range are in memory: what is in the file makes no room.
    fn is_in_memory(&self, table: &Table, cold: &Range<usize>) -> bool {
        table.pages[..cold.end].iter().all(|page| self.pool.page(*page).is_some())
    }

    /// Returns the oldest cold page of the sequence with most of them.
    fn longest(&self, policy: &Policy) -> Option<(u32, usize)> {
        let page_tokens = self.settings.shape.page_tokens;
        let cold = |(id, table): (&u32, &Table)| {
            let cold = table.cold(page_tokens, policy.sinks, policy.window);
            let count = if self.is_in_memory(table, &cold) { cold.len() } else { 0 };
            (count, *id, cold.start)
        };
        let (count, id, index) =
            self.tables.iter().map(cold).max_by_key(|(count, id, _)| (*count, std::cmp::Reverse(*id)))?;
        (count > 0).then_some((id, index))
    }

    /// Returns the cold page that attention gave least weight.
    fn lightest(&self, policy: &Policy) -> Option<(u32, usize)> {
        let page_tokens = self.settings.shape.page_tokens;
        let pages = self.tables.iter().flat_map(|(id, table)| {
            let cold = table.cold(page_tokens, policy.sinks, policy.window);
            let cold = if self.is_in_memory(table, &cold) { cold } else { 0..0 };
            cold.map(|index| (self.pool.mass(table.pages[index]), *id, index))
        });
        pages.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id, index)| (id, index))
    }

    /// Takes a page out of a sequence. What is before it moves up to close the gap: rotary embedding
    /// knows only differences of positions, so the few keys before the gap are rotated on, and the
    /// many after it stay as they are.
    /// Returns whether that was possible.
    fn drop_page(
        &mut self,
        id: u32,
        index: usize,
        policy: &Policy,
        rotation: &dyn Rotation,
    ) -> Result<bool, CacheError> {
        let shape = self.settings.shape;
        // Sinks are rotated again and again: in f32 nothing is lost by it.
        let sinks = policy.sinks.div_ceil(shape.page_tokens);
        if !self.can_drop(id, index, sinks)? {
            return Ok(false);
        }
        let table = self.table_mut(id)?;
        let page = table.pages.remove(index);
        table.length -= shape.page_tokens;
        table.dropped += shape.page_tokens;
        table.chain = None;
        if self.pool.references(page) <= 1 {
            // Nobody keeps it for its prefix: it goes to make room.
            self.pool.unpublish(page);
        }
        self.pool.release(page);
        for place in 0..index {
            let page = self.own(id, place)?;
            let Some(types) = self.pool.page(page).map(Page::types) else { continue };
            if place < sinks && types.keys != CacheType::F32 {
                self.pool.convert(page, CacheTypes { keys: CacheType::F32, ..types });
            }
            self.pool.unpublish(page);
            let kernels = self.pool.kernels;
            if let Some(page) = self.pool.page_mut(page) {
                let by = shape.page_tokens as u32;
                page.change_keys(kernels, &shape, |layer, keys| rotation.rotate(layer, keys, by));
            }
        }
        Ok(true)
    }

    /// Returns a sequence's page, in memory and its own.
    fn own(&mut self, id: u32, place: usize) -> Result<PageId, CacheError> {
        let page = self.table(id)?.pages[place];
        self.pool.restore(page)?;
        if self.pool.references(page) <= 1 {
            return Ok(page);
        }
        let copy = self.pool.copy(page);
        self.table_mut(id)?.pages[place] = copy;
        Ok(copy)
    }

    /// Stores cold pages, the oldest first, in the types of their age, until so many bytes are used.
    fn narrow(&mut self, policy: &Policy, target: usize) -> usize {
        let page_tokens = self.settings.shape.page_tokens;
        // A page's age is that in the sequence where it is youngest; one that is not cold in all of
        // them is left alone.
        let mut ages: Vec<Option<usize>> = vec![None; self.pool.slots()];
        let mut held = vec![false; self.pool.slots()];
        for table in self.tables.values() {
            let cold = table.cold(page_tokens, policy.sinks, policy.window);
            for (index, page) in table.pages.iter().enumerate() {
                let age = table.length.saturating_sub((index + 1) * page_tokens);
                let youngest = &mut ages[*page as usize];
                *youngest = Some(youngest.map_or(age, |other| other.min(age)));
                held[*page as usize] |= !cold.contains(&index);
            }
        }
        let mut cold: Vec<(usize, PageId)> = (0..)
            .zip(ages.iter().zip(&held))
            .filter_map(|(page, (age, is_held))| age.filter(|_| !is_held).map(|age| (age, page)))
            .collect();
        cold.sort_unstable_by_key(|(age, page)| (std::cmp::Reverse(*age), *page));
        let mut pages = 0;
        for (age, page) in cold {
            if self.pool.used() <= target {
                break;
            }
            let now = self.pool.page(page).map(Page::types);
            let (Some(now), Some(wanted)) = (now, policy.types_at(age)) else { continue };
            let types = now.narrower(wanted);
            if types != now {
                self.pool.convert(page, types);
                pages += 1;
            }
        }
        pages
    }

    /// Moves pages of sequences that are not in the coming step to the file, longest unused first,
    /// until so many bytes are used.
    fn spill_cold(&mut self, demand: &[(u32, usize)], target: usize) -> Result<usize, CacheError> {
        let mut held = vec![false; self.pool.slots()];
        for (id, _) in demand {
            for page in &self.table(*id)?.pages {
                held[*page as usize] = true;
            }
        }
        let mut tables: Vec<_> = self.tables.iter().map(|(id, table)| (table.last_used, *id)).collect();
        tables.sort_unstable();
        let mut pages = 0;
        let cold = tables.iter().filter_map(|(_, id)| self.tables.get(id)).flat_map(|table| &table.pages);
        for page in cold.filter(|page| !held[**page as usize]) {
            if self.pool.used() <= target {
                break;
            }
            pages += usize::from(self.pool.spill(*page)?);
        }
        Ok(pages)
    }

    /// Brings back what the sequences of a step have in the file.
    pub(super) fn restore(&mut self, demand: &[(u32, usize)]) -> Result<(), CacheError> {
        if !self.pool.spills() {
            return Ok(());
        }
        self.transition(TransitionKind::Restored, |cache| {
            let mut pages = 0;
            for (id, _) in demand {
                for page in cache.tables.get(id).map_or(&[][..], |table| &table.pages) {
                    pages += usize::from(cache.pool.restore(*page)?);
                }
            }
            Ok(pages)
        })
    }
}
