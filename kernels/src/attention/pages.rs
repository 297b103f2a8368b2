//! What is cached of a sequence, in pages of tokens.
use std::ops::Range;

use crate::{Format, Kernels, dequantize_row, quantize_row};

/// How keys or values are cached.
///
/// The quantised types are llama.cpp's blocks of 32 numbers, laid along D for each token and head: D
/// is a multiple of 32 there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the memory to read at every token.
    #[default]
    F16,
    /// 8 bits and a scale for 32 numbers.
    Q8_0,
    /// 5 bits, a scale and a minimum for 32 numbers.
    Q5_1,
    /// 4 bits and a scale for 32 numbers.
    Q4_0,
}

impl CacheType {
    /// All types, the widest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Q8_0, Self::Q5_1, Self::Q4_0];

    /// Returns the format of matrices that holds numbers alike.
    #[must_use]
    pub const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q4_0 => Format::Q4_0,
        }
    }

    /// Returns its name as recipes spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.format().name()
    }

    /// Returns how many bytes so many numbers of one head take, or nothing if they are no whole number
    /// of blocks.
    ///
    /// # Examples
    ///
    /// ```
    /// use ruvlab_kernels::CacheType;
    ///
    /// assert_eq!(CacheType::Q8_0.bytes(64), Some(68));
    /// assert_eq!(CacheType::Q8_0.bytes(80), None);
    /// ```
    #[must_use]
    pub const fn bytes(self, values: usize) -> Option<usize> {
        self.format().row_bytes(values)
    }

    /// Returns where the blocks of some tokens' heads of D numbers are.
    #[inline(never)]
    fn tokens(self, range: &Range<usize>, d: usize) -> Range<usize> {
        let Some(bytes) = self.bytes(d) else {
            panic!("attend: heads of {d} numbers are no whole blocks of {self} (cache them as f16)")
        };
        range.start * bytes..range.end * bytes
    }

    /// Returns the narrower of two.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        if other.bytes(32) < self.bytes(32) { other } else { self }
    }
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Numbers as they are cached: f16 as its bits, the quantised types as blocks.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Cached<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Q8_0(&'a [u8]),
    Q5_1(&'a [u8]),
    Q4_0(&'a [u8]),
}

/// Room for numbers as they are cached, the same types as [`Cached`].
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum CachedMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [u16]),
    Q8_0(&'a mut [u8]),
    Q5_1(&'a mut [u8]),
    Q4_0(&'a mut [u8]),
}

impl<'a> Cached<'a> {
    pub(super) const NOTHING: Self = Self::F32(&[]);

    /// Returns the type.
    #[must_use]
    pub fn kind(self) -> CacheType {
        match self {
            Self::F32(_) => CacheType::F32,
            Self::F16(_) => CacheType::F16,
            Self::Q8_0(_) => CacheType::Q8_0,
            Self::Q5_1(_) => CacheType::Q5_1,
            Self::Q4_0(_) => CacheType::Q4_0,
        }
    }

    /// Returns how many numbers there are.
    pub(super) fn values(self) -> usize {
        let numbers = |format: Format, bytes: &[u8]| bytes.len() / format.block_bytes() * format.block_values();
        match self {
            Self::F32(all) => all.len(),
            Self::F16(all) => all.len(),
            Self::Q8_0(all) => numbers(Format::Q8_0, all),
            Self::Q5_1(all) => numbers(Format::Q5_1, all),
            Self::Q4_0(all) => numbers(Format::Q4_0, all),
        }
    }

    /// Returns its two halves, for whoever only asks memory for them: blocks may be divided.
    pub(super) fn halves(self) -> [Self; 2] {
        fn split<'a, T>(all: &'a [T], of: fn(&'a [T]) -> Cached<'a>) -> [Cached<'a>; 2] {
            let (first, second) = all.split_at(all.len() / 2);
            [of(first), of(second)]
        }
        match self {
            Self::F32(all) => split(all, Self::F32),
            Self::F16(all) => split(all, Self::F16),
            Self::Q8_0(all) => split(all, Self::Q8_0),
            Self::Q5_1(all) => split(all, Self::Q5_1),
            Self::Q4_0(all) => split(all, Self::Q4_0),
        }
    }

    /// Returns blocks, and which of `q8_0`, `q5_1` and `q4_0` they are.
    pub(super) fn blocks(self) -> Option<(usize, &'a [u8])> {
        match self {
            Self::F32(_) | Self::F16(_) => None,
            Self::Q8_0(all) => Some((0, all)),
            Self::Q5_1(all) => Some((1, all)),
            Self::Q4_0(all) => Some((2, all)),
        }
    }

    /// Returns some tokens' heads of D numbers.
    #[inline]
    pub(super) fn tokens(self, range: Range<usize>, d: usize) -> Self {
        let values = range.start * d..range.end * d;
        let blocks = || self.kind().tokens(&range, d);
        match self {
            Self::F32(all) => Self::F32(&all[values]),
            Self::F16(all) => Self::F16(&all[values]),
            Self::Q8_0(all) => Self::Q8_0(&all[blocks()]),
            Self::Q5_1(all) => Self::Q5_1(&all[blocks()]),
            Self::Q4_0(all) => Self::Q4_0(&all[blocks()]),
        }
    }
}

/// Keys and values of one key head in one page.
///
/// # Shapes
///
/// Both are `[n, D]`, with n up to the tokens of a page.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "described above")]
pub struct KeyValuePage<'a> {
    pub keys: Cached<'a>,
    pub values: Cached<'a>,
}

impl KeyValuePage<'_> {
    /// Returns some tokens' heads of D numbers.
    #[inline]
    pub(super) fn tokens(self, range: Range<usize>, d: usize) -> Self {
        Self { keys: self.keys.tokens(range.clone(), d), values: self.values.tokens(range, d) }
    }
}

/// The cached keys and values of one key head of one sequence.
///
/// Pages may be of different types.
pub trait KeyValuePages {
    /// Returns how many tokens a page has room for: a power of two from [`super::SMALLEST_PAGE`] to
    /// [`super::KEY_TILE`], the same for all pages.
    fn page_tokens(&self) -> usize;

    /// Returns the page of positions from `index * page_tokens` on, with at least the tokens any query
    /// may see of it.
    fn page(&self, index: usize) -> KeyValuePage<'_>;
}

impl Kernels {
    /// Writes numbers as they are to be cached.
    ///
    /// # Numerics
    ///
    /// f16 as [`Kernels::narrow`] does, the quantised types as [`quantize_row`]. A block with a number
    /// that is not finite is read back as NaN: no code stands for it, and it must not be lost.
    ///
    /// # Panics
    ///
    /// If the lengths do not belong together.
    pub fn write_cached(&self, values: &[f32], to: CachedMut<'_>) {
        match to {
            CachedMut::F32(to) => to.copy_from_slice(values),
            CachedMut::F16(to) => self.narrow(values, to),
            CachedMut::Q8_0(to) => write_blocks(Format::Q8_0, values, to),
            CachedMut::Q5_1(to) => write_blocks(Format::Q5_1, values, to),
            CachedMut::Q4_0(to) => write_blocks(Format::Q4_0, values, to),
        }
    }

    /// Writes what is cached as f32, exactly.
    ///
    /// # Panics
    ///
    /// If the lengths do not belong together.
    pub fn read_cached(&self, from: Cached<'_>, out: &mut [f32]) {
        match from {
            Cached::F32(from) => out.copy_from_slice(from),
            Cached::F16(from) => self.widen(from, out),
            blocks => {
                assert_eq!(blocks.values(), out.len(), "read_cached: room for {} numbers", out.len());
                (self.attention.widen_blocks)(blocks, out);
            }
        }
    }
}

/// Writes blocks as f32, without anything of a tier.
pub(crate) fn widen_blocks(blocks: Cached<'_>, out: &mut [f32]) {
    match blocks {
        Cached::F32(_) | Cached::F16(_) => {}
        Cached::Q8_0(from) => dequantize_row(Format::Q8_0, from, out),
        Cached::Q5_1(from) => dequantize_row(Format::Q5_1, from, out),
        Cached::Q4_0(from) => dequantize_row(Format::Q4_0, from, out),
    }
}

fn write_blocks(format: Format, values: &[f32], to: &mut [u8]) {
    if quantize_row(format, values, to).is_ok() {
        return;
    }
    let blocks = to.chunks_exact_mut(format.block_bytes());
    for (values, block) in values.chunks_exact(format.block_values()).zip(blocks) {
        if quantize_row(format, values, block).is_err() {
            block.fill(0);
            block[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
        }
    }
}
