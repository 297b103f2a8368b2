//! What attention reads.
use ruvlab_kernels::{KeyValuePage, KeyValuePages};

use super::{
    PageShape, PagedCache,
    pool::{PageId, Pool},
};

impl PagedCache {
    /// Returns what is cached of one key head in one layer; none of a sequence that is not open.
    #[must_use]
    pub fn head(&self, id: u32, layer: usize, head: usize) -> Option<CachedHead<'_>> {
        let PageShape { page_tokens, head_dim, .. } = self.settings.shape;
        let start = self.settings.shape.offset(layer, head);
        let table = self.tables.get(&id)?;
        Some(CachedHead { pool: &self.pool, pages: &table.pages, start, length: page_tokens * head_dim, page_tokens })
    }
}

/// One key head of one layer.
pub struct CachedHead<'a> {
    pool: &'a Pool,
    pages: &'a [PageId],
    start: usize,
    length: usize,
    page_tokens: usize,
}

impl KeyValuePages for CachedHead<'_> {
    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    #[expect(clippy::panic, reason = "a step brings all its pages to memory before it attends")]
    fn page(&self, index: usize) -> KeyValuePage<'_> {
        match self.pool.page(self.pages[index]) {
            Some(page) => page.tile(self.start, self.length),
            None => panic!("page {index} of a sequence that attends is not in memory"),
        }
    }
}
