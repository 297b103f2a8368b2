//! The cache of an engine: sequences, their pages, and room for more.
use std::collections::{BTreeMap, VecDeque};

use ruvlab_kernels::Kernels;

use super::{
    CacheError, CacheReport, CacheTypes, PageShape, Policy, PrefixKey, Stage, Transition,
    pool::{PageId, Pool},
    prefix,
    spill::SpillFile,
    table::Table,
};

/// What a cache is made of.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The sizes of a page.
    pub shape: PageShape,
    /// What new tokens are written as.
    pub types: CacheTypes,
    /// The most bytes of pages in memory; none without a limit.
    pub budget_bytes: Option<u64>,
    /// What to do when they run out.
    pub policy: Option<Policy>,
    /// The most tokens a sequence may have in the cache.
    pub context_length: usize,
    /// Whether layers see a window of tokens, which they count: there may be no gaps between positions.
    pub windowed: bool,
    /// Where sequences may share whole pages they begin with: what names the empty prefix.
    pub prefix_root: Option<PrefixKey>,
}

/// Transitions that are kept for whoever asks for them.
pub const MOST_TRANSITIONS: usize = 1 << 16;

/// How keys are rotated to later positions.
pub trait Rotation {
    /// Rotates keys `[n, D]` of a layer as if each came `by` positions later.
    fn rotate(&self, layer: usize, keys: &mut [f32], by: u32);
}

/// Cached keys and values of many sequences.
pub struct PagedCache {
    pub(super) pool: Pool,
    pub(super) tables: BTreeMap<u32, Table>,
    pub(super) settings: CacheSettings,
    transitions: VecDeque<Transition>,
    /// Rows each sequence of the coming step adds.
    demand: Vec<(u32, usize)>,
    pub(super) step: u64,
    /// Sequences, and the places of the pages they lost.
    #[cfg(test)]
    pub(super) dropped: Vec<(u32, usize)>,
}

impl PagedCache {
    /// Returns an empty cache.
    ///
    /// # Errors
    ///
    /// If the kernels cannot walk such pages, or the file of a policy that spills cannot be made.
    pub fn new(kernels: &'static Kernels, settings: CacheSettings) -> Result<Self, CacheError> {
        settings.shape.check(settings.types)?;
        let mut spill = None;
        if let Some(policy) = &settings.policy {
            let narrows = policy.stages.contains(&Stage::Quantize);
            for tier in policy.tiers.iter().filter(|_| narrows) {
                settings.shape.check(tier.types)?;
            }
            if policy.stages.contains(&Stage::Spill) {
                spill = Some(SpillFile::create(&std::env::temp_dir(), policy.spill_bytes)?);
            }
        }
        let pool = Pool::new(kernels, settings.shape, spill);
        Ok(Self {
            pool,
            tables: BTreeMap::new(),
            settings,
            transitions: VecDeque::new(),
            demand: Vec::new(),
            step: 0,
            #[cfg(test)]
            dropped: Vec::new(),
        })
    }

    pub(super) fn has(&self, stage: Stage) -> bool {
        self.settings.policy.as_ref().is_some_and(|policy| policy.stages.contains(&stage))
    }

    /// Returns whether sequences may lose their oldest tokens, and so go on beyond the context.
    #[must_use]
    pub fn evicts(&self) -> bool {
        self.has(Stage::Evict) || self.has(Stage::EvictLight)
    }

    /// Returns whether its policy asks how much of the attention pages get
    /// ([`add_mass`](Self::add_mass)).
    #[must_use]
    pub fn weighs(&self) -> bool {
        self.has(Stage::EvictLight)
    }

    /// Returns the tokens of a page.
    #[must_use]
    pub fn page_tokens(&self) -> usize {
        self.settings.shape.page_tokens
    }

    /// Returns the most rows a step of these chunks (a sequence and its new tokens) should add, so that a
    /// policy can make room between two of them: a quarter of what the budget holds, and where a sequence
    /// outgrows the context no more than that has room for beside what is never evicted.
    #[must_use]
    pub fn most_rows(&self, chunks: impl Iterator<Item = (u32, usize)>) -> usize {
        let CacheSettings { shape, types, budget_bytes, policy, context_length, .. } = &self.settings;
        let (Some(policy), page_tokens) = (policy, shape.page_tokens) else { return usize::MAX };
        let mut most = usize::MAX;
        if let Some(budget) = budget_bytes.filter(|_| policy.stages != [Stage::Reject]) {
            let pages = budget as usize / shape.bytes(*types).max(1);
            most = (pages / 4).max(1) * page_tokens;
        }
        let (mut tokens, mut span) = (0, 0);
        for (id, count) in chunks {
            tokens += count;
            span = span.max(self.tables.get(&id).map_or(0, Table::span));
        }
        if self.evicts() && span + tokens > *context_length {
            // Whole pages are evicted: one token less than a page may stay beside sinks and window.
            let kept = policy.sinks.next_multiple_of(page_tokens) + policy.window + page_tokens - 1;
            most = most.min(context_length.saturating_sub(kept).max(1));
        }
        most
    }

    pub(super) fn free_bytes(&self, budget: u64) -> u64 {
        budget.saturating_sub(self.pool.used() as u64)
    }

    pub(super) fn table(&self, id: u32) -> Result<&Table, CacheError> {
        self.tables.get(&id).ok_or(CacheError::UnknownSequence(id))
    }

    pub(super) fn table_mut(&mut self, id: u32) -> Result<&mut Table, CacheError> {
        self.tables.get_mut(&id).ok_or(CacheError::UnknownSequence(id))
    }

    /// Returns a sequence's tokens in the cache, and how many were evicted before the first of them or
    /// between them: the position of the next is the sum.
    ///
    /// # Errors
    ///
    /// If it is not open.
    pub fn length(&self, id: u32) -> Result<(usize, usize), CacheError> {
        let table = self.table(id)?;
        Ok((table.length, table.dropped))
    }

    /// Makes room for the rows each sequence adds in the coming step, and sees that all its pages are
    /// in memory and its last one its own. Allocates nothing while rows fit the pages there are.
    ///
    /// # Errors
    ///
    /// If there is no room and nothing that may go. Sequences are then as long as they were, less what
    /// the policy evicted; what is cold may be narrower or in the file.
    pub fn prepare(
        &mut self,
        rows: impl Iterator<Item = (u32, usize)>,
        rotation: &dyn Rotation,
    ) -> Result<(), CacheError> {
        self.step += 1;
        let mut demand = std::mem::take(&mut self.demand);
        demand.clear();
        for (id, rows) in rows {
            match demand.iter_mut().find(|(other, _)| *other == id) {
                Some((_, all)) => *all += rows,
                None => demand.push((id, rows)),
            }
        }
        let result = self.make_room(&demand, rotation);
        self.demand = demand;
        result
    }

    fn make_room(&mut self, demand: &[(u32, usize)], rotation: &dyn Rotation) -> Result<(), CacheError> {
        for (id, rows) in demand {
            let step = self.step;
            let table = self.table_mut(*id)?;
            table.last_used = step;
            let needed = table.length + rows;
            if let Some(reserved) = table.reserved.filter(|reserved| needed > *reserved) {
                return Err(CacheError::BeyondReserved { needed, reserved });
            }
            self.fit_context(*id, *rows, rotation)?;
        }
        if self.need(demand)? == 0 {
            return Ok(());
        }
        self.bring(demand, rotation)?;
        let types = self.settings.types;
        for (id, rows) in demand {
            self.own_last(*id)?;
            let (length, have) = (self.table(*id)?.length, self.table(*id)?.pages.len());
            for _ in have..self.settings.shape.pages(length + rows) {
                let page = self.pool.allocate(types);
                self.table_mut(*id)?.pages.push(page);
            }
        }
        Ok(())
    }

    /// Sees that all pages of a step's sequences are in memory, and that there is room for what it adds.
    pub(super) fn bring(&mut self, demand: &[(u32, usize)], rotation: &dyn Rotation) -> Result<(), CacheError> {
        self.relieve(demand, 0, rotation)?;
        // Evicting changes what is needed.
        let need = self.need(demand)?;
        if let Some(budget) = self.settings.budget_bytes {
            while need as u64 > self.free_bytes(budget) && self.pool.forget() {}
            if need as u64 > self.free_bytes(budget) {
                let free = self.free_bytes(budget);
                return Err(self.full(need, free));
            }
        }
        self.restore(demand)
    }

    /// Returns the bytes in memory that a step needs more: new pages, copies of shared ones, and those
    /// that come back from the file.
    pub(super) fn need(&self, demand: &[(u32, usize)]) -> Result<usize, CacheError> {
        let shape = &self.settings.shape;
        let mut need = 0;
        for (id, rows) in demand {
            let table = self.table(*id)?;
            need += (shape.pages(table.length + rows) - table.pages.len()) * shape.bytes(self.settings.types);
            if let Some(last) = self.shared_last(table) {
                need += self.pool.bytes(last).0;
            }
            if self.pool.spills() {
                let away = table.pages.iter().map(|page| self.pool.bytes(*page)).filter(|(_, is_away)| *is_away);
                need += away.map(|(bytes, _)| bytes).sum::<usize>();
            }
        }
        Ok(need)
    }

    /// Returns the page a sequence goes on in, where others have it too.
    fn shared_last(&self, table: &Table) -> Option<PageId> {
        let last = *table.pages.last()?;
        let has_room = !table.length.is_multiple_of(self.settings.shape.page_tokens);
        (has_room && self.pool.references(last) > 1).then_some(last)
    }

    fn own_last(&mut self, id: u32) -> Result<(), CacheError> {
        if let Some(shared) = self.shared_last(self.table(id)?) {
            let own = self.pool.copy(shared);
            if let Some(last) = self.table_mut(id)?.pages.last_mut() {
                *last = own;
            }
        }
        Ok(())
    }

    /// Returns how many of the first of these chunks (a sequence and its new tokens) can be computed
    /// with all their pages in memory at once; at least one. Only a policy that spills asks for less
    /// than all.
    ///
    /// # Errors
    ///
    /// If one of them is not open.
    pub fn fitting(&self, chunks: impl Iterator<Item = (u32, usize)>) -> Result<usize, CacheError> {
        let Some(budget) = self.settings.budget_bytes.filter(|_| self.pool.spills()) else { return Ok(usize::MAX) };
        let (shape, types) = (&self.settings.shape, self.settings.types);
        let (mut count, mut total) = (0, 0);
        for (id, tokens) in chunks {
            let table = self.table(id)?;
            total += table.pages.iter().map(|page| self.pool.bytes(*page).0).sum::<usize>();
            // One more than new tokens ask for: the last may have to be copied.
            total += (shape.pages(table.length + tokens) + 1 - table.pages.len()) * shape.bytes(types);
            if total as u64 > budget && count > 0 {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Writes one token's keys and values `[K, D]` of a layer; `index` counts the tokens in the cache.
    pub fn write(&mut self, id: u32, layer: usize, index: usize, keys: &[f32], values: &[f32]) {
        let PageShape { page_tokens, .. } = self.settings.shape;
        let Some(page) = self.tables.get(&id).and_then(|table| table.pages.get(index / page_tokens)) else { return };
        let (kernels, shape) = (self.pool.kernels, self.settings.shape);
        if let Some(page) = self.pool.page_mut(*page) {
            page.write(kernels, &shape, (layer, index % page_tokens), keys, values);
        }
    }

    /// Takes note of tokens whose keys and values were written.
    ///
    /// # Errors
    ///
    /// If the sequence is not open.
    pub fn advance(&mut self, id: u32, tokens: &[u32]) -> Result<(), CacheError> {
        let page_tokens = self.settings.shape.page_tokens;
        let table = self.tables.get_mut(&id).ok_or(CacheError::UnknownSequence(id))?;
        let filled = table.length / page_tokens;
        table.length += tokens.len();
        let Some(chain) = &mut table.chain else { return Ok(()) };
        chain.pending.extend_from_slice(tokens);
        let whole = chain.pending.len() / page_tokens * page_tokens;
        for (tokens, page) in chain.pending[..whole].chunks_exact(page_tokens).zip(&table.pages[filled..]) {
            chain.key = prefix::next(&chain.key, tokens);
            if self.pool.page(*page).is_some_and(|page| page.types() == self.settings.types) {
                self.pool.publish(*page, chain.key);
            }
        }
        chain.pending.drain(..whole);
        Ok(())
    }

    /// Takes a sequence back to its first tokens: those at positions before `tokens`, evicted ones counted. Where
    /// these are the last, they are forgotten: what comes next follows what is there.
    ///
    /// # Errors
    ///
    /// If the sequence is not open.
    pub fn truncate(&mut self, id: u32, tokens: usize) -> Result<(), CacheError> {
        let shape = self.settings.shape;
        let table = self.table_mut(id)?;
        let of_page = |page: usize| {
            let start = page * shape.page_tokens;
            let position = start + table.dropped - table.behind.get(page).copied().unwrap_or(0);
            tokens.saturating_sub(position).min(shape.page_tokens.min(table.length - start))
        };
        let length = (0..shape.pages(table.length)).map(of_page).sum::<usize>();
        let mut gone = table.pages.split_off(shape.pages(length).min(table.pages.len()));
        table.close_end();
        if length < table.length {
            table.length = length;
            table.chain = None;
        }
        let open = table.pages.last().copied().filter(|_| !length.is_multiple_of(shape.page_tokens));
        if let Some(page) = open {
            // It will be written again, so nobody may find it by what it held.
            self.pool.unpublish(page);
        }
        for page in gone.drain(..) {
            self.pool.release(page);
        }
        Ok(())
    }

    /// Returns what it holds.
    #[must_use]
    pub fn report(&self) -> CacheReport {
        let (pages, shared_pages, idle_pages) = self.pool.count();
        CacheReport {
            used_bytes: self.pool.used() as u64,
            peak_bytes: self.pool.peak() as u64,
            budget_bytes: self.settings.budget_bytes,
            spilled_bytes: self.pool.spilled(),
            pages,
            shared_pages,
            idle_pages,
            sequences: self.tables.len(),
            tokens: self.tables.values().map(|table| table.length as u64).sum(),
        }
    }

    /// Returns what was done under pressure since the last call, the latest [`MOST_TRANSITIONS`] of it.
    pub fn take_transitions(&mut self) -> Vec<Transition> {
        self.transitions.drain(..).collect()
    }

    /// Takes note of what was done, whether anybody asks for it or not.
    pub(super) fn note(&mut self, transition: Transition) {
        if self.transitions.len() == MOST_TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back(transition);
    }

    /// Adds the weight that attention gave the tokens of a sequence's page.
    pub fn add_mass(&mut self, id: u32, page: usize, mass: f64) {
        if let Some(page) = self.tables.get(&id).and_then(|table| table.pages.get(page)) {
            self.pool.add_mass(*page, mass);
        }
    }
}
