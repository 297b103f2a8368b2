//! Which pages a sequence maps.
use super::{
    pool::PageId,
    prefix::{Chain, PrefixKey},
};

/// The pages of one sequence, oldest first.
pub(super) struct Table {
    pub(super) pages: Vec<PageId>,
    /// Tokens in them; the last page may have room.
    pub(super) length: usize,
    /// Tokens that were evicted: with those in the cache they tell the next one's position.
    pub(super) dropped: usize,
    /// Of the first pages: by how many positions their keys are behind, because pages after them were dropped. The
    /// first is behind most.
    pub(super) behind: Vec<usize>,
    /// The step that used it last.
    pub(super) last_used: u64,
    /// Tokens that room was reserved for when it was admitted, under `reject`.
    pub(super) reserved: Option<usize>,
    /// What names the empty prefix under the adapter it is computed with.
    pub(super) root: Option<PrefixKey>,
    /// What its pages are called; none once something of it is missing.
    pub(super) chain: Option<Chain>,
}

impl Table {
    /// Takes a page out, which leaves a gap: those before it are further behind.
    pub(super) fn remove(&mut self, index: usize, page_tokens: usize) -> PageId {
        if index < self.behind.len() {
            self.behind.remove(index);
        } else {
            self.behind.resize(index, 0);
        }
        self.behind[..index].iter_mut().for_each(|behind| *behind += page_tokens);
        self.length -= page_tokens;
        self.dropped += page_tokens;
        self.chain = None;
        self.pages.remove(index)
    }

    /// Forgets gaps after the last page.
    pub(super) fn close_end(&mut self) {
        self.behind.truncate(self.pages.len());
        let at_end = if self.behind.len() == self.pages.len() { self.behind.last().copied().unwrap_or(0) } else { 0 };
        self.behind.iter_mut().for_each(|behind| *behind -= at_end);
        self.dropped -= at_end;
    }

    /// Returns the positions from its first cached token to its last, gaps between them included.
    pub(super) fn span(&self) -> usize {
        self.length + self.behind.first().copied().unwrap_or(0)
    }

    /// Returns the place of its first pages that are older than the last `window` tokens, less the
    /// `sinks` ones.
    pub(super) fn cold(&self, page_tokens: usize, sinks: usize, window: usize) -> std::ops::Range<usize> {
        let end = self.length.saturating_sub(window) / page_tokens;
        // The page that is being written has no room to spare for.
        let end = end.min(self.length / page_tokens).min(self.pages.len());
        sinks.div_ceil(page_tokens).min(end)..end
    }
}
