//! Numbers in one of the types.
use std::ops::Range;

use ruvlab_kernels::{CacheBuffer, CacheMemory, Cached, CachedMut, Kernels};

use super::CacheType;

#[derive(Clone)]
pub(super) enum Numbers {
    F32(CacheBuffer<f32>),
    F16(CacheBuffer<u16>),
    /// Blocks of 32.
    Blocks(CacheType, CacheBuffer<u8>),
}

impl Numbers {
    /// Returns zeros. `length` is a multiple of what the type has in a block.
    pub(super) fn new(memory: &CacheMemory, kind: CacheType, length: usize) -> Self {
        match kind {
            CacheType::F32 => Self::F32(memory.zeros(length)),
            CacheType::F16 => Self::F16(memory.zeros(length)),
            _ => Self::Blocks(kind, memory.zeros(kind.bytes(length).unwrap_or(0))),
        }
    }

    fn memory(&self) -> &CacheMemory {
        match self {
            Self::F32(all) => all.memory(),
            Self::F16(all) => all.memory(),
            Self::Blocks(_, all) => all.memory(),
        }
    }

    pub(super) fn kind(&self) -> CacheType {
        match self {
            Self::F32(_) => CacheType::F32,
            Self::F16(_) => CacheType::F16,
            Self::Blocks(kind, _) => *kind,
        }
    }

    /// Returns the memory it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(all) => size_of_val(&all[..]),
            Self::F16(all) => size_of_val(&all[..]),
            Self::Blocks(_, all) => all.len(),
        }
    }

    /// What has no number in a type with scales becomes NaN, and so stays visible.
    pub(super) fn write(&mut self, kernels: &Kernels, range: Range<usize>, values: &[f32]) {
        let to = match self {
            Self::F32(all) => CachedMut::F32(&mut all[range]),
            Self::F16(all) => CachedMut::F16(&mut all[range]),
            Self::Blocks(kind, all) => {
                let to = &mut all[blocks(*kind, range)];
                match kind {
                    CacheType::Q5_1 => CachedMut::Q5_1(to),
                    CacheType::Q4_0 => CachedMut::Q4_0(to),
                    CacheType::F32 | CacheType::F16 | CacheType::Q8_0 => CachedMut::Q8_0(to),
                }
            }
        };
        kernels.write_cached(values, to);
    }

    pub(super) fn read(&self, kernels: &Kernels, range: Range<usize>, out: &mut [f32]) {
        kernels.read_cached(self.part(range), out);
    }

    /// Returns the same numbers in another type, `piece` at once: a divisor of their count, and whole
    /// blocks.
    pub(super) fn converted(&self, kernels: &Kernels, kind: CacheType, length: usize, piece: usize) -> Self {
        let mut to = Self::new(self.memory(), kind, length);
        let mut values = vec![0.0; piece];
        for start in (0..length).step_by(piece) {
            self.read(kernels, start..start + piece, &mut values);
            to.write(kernels, start..start + piece, &values);
        }
        to
    }

    pub(super) fn part(&self, range: Range<usize>) -> Cached<'_> {
        match self {
            Self::F32(all) => Cached::F32(&all[range]),
            Self::F16(all) => Cached::F16(&all[range]),
            Self::Blocks(kind, all) => {
                let blocks = &all[blocks(*kind, range)];
                match kind {
                    CacheType::Q5_1 => Cached::Q5_1(blocks),
                    CacheType::Q4_0 => Cached::Q4_0(blocks),
                    CacheType::F32 | CacheType::F16 | CacheType::Q8_0 => Cached::Q8_0(blocks),
                }
            }
        }
    }

    /// Appends it as bytes.
    pub(super) fn store(&self, out: &mut Vec<u8>) {
        match self {
            Self::F32(all) => out.extend(all.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16(all) => out.extend(all.iter().flat_map(|x| x.to_le_bytes())),
            Self::Blocks(_, all) => out.extend_from_slice(all),
        }
    }

    /// Returns what was stored: the bytes of `length` numbers.
    pub(super) fn stored(memory: &CacheMemory, kind: CacheType, length: usize, bytes: &[u8]) -> Self {
        let mut numbers = Self::new(memory, kind, length);
        match &mut numbers {
            Self::F32(all) => fill(all, bytes, f32::from_le_bytes),
            Self::F16(all) => fill(all, bytes, u16::from_le_bytes),
            Self::Blocks(_, all) => fill(all, bytes, |[byte]| byte),
        }
        numbers
    }
}

fn fill<T, const N: usize>(all: &mut [T], bytes: &[u8], number: impl Fn([u8; N]) -> T) {
    for (to, bytes) in all.iter_mut().zip(bytes.as_chunks().0) {
        *to = number(*bytes);
    }
}

fn blocks(kind: CacheType, range: Range<usize>) -> Range<usize> {
    let at = |values: usize| kind.bytes(values).unwrap_or(0);
    at(range.start)..at(range.end)
}
