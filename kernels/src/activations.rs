//! Inputs of a product, quantised once for all matrices that read them.
use std::{marker::PhantomData, ops::Range};

use crate::{claims::Claims, dispatch::Kernels, format::Format, matrix::layout::COLUMNS};

/// How finely activations are coded for quantised weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 15 bits: products as good as those of the f32 numbers.
    #[default]
    Int16,
    /// 8 bits, as most engines take: less to multiply, and an error of its own.
    Int8,
}

impl Precision {
    /// Returns the largest absolute code.
    ///
    /// With the largest folded weight of any format (32 times 127 and a sign, `q6_k`), 32 products
    /// of 15-bit codes still add up to less than 2^31.
    pub(crate) const fn largest_code(self) -> f32 {
        match self {
            Self::Int16 => 16383.0,
            Self::Int8 => 127.0,
        }
    }
}

/// What a weight format is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationClass {
    /// The f32 numbers themselves: `f32`, `f16`, `bf16` weights.
    Float,
    /// Integers of some [`Precision`] with an f32 scale for 32 of them: all quantised weights.
    ///
    /// One class for all of them, so that a norm's output is quantised once even where the matrices
    /// that read it differ in format, as in a `Q4_K_M` file.
    Integer,
}

impl ActivationClass {
    /// Returns what matrices of `format` are multiplied with.
    #[must_use]
    pub const fn of(format: Format) -> Self {
        if format.is_quantized() { Self::Integer } else { Self::Float }
    }
}

/// What products need of a block of 32 codes beside the codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct CodeBlock {
    /// The value of a code of one.
    pub(crate) scale: f32,
    /// `scale * total`.
    pub(crate) scaled_total: f32,
    /// The sum of the codes.
    pub(crate) total: i32,
    /// The sums of the first and the second sixteen.
    pub(crate) halves: [i32; 2],
}

/// A batch of input rows, in the form that one class of weights is multiplied with.
///
/// The buffers are reused: preparing a batch no larger than an earlier one allocates nothing.
///
/// # Numerics
///
/// [`ActivationClass::Integer`]: `x ≈ scale * code` with `scale = max |x| / 16383` over 32 numbers (127
/// for [`Precision::Int8`]) and the code rounded to nearest, ties to even. Numbers of a block below 2e-34 are taken as zero. A NaN
/// or an infinity makes the scale of its block NaN, and so every output of its row.
#[derive(Debug)]
pub struct Activations {
    class: ActivationClass,
    precision: Precision,
    rows: usize,
    columns: usize,
    stride: usize,
    floats: Vec<f32>,
    codes: Vec<i16>,
    bytes: Vec<i8>,
    blocks: Vec<CodeBlock>,
    claims: Claims,
}

impl Default for Activations {
    fn default() -> Self {
        Self::new()
    }
}

impl Activations {
    /// Returns an empty batch, of [`Precision::Int16`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_precision(Precision::Int16)
    }

    /// Returns an empty batch whose integers will be of this precision.
    #[must_use]
    pub fn with_precision(precision: Precision) -> Self {
        Self {
            class: ActivationClass::Float,
            precision,
            rows: 0,
            columns: 0,
            stride: 0,
            floats: Vec::new(),
            codes: Vec::new(),
            bytes: Vec::new(),
            blocks: Vec::new(),
            claims: Claims::new(),
        }
    }

    /// Replaces the batch by `rows` rows of `columns` numbers.
    ///
    /// # Panics
    ///
    /// If the length is not `rows * columns`, or the columns are no multiple of 32 for
    /// [`ActivationClass::Integer`].
    pub fn quantize(&mut self, kernels: &Kernels, x: &[f32], rows: usize, columns: usize, class: ActivationClass) {
        assert_eq!(Some(x.len()), rows.checked_mul(columns), "{rows} rows of {columns}");
        let shared = self.shared(rows, columns, class);
        for row in 0..rows {
            shared.quantize(kernels, row, &x[row * columns..][..columns]);
        }
    }

    /// Replaces the batch by one whose rows several threads fill in, each row once.
    ///
    /// A row nobody fills in holds whatever was there before.
    ///
    /// # Panics
    ///
    /// If the columns are no multiple of 32 for [`ActivationClass::Integer`], or the batch is larger
    /// than memory can be.
    pub fn shared(&mut self, rows: usize, columns: usize, class: ActivationClass) -> SharedRows<'_> {
        let room = columns.checked_next_multiple_of(COLUMNS * 2).and_then(|stride| stride.checked_add(COLUMNS));
        let fits =
            room.and_then(|stride| stride.checked_mul(rows)).is_some_and(|values| values <= isize::MAX as usize / 4);
        assert!(fits, "a batch of {rows} rows of {columns} columns is larger than memory can be");
        (self.class, self.rows, self.columns) = (class, rows, columns);
        self.claims.reset(rows);
        match class {
            ActivationClass::Float => {
                self.stride = columns;
                grow(&mut self.floats, rows * columns);
            }
            ActivationClass::Integer => {
                assert!(columns.is_multiple_of(COLUMNS), "{columns} columns are no multiple of {COLUMNS}");
                // An odd number of cache lines, so that rows of a tile do not meet in one cache set.
                self.stride = columns.next_multiple_of(COLUMNS * 2) + COLUMNS;
                grow(&mut self.codes, rows * self.stride);
                if self.precision == Precision::Int8 {
                    grow(&mut self.bytes, rows * self.stride);
                }
                grow(&mut self.blocks, rows * columns / COLUMNS);
            }
        }
        SharedRows {
            class,
            precision: self.precision,
            rows,
            columns,
            stride: self.stride,
            floats: self.floats.as_mut_ptr(),
            codes: self.codes.as_mut_ptr(),
            bytes: self.bytes.as_mut_ptr(),
            blocks: self.blocks.as_mut_ptr(),
            claims: &self.claims,
            batch: PhantomData,
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the class the batch is in.
    #[must_use]
    pub fn class(&self) -> ActivationClass {
        self.class
    }

    pub(crate) fn view(&self) -> ActivationRows<'_> {
        let (codes, floats) = match self.class {
            ActivationClass::Float => (0, self.rows * self.stride),
            ActivationClass::Integer => (self.rows * self.stride, 0),
        };
        let blocks = if codes == 0 { 0 } else { self.rows * self.columns / COLUMNS };
        let bytes = if self.precision == Precision::Int8 { codes } else { 0 };
        ActivationRows {
            rows: self.rows,
            columns: self.columns,
            stride: self.stride,
            floats: &self.floats[..floats],
            codes: &self.codes[..codes],
            bytes: &self.bytes[..bytes],
            blocks: &self.blocks[..blocks],
        }
    }
}

/// Which of eight columns each byte of codes belongs to: the order in which a lane of 4-bit weights
/// comes apart, the lower half of each byte first.
pub(crate) const BYTE_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Writes 8-bit codes as bytes, in [`BYTE_ORDER`].
fn write_bytes(codes: &[i16], bytes: &mut [i8]) {
    for (codes, bytes) in codes.as_chunks::<8>().0.iter().zip(bytes.as_chunks_mut::<8>().0) {
        *bytes = BYTE_ORDER.map(|at| codes[at] as i8);
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}

/// The rows of an [`Activations`] while threads fill them in.
#[derive(Debug)]
pub struct SharedRows<'a> {
    class: ActivationClass,
    precision: Precision,
    rows: usize,
    columns: usize,
    stride: usize,
    floats: *mut f32,
    codes: *mut i16,
    bytes: *mut i8,
    blocks: *mut CodeBlock,
    claims: &'a Claims,
    batch: PhantomData<&'a mut Activations>,
}

// SAFETY: the buffers are borrowed exclusively for 'a and hold plain data; `quantize` gives every row
// to at most one caller.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above; `quantize` settles with atomic flags which of the sharers gets a row.
unsafe impl Sync for SharedRows<'_> {}

impl SharedRows<'_> {
    /// Fills in one row.
    ///
    /// # Panics
    ///
    /// If there is no such row, it was filled in before, or `x` is not as long as a row.
    pub fn quantize(&self, kernels: &Kernels, row: usize, x: &[f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(x.len(), self.columns, "a row has {} columns", self.columns);
        assert!(self.claims.claim(row, row + 1), "row {row} was filled in before");
        match self.class {
            ActivationClass::Float => {
                // SAFETY: `shared` has made the buffer at least `rows * stride` long and borrows it for
                // longer than this; the claim above makes this the only reference to the row.
                let floats =
                    unsafe { std::slice::from_raw_parts_mut(self.floats.add(row * self.stride), self.columns) };
                floats.copy_from_slice(x);
            }
            ActivationClass::Integer => {
                let count = self.columns / COLUMNS;
                // SAFETY: as above, with `rows * stride` codes and `rows * columns / 32` blocks.
                let (codes, blocks) = unsafe {
                    (
                        std::slice::from_raw_parts_mut(self.codes.add(row * self.stride), self.columns),
                        std::slice::from_raw_parts_mut(self.blocks.add(row * count), count),
                    )
                };
                (kernels.quantize_codes)(x, self.precision.largest_code(), codes, blocks);
                if self.precision == Precision::Int8 {
                    // SAFETY: as above, with `rows * stride` bytes.
                    let bytes =
                        unsafe { std::slice::from_raw_parts_mut(self.bytes.add(row * self.stride), self.columns) };
                    write_bytes(codes, bytes);
                }
            }
        }
    }
}

/// A finished batch as kernels read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationRows<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// From one row of codes or floats to the next.
    pub(crate) stride: usize,
    pub(crate) floats: &'a [f32],
    pub(crate) codes: &'a [i16],
    /// The codes of [`Precision::Int8`] once more, as [`BYTE_ORDER`] says; none of the other.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only dot products of bytes read them"))]
    pub(crate) bytes: &'a [i8],
    pub(crate) blocks: &'a [CodeBlock],
}

impl<'a> ActivationRows<'a> {
    pub(crate) fn row_floats(&self, row: usize) -> &'a [f32] {
        &self.floats[row * self.stride..][..self.columns]
    }

    pub(crate) fn row_codes(&self, row: usize) -> &'a [i16] {
        &self.codes[row * self.stride..][..self.columns]
    }

    /// Returns the codes of `M` rows from `first` on, in blocks.
    #[inline]
    pub(crate) fn codes_of<const M: usize>(self, first: usize) -> [&'a [[i16; COLUMNS]]; M] {
        std::array::from_fn(|m| self.row_codes(first + m).as_chunks().0)
    }

    /// Returns what else products need of the blocks of `M` rows from `first` on.
    #[inline]
    pub(crate) fn blocks_of<const M: usize>(self, first: usize) -> [&'a [CodeBlock]; M] {
        std::array::from_fn(|m| self.row_blocks(first + m))
    }

    /// Returns some columns of `M` rows of floats from `first` on.
    #[inline]
    pub(crate) fn floats_of<const M: usize>(self, first: usize, columns: Range<usize>) -> [&'a [f32]; M] {
        std::array::from_fn(|m| &self.row_floats(first + m)[columns.clone()])
    }

    pub(crate) fn row_blocks(&self, row: usize) -> &'a [CodeBlock] {
        let count = self.columns / COLUMNS;
        &self.blocks[row * count..][..count]
    }
}

/// Returns the same element of all rows.
///
/// A function of its own, like those above, because a closure inside a kernel has the kernel's
/// processor features, and `from_fn`, which lacks them, would not inline it.
#[inline]
pub(crate) fn each<'a, T, const M: usize>(rows: &[&'a [T]; M], index: usize) -> [&'a T; M] {
    std::array::from_fn(|m| &rows[m][index])
}

/// Returns the same `count` elements of all rows.
#[inline]
pub(crate) fn slices<T, const M: usize>(rows: [&[T]; M], first: usize, count: usize) -> [&[T]; M] {
    rows.map(|row| &row[first..][..count])
}
