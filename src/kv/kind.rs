//! The types of cached numbers.
use ruvlab_kernels::Format;

/// The type of cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the memory to read at every token.
    #[default]
    F16,
    /// 8 bits and a scale for 32 values.
    Q8_0,
    /// 5 bits, a scale and a minimum for 32 values.
    Q5_1,
    /// 4 bits and a scale for 32 values.
    Q4_0,
}

impl CacheType {
    /// Returns its name, as recipes write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Returns how its bytes are laid out.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q4_0 => Format::Q4_0,
        }
    }

    /// Returns the bytes of so many values; none where they are no whole blocks.
    #[must_use]
    pub fn bytes(self, values: usize) -> Option<usize> {
        self.format().row_bytes(values)
    }

    /// Returns the narrower of two.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        if other.bytes(32) < self.bytes(32) { other } else { self }
    }
}

/// The types of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CacheTypes {
    pub keys: CacheType,
    pub values: CacheType,
}

impl CacheTypes {
    /// Returns keys and values each in the narrower of two types.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        Self { keys: self.keys.narrower(other.keys), values: self.values.narrower(other.values) }
    }
}
