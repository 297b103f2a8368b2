//! What a cache says of itself.

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Bytes of all pages in memory.
    pub used_bytes: u64,
    /// The most there ever were.
    pub peak_bytes: u64,
    /// What they may take; none without a limit.
    pub budget_bytes: Option<u64>,
    /// Bytes of pages in the file.
    pub spilled_bytes: u64,
    /// Pages in memory.
    pub pages: usize,
    /// Pages that several sequences map.
    pub shared_pages: usize,
    /// Pages kept for their prefix alone.
    pub idle_pages: usize,
    /// Open sequences.
    pub sequences: usize,
    /// Tokens of all sequences in memory or in the file.
    pub tokens: u64,
}

/// What was done under pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionKind {
    /// Prefixes nobody used were given up.
    Forgotten,
    /// Tokens between the sinks and the window were dropped.
    Evicted,
    /// Tokens that attention used least were dropped.
    EvictedLight,
    /// Cold pages went to a narrower type.
    Narrowed,
    /// Cold pages went to the file.
    Spilled,
    /// Pages came back from the file.
    Restored,
    /// A sequence or a step was refused.
    Refused,
}

impl TransitionKind {
    /// Returns its name, as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forgotten => "forgotten",
            Self::Evicted => "evicted",
            Self::EvictedLight => "evicted_light",
            Self::Narrowed => "narrowed",
            Self::Spilled => "spilled",
            Self::Restored => "restored",
            Self::Refused => "refused",
        }
    }
}

/// One thing that was done under pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What.
    pub kind: TransitionKind,
    /// Pages it was done to.
    pub pages: usize,
    /// Bytes in memory before.
    pub before_bytes: u64,
    /// Bytes in memory after.
    pub after_bytes: u64,
    /// How long everything waited for it.
    pub duration_ns: u64,
}
