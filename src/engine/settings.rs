//! How a model is to be run.
use std::num::NonZeroUsize;

use ruvlab_kernels::Precision;

use super::{AttentionMethod, Device};
use crate::kv::{CacheType, Policy};

/// How the native engine holds matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightLoad {
    /// Copied, packed for the kernels: fast, and in memory as a whole.
    #[default]
    Packed,
    /// Used from the mapped file, packed again for every product, and let go of after it: slow, for
    /// models larger than memory. What a folder's conversion makes is packed all the same. The results
    /// are the same to the last bit.
    Mapped,
}

/// How a model is to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Tokens of context to make room for; the most the engine and the model have when absent.
    pub context_length: Option<usize>,
    /// Where the candle engine computes; the others have the processor alone.
    pub device: Device,
    /// Worker threads of the native engine; all the process may use when absent. The others take
    /// theirs from `RAYON_NUM_THREADS`.
    pub threads: Option<NonZeroUsize>,
    /// The type of the native engine's cached keys; the others have f32.
    pub key_type: CacheType,
    /// The type of its cached values.
    pub value_type: CacheType,
    /// How it holds matrices; the others make their own copies.
    pub load: WeightLoad,
    /// How it attends; the others have all scores at once.
    pub attention: AttentionMethod,
    /// How finely it codes what goes into products with quantised weights.
    pub activations: Precision,
    /// Tokens in a page of its cache, a power of two from 8 to 64; 32 when absent.
    pub page_tokens: Option<usize>,
    /// The most bytes of its cache; no limit when absent.
    pub cache_bytes: Option<u64>,
    /// What it does when they run out.
    pub pressure: Option<Policy>,
    /// Whether sequences share whole pages they begin with.
    pub share_prefixes: bool,
}

impl Settings {
    /// Returns the same without anything only the native engine's cache does.
    #[must_use]
    pub fn unlimited(&self) -> Self {
        Self { cache_bytes: None, pressure: None, share_prefixes: false, ..self.clone() }
    }

    /// Returns the same with cached keys and values of 16 bits at least.
    #[must_use]
    pub fn with_wide_cache(self) -> Self {
        let wide = |kind| if kind == CacheType::F32 { CacheType::F32 } else { CacheType::F16 };
        Self { key_type: wide(self.key_type), value_type: wide(self.value_type), ..self }
    }
}
