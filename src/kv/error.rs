//! Why a cache could not do as asked.
use std::io;

/// Why a cache could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No room, and nothing that may go.
    #[error(
        "the cache needs {needed_bytes} bytes more and {free_bytes} of its budget of {budget_bytes} are free: raise kv_cache.budget, run fewer or shorter sequences, or choose a kv_cache.pressure policy that makes room"
    )]
    Full {
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes free, after all that may go has gone.
        free_bytes: u64,
        /// Bytes in all.
        budget_bytes: u64,
    },
    /// More tokens than were reserved when the sequence was admitted.
    #[error("a sequence of {needed} tokens was admitted for {reserved}: admit it for as many as it may get")]
    BeyondReserved {
        /// Tokens with the new ones.
        needed: usize,
        /// Tokens reserved.
        reserved: usize,
    },
    /// A context without room for sinks, window and what is new.
    #[error(
        "{needed} tokens do not fit the context of {context_length}, and sinks and window leave nothing more to evict: make kv_cache.pressure.window smaller"
    )]
    Context {
        /// Tokens that would be in the cache.
        needed: usize,
        /// Tokens there may be.
        context_length: usize,
    },
    /// A sequence that is not open.
    #[error("no sequence {0} in the cache")]
    UnknownSequence(u32),
    /// A type whose blocks do not divide a head.
    #[error("cached {what} cannot be {kind}: a head has {head_dim} values, no whole blocks of 32; take f16")]
    Blocks {
        /// Keys or values.
        what: &'static str,
        /// The type.
        kind: &'static str,
        /// D.
        head_dim: usize,
    },
    /// Pages the kernels do not walk.
    #[error("pages of {0} tokens: it must be a power of two from 8 to 64")]
    PageTokens(usize),
    /// The file of spilled pages.
    #[error("the file of spilled pages: {0} (is there room in the temporary folder, TMPDIR?)")]
    Spill(#[from] io::Error),
    /// A spilled page came back as something else.
    #[error("a spilled page is not what was written: the file of spilled pages was changed from outside")]
    Damaged,
}
