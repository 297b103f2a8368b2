//! Dropping pages of sequences, and the positions of what is left.
//!
//! A dropped page leaves a gap. Rotary embedding knows only differences of positions, so the keys before a gap are
//! rotated on to close it, and those after it stay as they are. Where the oldest go only sinks are before the gap: it
//! is closed at once, and they are kept in f32, so that nothing is lost however often they are rotated. Where the
//! lightest go all the others may be before it, in types that every rotation rounds: gaps stay open until positions
//! would leave the context, and are closed together. Layers that see a window of tokens count those that are cached, so
//! there the gaps of a sequence are closed at once, too.
use super::{CacheError, CacheType, CacheTypes, PagedCache, Policy, Rotation, Stage, TransitionKind, page::Page};

/// Which page is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The oldest cold one of the sequence with most of them, of those first that share it with nobody.
    Oldest,
    /// The cold one that attention gave least weight.
    Lightest,
}

impl PagedCache {
    /// Evicts until a sequence and its new rows are within the context, where the policy evicts.
    pub(super) fn fit_context(&mut self, id: u32, rows: usize, rotation: &dyn Rotation) -> Result<(), CacheError> {
        let context_length = self.settings.context_length;
        if !self.evicts() || self.table(id)?.span() + rows <= context_length {
            return Ok(());
        }
        let Some(policy) = self.settings.policy.clone() else { return Ok(()) };
        // What is in the file comes back first: what stays may have to be rotated.
        if self.table(id)?.pages.iter().any(|page| self.pool.page(*page).is_none()) {
            self.bring(&[(id, 0)], rotation)?;
        }
        let first = policy.stages.iter().find(|stage| matches!(stage, Stage::Evict | Stage::EvictLight));
        let (choice, kind) = match first {
            Some(Stage::EvictLight) => (Choice::Lightest, TransitionKind::EvictedLight),
            _ => (Choice::Oldest, TransitionKind::Evicted),
        };
        self.transition(kind, |cache| {
            let mut pages = 0;
            while cache.table(id)?.length + rows > context_length {
                let Some((id, index)) = cache.choose(&policy, choice, Some(id)) else { break };
                cache.drop_page(id, index)?;
                pages += 1;
            }
            Ok(pages)
        })?;
        let needed = self.table(id)?.length + rows;
        if needed > context_length {
            return Err(CacheError::Context { needed, context_length });
        }
        let mut missing = self.close_gaps(id, &policy, rotation)?;
        if missing > 0 {
            // Others may have what can go.
            self.relieve(&[(id, 0)], missing, rotation)?;
        }
        loop {
            missing = self.close_gaps(id, &policy, rotation)?;
            if missing == 0 {
                return Ok(());
            }
            if self.pool.forget() {
                continue;
            }
            let Some((id, index)) = self.choose(&policy, choice, Some(id)) else {
                let free = self.settings.budget_bytes.map_or(0, |budget| self.free_bytes(budget));
                return Err(self.full(free as usize + missing, free));
            };
            self.transition(kind, |cache| cache.drop_page(id, index).map(|()| 1))?;
        }
    }

    /// Drops one page after the other until so many bytes are used.
    pub(super) fn evict(
        &mut self,
        policy: &Policy,
        target: usize,
        rotation: &dyn Rotation,
        choice: Choice,
    ) -> Result<usize, CacheError> {
        let mut pages = 0;
        while self.pool.used() > target {
            let Some((id, index)) = self.choose(policy, choice, None) else { break };
            self.drop_page(id, index)?;
            if choice == Choice::Oldest || self.settings.windowed {
                // Where there is no room for that, gaps stay open for now.
                self.close_gaps(id, policy, rotation)?;
            }
            pages += 1;
        }
        Ok(pages)
    }

    /// Returns the page to drop next, of one sequence or of any. Of any, those come first that nobody else has:
    /// dropping others makes no room by itself.
    fn choose(&self, policy: &Policy, choice: Choice, only: Option<u32>) -> Option<(u32, usize)> {
        let tables = self.tables.range(only.unwrap_or(0)..=only.unwrap_or(u32::MAX)).filter_map(|(id, table)| {
            let cold = table.cold(self.settings.shape.page_tokens, policy.sinks, policy.window);
            // What is in the file makes no room, and what is before a gap has to be here to be rotated.
            let is_here = table.pages[..cold.end].iter().all(|page| self.pool.page(*page).is_some());
            (is_here && !cold.is_empty()).then_some((*id, table, cold))
        });
        let is_shared = |page| only.is_none() && self.pool.references(page) > 1;
        match choice {
            Choice::Oldest => tables
                .map(|(id, table, cold)| (is_shared(table.pages[cold.start]), usize::MAX - cold.len(), id, cold.start))
                .min()
                .map(|(_, _, id, index)| (id, index)),
            Choice::Lightest => tables
                .flat_map(|(id, table, cold)| cold.map(move |index| (id, index, table.pages[index])))
                .map(|(id, index, page)| (is_shared(page), self.pool.mass(page), id, index))
                .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
                .map(|(_, _, id, index)| (id, index)),
        }
    }

    /// Takes a page out of a sequence.
    fn drop_page(&mut self, id: u32, index: usize) -> Result<(), CacheError> {
        #[cfg(test)]
        self.dropped.push((id, index));
        let page_tokens = self.settings.shape.page_tokens;
        let page = self.table_mut(id)?.remove(index, page_tokens);
        if self.pool.references(page) <= 1 {
            // Nobody keeps it for its prefix: it goes to make room.
            self.pool.unpublish(page);
        }
        self.pool.release(page);
        Ok(())
    }

    /// Rotates what is behind to where it belongs, in pages of the sequence's own, and returns 0. Where there is no
    /// room for those it does nothing, and returns how many bytes are missing.
    fn close_gaps(&mut self, id: u32, policy: &Policy, rotation: &dyn Rotation) -> Result<usize, CacheError> {
        let shape = self.settings.shape;
        let sinks = policy.sinks.div_ceil(shape.page_tokens);
        let turned = |place: usize, types: CacheTypes| {
            if place < sinks { CacheTypes { keys: CacheType::F32, ..types } } else { types }
        };
        let table = self.table(id)?;
        let behind = table.behind.clone();
        let (mut more, mut less) = (0, 0);
        for (place, page) in table.pages[..behind.len()].iter().enumerate().filter(|(place, _)| behind[*place] > 0) {
            let Some(types) = self.pool.page(*page).map(Page::types) else { return Ok(self.pool.bytes(*page).0) };
            more += shape.bytes(turned(place, types));
            if self.pool.references(*page) <= 1 {
                less += shape.bytes(types);
            }
        }
        let free = self.settings.budget_bytes.map_or(usize::MAX, |budget| self.free_bytes(budget) as usize);
        let missing = more.saturating_sub(less).saturating_sub(free);
        if missing > 0 {
            return Ok(missing);
        }
        for (place, by) in behind.into_iter().enumerate().filter(|(_, by)| *by > 0) {
            let mut page = self.table(id)?.pages[place];
            if self.pool.references(page) > 1 {
                page = self.pool.copy(page);
                self.table_mut(id)?.pages[place] = page;
            }
            let Some(types) = self.pool.page(page).map(Page::types) else { continue };
            if turned(place, types) != types {
                self.pool.convert(page, turned(place, types));
            }
            self.pool.unpublish(page);
            let kernels = self.pool.kernels;
            if let Some(page) = self.pool.page_mut(page) {
                page.change_keys(kernels, &shape, |layer, keys| rotation.rotate(layer, keys, by as u32));
            }
        }
        self.table_mut(id)?.behind.clear();
        Ok(0)
    }
}
