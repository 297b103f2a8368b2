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
    /// Tokens that were evicted: the first cached one is at this position.
    pub(super) dropped: usize,
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
    /// Returns the place of its first pages that are older than the last `window` tokens, less the
    /// `sinks` ones.
    pub(super) fn cold(&self, page_tokens: usize, sinks: usize, window: usize) -> std::ops::Range<usize> {
        let end = self.length.saturating_sub(window) / page_tokens;
        // The page that is being written has no room to spare for.
        let end = end.min(self.length / page_tokens).min(self.pages.len());
        sinks.div_ceil(page_tokens).min(end)..end
    }
}
