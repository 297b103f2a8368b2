//! The storage formats of a weight matrix: those of GGUF files, and one of our own.

/// How the numbers of a row are stored: plain floats, or blocks of quantised ones.
///
/// The quantised formats are llama.cpp's (`ggml-common.h`); a row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for 16, two scales of those for 256.
    Q2K,
    /// 3 bits, 6-bit scales for 16, a scale of those for 256.
    Q3K,
    /// 4 bits, 6-bit scales and minima for 32, two scales of those for 256.
    Q4K,
    /// 5 bits, 6-bit scales and minima for 32, two scales of those for 256.
    Q5K,
    /// 6 bits, 8-bit scales for 16, a scale of those for 256.
    Q6K,
    /// 13 bits in 16, a scale for 32: for matrices that must be multiplied finely and fast, such as an adapter's.
    /// No file has it.
    Q13_0,
}

use Format::{Bf16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q13_0};

impl Format {
    /// All formats.
    pub const ALL: [Self; 14] = [F32, F16, Bf16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Q13_0];

    /// Returns its name as recipes spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            F32 => "f32",
            F16 => "f16",
            Bf16 => "bf16",
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q8_0 => "q8_0",
            Q2K => "q2_k",
            Q3K => "q3_k",
            Q4K => "q4_k",
            Q5K => "q5_k",
            Q6K => "q6_k",
            Q13_0 => "q13_0",
        }
    }

    /// Returns how many numbers a block holds; 1 for the plain floats.
    #[must_use]
    pub const fn block_values(self) -> usize {
        match self {
            F32 | F16 | Bf16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q13_0 => 32,
            Q2K | Q3K | Q4K | Q5K | Q6K => 256,
        }
    }

    /// Returns how many bytes a block takes in a file, or where rows are given in blocks.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | Bf16 => 2,
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q2K => 84,
            Q3K => 110,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
            Q13_0 => 66,
        }
    }

    /// Returns how many bytes a row of so many columns takes in a file, or nothing if the columns
    /// are no whole number of blocks.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> Option<usize> {
        if columns.is_multiple_of(self.block_values()) {
            (columns / self.block_values()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Returns whether numbers are stored as integers with scales.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        !matches!(self, F32 | F16 | Bf16)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
