//! How tensors are stored: the types of ggml that are known here.
use candle_core::quantized::GgmlDType;

/// A storage type of tensors, in ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are ggml's")]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

use TensorType::{Bf16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// `general.quantization_version`: what the blocks of today are called (`GGML_QNT_VERSION`).
pub(super) const QUANTIZATION_VERSION: u64 = 2;

/// Type, number in files, name, values in a block, bytes of a block (ggml's `ggml.c`, table
/// `type_traits`, and the block structs of `ggml-common.h`), and `general.file_type` of a file whose
/// matrices are all stored so (`llama.h`, `llama_ftype`).
const TYPES: [(TensorType, u32, &str, usize, usize, u32); 13] = [
    (F32, 0, "f32", 1, 4, 0),
    (F16, 1, "f16", 1, 2, 1),
    (Bf16, 30, "bf16", 1, 2, 32),
    (Q4_0, 2, "q4_0", 32, 18, 2),
    (Q4_1, 3, "q4_1", 32, 20, 3),
    (Q5_0, 6, "q5_0", 32, 22, 8),
    (Q5_1, 7, "q5_1", 32, 24, 9),
    (Q8_0, 8, "q8_0", 32, 34, 7),
    (Q2K, 10, "q2_k", 256, 84, 10),
    (Q3K, 11, "q3_k", 256, 110, 11),
    (Q4K, 12, "q4_k", 256, 144, 14),
    (Q5K, 13, "q5_k", 256, 176, 16),
    (Q6K, 14, "q6_k", 256, 210, 18),
];

/// Types that exist in files and are not supported, so that an error can name them.
const STRANGERS: [(u32, &str); 20] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (20, "iq4_nl"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
    (40, "nvfp4"),
];

impl TensorType {
    fn row(self) -> &'static (Self, u32, &'static str, usize, usize, u32) {
        // Declared in the order of the table, which a test holds.
        &TYPES[self as usize]
    }

    /// Returns the type of that number in a file, or a name for the error.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        if let Some(row) = TYPES.iter().find(|row| row.1 == id) {
            return Ok(row.0);
        }
        Err(STRANGERS.iter().find(|row| row.0 == id).map_or_else(|| format!("number {id}"), |row| row.1.to_owned()))
    }

    /// Returns the type of that name (`q4_k`), as recipes write it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    /// Returns all types, in a fixed order.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|row| row.0)
    }

    /// Returns its name (`q4_k`).
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Returns its number in files.
    pub(super) fn id(self) -> u32 {
        self.row().1
    }

    /// Returns how many values a block holds.
    #[must_use]
    pub fn block_values(self) -> usize {
        self.row().3
    }

    /// Returns how many bytes a block takes.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Returns the number of a file whose matrices are stored so.
    pub(super) fn file_type(self) -> u32 {
        self.row().5
    }

    /// Returns candle's name for it.
    #[must_use]
    pub fn candle(self) -> GgmlDType {
        match self {
            F32 => GgmlDType::F32,
            F16 => GgmlDType::F16,
            Bf16 => GgmlDType::BF16,
            Q4_0 => GgmlDType::Q4_0,
            Q4_1 => GgmlDType::Q4_1,
            Q5_0 => GgmlDType::Q5_0,
            Q5_1 => GgmlDType::Q5_1,
            Q8_0 => GgmlDType::Q8_0,
            Q2K => GgmlDType::Q2K,
            Q3K => GgmlDType::Q3K,
            Q4K => GgmlDType::Q4K,
            Q5K => GgmlDType::Q5K,
            Q6K => GgmlDType::Q6K,
        }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_those_of_candle() {
        for kind in TensorType::all() {
            assert_eq!(kind.row().0, kind);
            assert_eq!(kind.block_values(), kind.candle().block_size(), "{kind}");
            assert_eq!(kind.block_bytes(), kind.candle().type_size(), "{kind}");
            assert_eq!(TensorType::from_name(kind.name()), Some(kind));
            assert_eq!(TensorType::from_id(kind.id()), Ok(kind));
        }
    }
}
