//! Inputs of a product, quantised once for all matrices that read them.
mod rows;
mod shared;

pub(crate) use rows::{ActivationRows, each, slices};
use shared::Parts;
pub use shared::SharedRows;

use crate::{
    arena::{Claims, Strips},
    dispatch::Kernels,
    format::Format,
    matrix::layout::COLUMNS,
};

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
    /// With the largest weight of any format (4095, `q13_0`), 32 products of 15-bit codes still add up to
    /// less than 2^31.
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
    /// Of floats or codes, of blocks, and of bytes.
    claims: [Claims; 3],
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
            claims: Default::default(),
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
        assert!(columns > 0 || rows == 0, "{rows} rows of no columns");
        (self.class, self.rows, self.columns) = (class, rows, columns);
        let [first, second, third] = &mut self.claims;
        let parts = match class {
            ActivationClass::Float => {
                self.stride = columns.max(1);
                Parts::Floats(strips(&mut self.floats, rows, self.stride, first))
            }
            ActivationClass::Integer => {
                assert!(columns.is_multiple_of(COLUMNS), "{columns} columns are no multiple of {COLUMNS}");
                // An odd number of cache lines, so that rows of a tile do not meet in one cache set.
                self.stride = columns.next_multiple_of(COLUMNS * 2) + COLUMNS;
                Parts::Codes {
                    largest: self.precision.largest_code(),
                    codes: strips(&mut self.codes, rows, self.stride, first),
                    blocks: strips(&mut self.blocks, rows, (columns / COLUMNS).max(1), second),
                    bytes: (self.precision == Precision::Int8)
                        .then(|| strips(&mut self.bytes, rows, self.stride, third)),
                }
            }
        };
        SharedRows { rows, columns, parts }
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

/// Returns `buffer` as rows that threads take one by one; it grows where it is too short.
fn strips<'a, T: Clone + Default>(
    buffer: &'a mut Vec<T>,
    rows: usize,
    stride: usize,
    claims: &'a mut Claims,
) -> Strips<'a, T> {
    let length = rows * stride;
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    Strips::new(&mut buffer[..length], 1, length, stride, claims)
}
