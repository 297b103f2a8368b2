//! Making room: what each stage of a policy does, but for eviction.
use super::{
    CacheError, PagedCache, Policy, Rotation, Stage, Transition, TransitionKind, eviction::Choice, page::Page,
    pool::PageId,
};
use crate::clock::Stopwatch;

impl PagedCache {
    /// Brings the bytes in use, those a step needs and so many more below the watermark as far as the policy can.
    pub(super) fn relieve(
        &mut self,
        demand: &[(u32, usize)],
        more: usize,
        rotation: &dyn Rotation,
    ) -> Result<(), CacheError> {
        let Some(budget) = self.settings.budget_bytes else { return Ok(()) };
        let Some(policy) = self.settings.policy.clone() else { return Ok(()) };
        let share = |watermark: f64| (budget as f64 * watermark) as usize;
        let need = self.need(demand)? + more;
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
                    cache.evict(&policy, target, rotation, Choice::Oldest)
                })?,
                Stage::EvictLight => self.transition(TransitionKind::EvictedLight, |cache| {
                    cache.evict(&policy, target, rotation, Choice::Lightest)
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
    pub(super) fn transition(
        &mut self,
        kind: TransitionKind,
        act: impl FnOnce(&mut Self) -> Result<usize, CacheError>,
    ) -> Result<(), CacheError> {
        let (stopwatch, before_bytes) = (Stopwatch::start(), self.pool.used() as u64);
        let pages = act(self)?;
        if pages > 0 {
            let after_bytes = self.pool.used() as u64;
            let duration_ns = stopwatch.elapsed_ns();
            self.note(Transition { kind, pages, before_bytes, after_bytes, duration_ns });
        }
        Ok(())
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
        let mut converted = vec![false; held.len()];
        for (age, page) in cold {
            if self.pool.used() <= target {
                break;
            }
            let now = self.pool.page(page).map(Page::types);
            let (Some(now), Some(wanted)) = (now, policy.types_at(age)) else { continue };
            let types = now.narrower(wanted);
            if types != now {
                self.pool.convert(page, types);
                converted[page as usize] = true;
            }
        }
        // What is computed from narrower keys and values is not what others would compute.
        for table in self.tables.values_mut() {
            if table.pages.iter().any(|page| converted[*page as usize]) {
                table.chain = None;
            }
        }
        converted.into_iter().filter(|converted| *converted).count()
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
