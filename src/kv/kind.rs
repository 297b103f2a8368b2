//! The types of a page.
pub use ruvlab_kernels::CacheType;

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
