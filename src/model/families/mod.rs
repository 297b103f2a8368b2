//! Families as data: what a model file of each architecture must hold, and its shape.
//!
//! A family is a row. A file is refused when it has anything its row does not know: a tensor or a
//! setting that was left out would give wrong numbers without a word.
mod read;
mod settings;
mod tensors;

use super::{rope::RopeLayout, spec::Activation};
use tensors::{LAYER, MODEL};

pub use read::read;
pub use tensors::{LayerTensors, ModelTensors, in_layer};

/// Whether files of a family have something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// None has it.
    Never,
    /// Some do: the first layer tells.
    Maybe,
    /// All do.
    Always,
}

/// Which layers see only the last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// Every one, in files that name a window.
    Every,
    /// All but each so many-th, in files that name a window.
    AllButEach(usize),
}

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture` in the file.
    pub architecture: &'static str,
    /// How rotary pairs are laid out.
    pub rope_layout: RopeLayout,
    /// Base of the rotary frequencies where a file names none.
    pub rope_theta: f64,
    /// The base in layers with a window, where that is another one.
    pub local_rope_theta: Option<f64>,
    /// Whether a file may hold one divisor for each rotary frequency.
    pub rope_divisors: bool,
    /// Whether a file may hold two divisors for each, for short and long contexts.
    pub longrope: bool,
    /// What the gate of the feed-forward layer goes through.
    pub activation: Activation,
    /// Whether embedded tokens are multiplied by the root of their width.
    pub scaled_embedding: bool,
    /// Whether a file may bend scores and logits.
    pub softcaps: bool,
    /// Which layers see only the last tokens.
    pub windows: Windows,
    /// Biases of queries, keys and values.
    pub attention_bias: Part,
    /// Norms of each head's queries and keys.
    pub head_norms: Part,
    /// Norms of attention and feed-forward outputs.
    pub post_norms: Part,
    /// Queries, keys and values in one matrix.
    pub fused_query_key_value: Part,
    /// Gate and up in one matrix, under the name of up.
    pub fused_gate_up: Part,
    /// Names of the tensors outside the layers.
    pub model: ModelTensors,
    /// Names of a layer's tensors, after `blk.N.`.
    pub layer: LayerTensors,
}

const LLAMA: Family = Family {
    architecture: "llama",
    rope_layout: RopeLayout::Interleaved,
    rope_theta: 10_000.0,
    local_rope_theta: None,
    rope_divisors: true,
    longrope: false,
    activation: Activation::Silu,
    scaled_embedding: false,
    softcaps: false,
    windows: Windows::Every,
    attention_bias: Part::Maybe,
    head_norms: Part::Never,
    post_norms: Part::Never,
    fused_query_key_value: Part::Never,
    fused_gate_up: Part::Never,
    model: MODEL,
    layer: LAYER,
};

const QWEN2: Family = Family {
    architecture: "qwen2",
    rope_layout: RopeLayout::Halves,
    rope_divisors: false,
    windows: Windows::Never,
    attention_bias: Part::Always,
    ..LLAMA
};

/// Every family there is; Mistral files are of the architecture `llama`, most with no window: of
/// models that have one, llama.cpp's converter does not write it, and llama.cpp sees everything.
///
/// Windows are computed where a file names one. llama.cpp leaves out phi3's
/// (<https://github.com/ggml-org/llama.cpp/pull/13676>), transformers does not: beyond the window,
/// results are those of transformers.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    QWEN2,
    Family { architecture: "qwen3", attention_bias: Part::Never, head_norms: Part::Always, ..QWEN2 },
    Family {
        architecture: "phi3",
        rope_layout: RopeLayout::Halves,
        rope_divisors: false,
        longrope: true,
        attention_bias: Part::Never,
        fused_query_key_value: Part::Maybe,
        fused_gate_up: Part::Always,
        ..LLAMA
    },
    Family {
        architecture: "gemma3",
        rope_layout: RopeLayout::Halves,
        rope_theta: 1_000_000.0,
        local_rope_theta: Some(10_000.0),
        rope_divisors: false,
        activation: Activation::GeluTanh,
        scaled_embedding: true,
        softcaps: true,
        windows: Windows::AllButEach(6),
        attention_bias: Part::Never,
        head_norms: Part::Always,
        post_norms: Part::Always,
        ..LLAMA
    },
];

/// Why a file is not a model that can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FamilyError {
    /// No family of that name.
    #[error("architecture {found:?} is not supported (supported: {})",
        FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What the file says.
        found: String,
    },
    /// A setting is not there or makes no sense.
    #[error("metadata {key:?} {problem}")]
    Setting {
        /// Its key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is not there.
    #[error("tensor {name:?} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the settings ask for.
    #[error("tensor {name:?} has shape {found:?}, the metadata ask for {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// The right one.
        expected: Vec<usize>,
    },
    /// A tensor whose values are part of the model's shape and cannot be had.
    #[error("tensor {name:?} does not hold f32 numbers above 0")]
    Values {
        /// Its name.
        name: String,
    },
    /// A tensor nobody would use.
    #[error("tensor {name:?} is no part of a {architecture} model here; running without it would give wrong results")]
    Unused {
        /// Its name.
        name: String,
        /// The family.
        architecture: &'static str,
    },
}

/// Returns the family of that name.
#[must_use]
pub fn find(architecture: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.architecture == architecture)
}

#[cfg(test)]
mod tests;
