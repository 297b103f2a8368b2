//! Sequences come and go: who is let in, with what of others, and what is left of them.
use super::{
    CacheError, PagedCache, PrefixKey, Stage, Transition, TransitionKind,
    prefix::{self, Chain, prefix_root},
    table::Table,
};

impl PagedCache {
    pub(super) fn full(&mut self, needed: usize, free_bytes: u64) -> CacheError {
        let used = self.pool.used() as u64;
        let kind = TransitionKind::Refused;
        self.note(Transition { kind, pages: 0, before_bytes: used, after_bytes: used, duration_ns: 0 });
        let budget_bytes = self.settings.budget_bytes.unwrap_or(u64::MAX);
        CacheError::Full { needed_bytes: needed as u64, free_bytes, budget_bytes }
    }

    /// Returns how many tokens a policy that reserves holds room for, after it was asked for so many.
    fn admit(&mut self, tokens: usize) -> Result<Option<usize>, CacheError> {
        let Some(budget) = self.settings.budget_bytes.filter(|_| self.has(Stage::Reject)) else { return Ok(None) };
        let worst = |tokens: usize| self.settings.shape.pages(tokens) * self.settings.shape.bytes(self.settings.types);
        let is_alone = self.settings.policy.as_ref().is_some_and(|policy| policy.stages.len() == 1);
        let (needed, taken) = if is_alone {
            (worst(tokens), self.tables.values().filter_map(|table| table.reserved).map(worst).sum::<usize>())
        } else {
            // Beside policies that make room, no more begin once there is none. One alone always does, and what is
            // kept for its prefix only goes for it.
            if self.tables.is_empty() {
                return Ok(None);
            }
            let high = self.settings.policy.as_ref().map_or(1.0, |policy| policy.high_watermark);
            let reserve = budget as usize - (budget as f64 * high) as usize;
            (1, self.pool.used() - self.pool.idle_bytes() + reserve)
        };
        if needed as u64 > budget.saturating_sub(taken as u64) {
            return Err(self.full(needed, budget.saturating_sub(taken as u64)));
        }
        Ok(is_alone.then_some(tokens))
    }

    /// Opens a sequence that begins with `prompt`, will have `tokens` tokens at most and is computed with
    /// an adapter, or none ([`attach`](Self::attach)); returns how many tokens of the prompt are cached
    /// already: whole pages, and never all of it.
    ///
    /// # Errors
    ///
    /// If the policy is to refuse what may not fit; that changes nothing.
    pub fn open(
        &mut self,
        id: u32,
        prompt: &[u32],
        tokens: usize,
        adapter: Option<&PrefixKey>,
    ) -> Result<usize, CacheError> {
        let reserved = self.admit(tokens)?;
        let root = self.root(adapter);
        let (chain, last_used) = (root.map(Chain::new), self.step);
        let (pages, behind) = (Vec::new(), Vec::new());
        let mut table = Table { pages, length: 0, dropped: 0, behind, last_used, reserved, root, chain };
        if let Some(chain) = &mut table.chain {
            let page_tokens = self.settings.shape.page_tokens;
            for tokens in prompt[..prompt.len().saturating_sub(1)].chunks_exact(page_tokens) {
                let key = prefix::next(&chain.key, tokens);
                let Some(page) = self.pool.find(&key) else { break };
                self.pool.retain(page);
                table.pages.push(page);
                table.length += page_tokens;
                chain.key = key;
            }
        }
        let shared = table.length;
        self.tables.insert(id, table);
        Ok(shared)
    }

    /// Opens a sequence with all that another has; neither sees what the other writes from now on.
    ///
    /// # Errors
    ///
    /// If the parent is not open, or the policy is to refuse what may not fit.
    pub fn fork(&mut self, parent: u32, child: u32) -> Result<(), CacheError> {
        let Table { reserved, .. } = self.table(parent)?;
        let reserved = match reserved {
            Some(tokens) => self.admit(*tokens)?,
            None => None,
        };
        let Table { pages, length, dropped, behind, last_used, root, chain, .. } = self.table(parent)?;
        let table = Table {
            pages: pages.clone(),
            length: *length,
            dropped: *dropped,
            behind: behind.clone(),
            last_used: *last_used,
            reserved,
            root: *root,
            chain: chain.clone(),
        };
        for page in &table.pages {
            self.pool.retain(*page);
        }
        self.tables.insert(child, table);
        Ok(())
    }

    /// Lets a sequence be computed with an adapter from now on, or without: `adapter` names what is in
    /// it. Where the sequence is empty it is shared with others of the same adapter; what has tokens of
    /// another is shared no more.
    ///
    /// # Errors
    ///
    /// If the sequence is not open.
    pub fn attach(&mut self, id: u32, adapter: Option<&PrefixKey>) -> Result<(), CacheError> {
        let root = self.root(adapter);
        let table = self.table_mut(id)?;
        if table.root != root {
            let is_empty = table.length + table.dropped == 0;
            table.chain = root.filter(|_| is_empty).map(Chain::new);
            table.root = root;
        }
        Ok(())
    }

    /// Returns what names the empty prefix under an adapter.
    pub(super) fn root(&self, adapter: Option<&PrefixKey>) -> Option<PrefixKey> {
        let root = self.settings.prefix_root?;
        Some(adapter.map_or(root, |adapter| prefix_root(&[&root, adapter])))
    }

    /// Returns whether sequences share whole pages they begin with.
    #[must_use]
    pub fn shares(&self) -> bool {
        self.settings.prefix_root.is_some()
    }

    /// Closes a sequence; closing twice does nothing.
    pub fn close(&mut self, id: u32) {
        let Some(table) = self.tables.remove(&id) else { return };
        for page in table.pages {
            self.pool.release(page);
        }
    }
}
