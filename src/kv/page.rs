//! A page: some tokens of all layers and heads.
use ruvlab_kernels::{CacheMemory, KEY_TILE, Kernels, KeyValuePage, SMALLEST_PAGE};

use super::{CacheError, CacheType, CacheTypes, numbers::Numbers};

/// The sizes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PageShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// A power of two from 8 to [`KEY_TILE`].
    pub page_tokens: usize,
}

impl PageShape {
    /// Returns how many keys, or values, a page holds.
    #[must_use]
    pub fn values(&self) -> usize {
        self.layers * self.kv_heads * self.page_tokens * self.head_dim
    }

    /// Returns the bytes of a page.
    #[must_use]
    pub fn bytes(&self, types: CacheTypes) -> usize {
        let bytes = |kind: CacheType| kind.bytes(self.values()).unwrap_or(0);
        bytes(types.keys) + bytes(types.values)
    }

    /// Returns the pages of so many tokens.
    #[must_use]
    pub fn pages(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// Checks that the kernels walk such pages, and that a head is whole blocks of the types.
    ///
    /// # Errors
    ///
    /// If not.
    pub fn check(&self, types: CacheTypes) -> Result<(), CacheError> {
        let tokens = self.page_tokens;
        if !tokens.is_power_of_two() || !(SMALLEST_PAGE..=KEY_TILE).contains(&tokens) {
            return Err(CacheError::PageTokens(tokens));
        }
        for (what, kind) in [("keys", types.keys), ("values", types.values)] {
            if kind.bytes(self.head_dim).is_none() {
                return Err(CacheError::Blocks { what, kind: kind.name(), head_dim: self.head_dim });
            }
        }
        Ok(())
    }

    fn head_values(&self) -> usize {
        self.page_tokens * self.head_dim
    }

    pub(super) fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * self.head_values()
    }
}

/// # Shapes
///
/// Both are `[layers, K, page_tokens, D]`.
#[derive(Clone)]
pub(super) struct Page {
    keys: Numbers,
    values: Numbers,
}

impl Page {
    pub(super) fn new(memory: &CacheMemory, shape: &PageShape, types: CacheTypes) -> Self {
        let new = |kind| Numbers::new(memory, kind, shape.values());
        Self { keys: new(types.keys), values: new(types.values) }
    }

    pub(super) fn types(&self) -> CacheTypes {
        CacheTypes { keys: self.keys.kind(), values: self.values.kind() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Writes one token's keys and values `[K, D]` of a layer.
    pub(super) fn write(
        &mut self,
        kernels: &Kernels,
        shape: &PageShape,
        (layer, token): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) {
        let d = shape.head_dim;
        for (head, (keys, values)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
            let start = shape.offset(layer, head) + token * d;
            self.keys.write(kernels, start..start + d, keys);
            self.values.write(kernels, start..start + d, values);
        }
    }

    /// Returns one head of one layer; `start` is its [`offset`](PageShape::offset).
    pub(super) fn tile(&self, start: usize, length: usize) -> KeyValuePage<'_> {
        let range = start..start + length;
        KeyValuePage { keys: self.keys.part(range.clone()), values: self.values.part(range) }
    }

    /// Returns the same in other types.
    pub(super) fn converted(&self, kernels: &Kernels, shape: &PageShape, types: CacheTypes) -> Self {
        let convert = |from: &Numbers, kind: CacheType| {
            if from.kind() == kind {
                return from.clone();
            }
            from.converted(kernels, kind, shape.values(), shape.head_values())
        };
        Self { keys: convert(&self.keys, types.keys), values: convert(&self.values, types.values) }
    }

    /// Changes all keys, one layer's head `[page_tokens, D]` at once.
    pub(super) fn change_keys(
        &mut self,
        kernels: &Kernels,
        shape: &PageShape,
        mut change: impl FnMut(usize, &mut [f32]),
    ) {
        let length = shape.head_values();
        let mut keys = vec![0.0; length];
        for layer in 0..shape.layers {
            for head in 0..shape.kv_heads {
                let start = shape.offset(layer, head);
                self.keys.read(kernels, start..start + length, &mut keys);
                change(layer, &mut keys);
                self.keys.write(kernels, start..start + length, &keys);
            }
        }
    }

    pub(super) fn store(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        self.keys.store(&mut bytes);
        self.values.store(&mut bytes);
        bytes
    }

    /// Returns what was stored: keys first.
    pub(super) fn stored(memory: &CacheMemory, shape: &PageShape, types: CacheTypes, bytes: &[u8]) -> Self {
        let key_bytes = types.keys.bytes(shape.values()).unwrap_or(0);
        let (keys, values) = bytes.split_at(key_bytes.min(bytes.len()));
        let stored = |kind, bytes| Numbers::stored(memory, kind, shape.values(), bytes);
        Self { keys: stored(types.keys, keys), values: stored(types.values, values) }
    }
}
