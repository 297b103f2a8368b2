//! Cached keys and values of one sequence, in blocks of one tile of tokens each.
//!
//! Attention sees a sequence as tiles by number, so a pool of pages can take this file's place
//! without it noticing.
use std::ops::Range;

use ruvlab_kernels::{Cached, KEY_TILE, Kernels, KeyValuePage, KeyValuePages};

use super::CacheType;

/// Numbers in one of the types.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl Numbers {
    fn new(kind: CacheType, length: usize) -> Self {
        match kind {
            CacheType::F32 => Self::F32(vec![0.0; length]),
            CacheType::F16 => Self::F16(vec![0; length]),
        }
    }

    fn write(&mut self, kernels: &Kernels, range: Range<usize>, values: &[f32]) {
        match self {
            Self::F32(all) => all[range].copy_from_slice(values),
            Self::F16(all) => kernels.narrow(values, &mut all[range]),
        }
    }

    fn part(&self, range: Range<usize>) -> Cached<'_> {
        match self {
            Self::F32(all) => Cached::F32(&all[range]),
            Self::F16(all) => Cached::F16(&all[range]),
        }
    }
}

/// [`KEY_TILE`] tokens of all layers.
///
/// # Shapes
///
/// Both are `[layers, K, KEY_TILE, D]`.
struct Block {
    keys: Numbers,
    values: Numbers,
}

/// The sizes of a model's cache.
#[derive(Clone, Copy)]
pub(super) struct CacheShape {
    pub(super) key_type: CacheType,
    pub(super) value_type: CacheType,
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// The cache of one sequence.
pub(super) struct Cache {
    shape: CacheShape,
    blocks: Vec<Block>,
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Self {
        Self { shape, blocks: Vec::new() }
    }

    /// Makes room for so many tokens. Only this allocates, once in [`KEY_TILE`] tokens; untouched
    /// memory is not resident.
    pub(super) fn reserve(&mut self, tokens: usize) {
        let CacheShape { key_type, value_type, layers, kv_heads, head_dim } = self.shape;
        let length = layers * kv_heads * KEY_TILE * head_dim;
        while self.blocks.len() * KEY_TILE < tokens {
            self.blocks.push(Block { keys: Numbers::new(key_type, length), values: Numbers::new(value_type, length) });
        }
    }

    fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * KEY_TILE * self.shape.head_dim
    }

    /// Writes one token's keys and values `[K, D]` of a layer.
    pub(super) fn write(&mut self, kernels: &Kernels, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let d = self.shape.head_dim;
        for (head, (keys, values)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
            let start = self.offset(layer, head) + position % KEY_TILE * d;
            let range = start..start + d;
            let block = &mut self.blocks[position / KEY_TILE];
            block.keys.write(kernels, range.clone(), keys);
            block.values.write(kernels, range, values);
        }
    }

    /// Returns what is cached of one key head in one layer.
    pub(super) fn head(&self, layer: usize, head: usize) -> CachedHead<'_> {
        CachedHead { blocks: &self.blocks, offset: self.offset(layer, head), length: KEY_TILE * self.shape.head_dim }
    }
}

/// One key head of one layer.
pub(super) struct CachedHead<'a> {
    blocks: &'a [Block],
    offset: usize,
    /// Of a tile.
    length: usize,
}

impl KeyValuePages for CachedHead<'_> {
    fn page_tokens(&self) -> usize {
        KEY_TILE
    }

    fn page(&self, index: usize) -> KeyValuePage<'_> {
        let range = self.offset..self.offset + self.length;
        let Block { keys, values } = &self.blocks[index];
        KeyValuePage { keys: keys.part(range.clone()), values: values.part(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_from_its_layer_head_and_tile() {
        let kernels = ruvlab_kernels::active();
        let wide = |cached: Cached<'_>| match cached {
            Cached::F32(values) => values.to_vec(),
            Cached::F16(bits) => {
                let mut values = vec![0.0; bits.len()];
                kernels.widen(bits, &mut values);
                values
            }
            blocks => panic!("{:?} was not asked for", blocks.kind()),
        };
        for (key_type, value_type) in [(CacheType::F32, CacheType::F16), (CacheType::F16, CacheType::F32)] {
            let mut cache = Cache::new(CacheShape { key_type, value_type, layers: 2, kv_heads: 3, head_dim: 8 });
            // Small whole numbers are exact in f16.
            let value = |layer: usize, position: usize, i: usize| ((layer * 7 + position * 5 + i * 3) % 1024) as f32;
            for position in 0..150 {
                cache.reserve(position + 1);
                for layer in 0..2 {
                    let keys: Vec<f32> = (0..24).map(|i| value(layer, position, i)).collect();
                    let values: Vec<f32> = keys.iter().map(|x| -x).collect();
                    cache.write(kernels, layer, position, &keys, &values);
                }
            }
            assert_eq!(cache.blocks.len(), 3);
            for (layer, head, position) in [(0, 0, 0), (1, 2, 63), (0, 1, 64), (1, 0, 149)] {
                let tile = cache.head(layer, head);
                let KeyValuePage { keys, values } = tile.page(position / KEY_TILE);
                let at = position % KEY_TILE * 8;
                let want: Vec<f32> = (0..8).map(|i| value(layer, position, head * 8 + i)).collect();
                assert_eq!(wide(keys)[at..at + 8], want, "{key_type:?} layer {layer} head {head} position {position}");
                assert!(wide(values)[at..at + 8].iter().zip(want).all(|(value, key)| *value == -key));
            }
        }
    }
}
