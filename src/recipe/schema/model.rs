//! The model, its storage and the code that runs it.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Threads;

/// The weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A path to a GGUF file or a safetensors folder, `hf:owner/repo[@rev][:file or quant]`,
    /// `builtin:pico`, or `synthetic:SHAPE:QUANT`. Relative paths start at the recipe's folder; `~/`,
    /// `$NAME` and `${NAME}` are taken from the environment.
    pub source: String,
    /// A commit or tag of the hub repository.
    #[serde(default)]
    pub revision: Option<String>,
    /// Tokens of context to make room for; the model's own when absent.
    #[serde(default)]
    #[schemars(range(min = 2, max = 16_777_216))]
    pub context_length: Option<u32>,
    /// How ruvlab's own kernels hold matrices.
    #[serde(default)]
    pub load: ModelLoad,
}

/// How ruvlab's own kernels hold matrices. Results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelLoad {
    /// Copied into memory, packed for the kernels.
    #[default]
    Packed,
    /// Used from the mapped file, packed again for every product and let go of after it: for models
    /// larger than memory, and slow.
    Mapped,
}

/// How the weights are stored while running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quantization {
    /// The format matrices are brought to at load; `as_is` keeps the file's.
    pub format: QuantizationFormat,
}

/// A weight format, in llama.cpp's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub enum QuantizationFormat {
    /// As the file has it.
    #[default]
    AsIs,
    F32,
    F16,
    Bf16,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q2_k")]
    Q2K,
    #[serde(rename = "q3_k")]
    Q3K,
    #[serde(rename = "q4_k")]
    Q4K,
    #[serde(rename = "q5_k")]
    Q5K,
    #[serde(rename = "q6_k")]
    Q6K,
}

/// Which code computes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kernels {
    /// The kernel set, which also chooses the engine.
    pub set: KernelSet,
    /// Where the kernel set computes; only `candle` has a choice.
    pub device: Device,
    /// Worker threads.
    pub threads: Threads,
    /// How ruvlab's own kernels attend; absent takes `flash`. The other kernel sets have one way only.
    pub attention: Option<Attention>,
    /// How finely ruvlab's own kernels code what goes into a product with quantised weights; absent
    /// takes `int16`. The other kernel sets have ways of their own.
    pub activations: Option<ActivationPrecision>,
    /// The check that must pass before a kernel set's time counts.
    pub verify: Verify,
}

/// A device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU, in a build with the feature `cuda`: `scripts/build-cuda` makes one.
    Cuda,
}

/// A precision of activations, in blocks of 32 with a scale each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationPrecision {
    /// 15 bits and a sign: predictions are those of f32 activations.
    Int16,
    /// 7 bits and a sign, as llama.cpp has: faster prompts where the processor multiplies bytes, and an
    /// error of its own, which `verify` refuses on some models until its `max_nmse` is raised.
    Int8,
}

/// A way to attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Keys and queries in tiles, with memory that does not grow with the context (arXiv 2307.08691).
    Flash,
    /// All scores of a step's tokens at once: memory for each pair of a token and a key.
    Naive,
}

/// A kernel set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KernelSet {
    /// The fastest this processor runs, or the tier that `RUVLAB_KERNELS` names.
    #[default]
    Auto,
    /// candle-transformers' own model files: the baseline everybody compares with.
    Reference,
    /// ruvlab's decoder on candle tensors.
    Candle,
    /// ruvlab's portable kernels.
    Scalar,
    /// ruvlab's AVX2 kernels.
    Avx2,
    /// ruvlab's AVX-512 kernels, with VNNI.
    Avx512,
    /// ruvlab's NEON kernels.
    Neon,
    /// ruvlab's kernels on an NVIDIA GPU.
    Cuda,
}

/// The numerical check of a kernel set: its logits against another's, on the recipe's own model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// The kernel set that counts as right; `null` switches the check off.
    pub reference: Option<KernelSet>,
    /// The largest normalised mean squared error allowed: Σ(a−b)² / Σb². Where there is more, and
    /// the reference's rounding of activations to 8 bits may be why, the reference runs once more on
    /// the same weights as f32, and the kernel set must be within this of that run.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_nmse: f64,
}

impl Default for Verify {
    fn default() -> Self {
        Self { reference: Some(KernelSet::Reference), max_nmse: 5.0e-4 }
    }
}

/// Rotary position embedding, where it differs from the model's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rope {
    /// How positions beyond the trained context are reached; absent keeps the model's own.
    pub scaling: Option<RopeScaling>,
    /// The factor the context grows by.
    #[schemars(range(min = 1.0, max = 1024.0))]
    pub factor: Option<f64>,
    /// The context length the model was trained with.
    #[schemars(range(min = 1))]
    pub original_context_length: Option<u32>,
    /// The base of the frequencies.
    #[schemars(range(min = 1.0))]
    pub theta: Option<f64>,
}

/// A way to reach positions beyond the trained context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Positions as they are.
    None,
    /// Positions divided by `factor`.
    Linear,
    /// A larger base (NTK-aware).
    Ntk,
    /// Frequency-dependent interpolation (YaRN, arXiv 2309.00071).
    Yarn,
    /// Llama 3.1's piecewise interpolation.
    Llama3,
    /// Per-frequency factors (LongRoPE, arXiv 2402.13753).
    Longrope,
}

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Softmax temperature; 0 takes the likeliest token.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: f64,
    /// Only the k likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// The smallest set of tokens with at least this probability together.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// Tokens below this share of the likeliest token's probability are dropped.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}
