//! What to do when the cache fills its budget.
use super::{CacheType, CacheTypes};

/// One thing to do about a full cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Drops whole pages between the sinks and the window, the longest sequence's oldest first, and
    /// closes the gap as soon as there is room for it: what is before it is rotated on (Xiao et al., arXiv
    /// 2309.17453).
    Evict,
    /// Drops the whole pages outside sinks and window that attention gave least weight (Zhang et al.,
    /// arXiv 2306.14048). What is left keeps its position until that would leave the context; then all
    /// gaps are closed.
    EvictLight,
    /// Stores pages in the type of their age.
    Quantize,
    /// Admits a sequence only when its most tokens have room.
    Reject,
    /// Moves pages of sequences that are not being computed to a file.
    Spill,
}

/// The type of pages up to an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// How many tokens it holds; the rest without a number.
    pub tokens: Option<usize>,
    /// The types.
    pub types: CacheTypes,
}

/// A policy for a full cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What to do, in order, each only as far as those before it did not suffice.
    pub stages: Vec<Stage>,
    /// The share of the budget at which it begins.
    pub high_watermark: f64,
    /// The share at which it has done enough.
    pub low_watermark: f64,
    /// First tokens of a sequence that are left as they are.
    pub sinks: usize,
    /// Last tokens of a sequence that are left as they are.
    pub window: usize,
    /// Types by age, youngest first.
    pub tiers: Vec<Tier>,
    /// The most bytes of the file.
    pub spill_bytes: u64,
}

impl Policy {
    /// Returns a policy of these stages with everything else as recipes have it by default.
    #[must_use]
    pub fn of(stages: Vec<Stage>) -> Self {
        let tier = |tokens, kind| Tier { tokens, types: CacheTypes { keys: kind, values: kind } };
        Self {
            stages,
            high_watermark: 0.8,
            low_watermark: 0.8,
            sinks: 4,
            window: 256,
            tiers: vec![tier(Some(256), CacheType::F16), tier(None, CacheType::Q8_0)],
            spill_bytes: 1 << 30,
        }
    }

    /// Returns the types a page has after so many tokens came after it.
    #[must_use]
    pub fn types_at(&self, age: usize) -> Option<CacheTypes> {
        let mut end = 0;
        for tier in &self.tiers {
            match tier.tokens {
                Some(tokens) => end += tokens,
                None => return Some(tier.types),
            }
            if age < end {
                return Some(tier.types);
            }
        }
        self.tiers.last().map(|tier| tier.types)
    }
}
