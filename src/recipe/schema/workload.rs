//! What is run and measured.
mod adapt;
mod continual;
mod sona;
mod train;

use std::fmt;

pub use adapt::{Adapt, AdaptState, RequestOrder};
pub use continual::ContinualLearning;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use sona::{SonaControl, SonaStream};
pub use train::{Train, TrainEval, TrainSource};

use super::{
    KvCache, Pressure, Recipe,
    model::{Device, KernelSet, QuantizationFormat},
};

/// One thing to run and measure, written as a one-key map: `- decode: {output_tokens: 64}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Processes a prompt (llama-bench's `pp`).
    Prefill(Prefill),
    /// Answers a prompt token by token (llama-bench's `tg`, after a real prompt).
    Decode(Decode),
    /// Scores a text.
    Perplexity(Perplexity),
    /// Compares predictions with a reference's, token by token.
    KlDivergence(KlDivergence),
    /// Fills the key-value cache beyond its budget and measures what that costs.
    KvPressure(KvPressure),
    /// Trains `adapter` as `training` says.
    Train(Train),
    /// Streams requests past adapters that learn from each, once it is scored.
    Adapt(Adapt),
    /// Streams requests past the learning loops of `sona`.
    Sona(SonaStream),
    /// Learns the tasks of `continual` one after the other, by each of its methods.
    Continual(ContinualLearning),
}

/// Processes a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prefill {
    /// Tokens of the prompt, taken from `builtin:heldout`.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub prompt_tokens: u32,
    /// Tokens already in the context before the timed part (llama-bench's `-d`).
    #[schemars(range(max = 16_777_216))]
    pub context_depth: u32,
    /// Sequences at once.
    #[schemars(range(min = 1, max = 1024))]
    pub batch_size: u32,
    /// Measured repetitions in a launch.
    #[schemars(range(min = 1, max = 10_000))]
    pub repetitions: u32,
}

impl Default for Prefill {
    fn default() -> Self {
        Self { prompt_tokens: 512, context_depth: 0, batch_size: 1, repetitions: 3 }
    }
}

/// Answers a prompt token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decode {
    /// Tokens of the prompt, taken from `builtin:heldout`.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub prompt_tokens: u32,
    /// Tokens to generate; the model's end token does not stop it.
    #[schemars(range(min = 2, max = 16_777_216))]
    pub output_tokens: u32,
    /// Sequences at once.
    #[schemars(range(min = 1, max = 1024))]
    pub batch_size: u32,
    /// Measured repetitions in a launch.
    #[schemars(range(min = 1, max = 10_000))]
    pub repetitions: u32,
}

impl Default for Decode {
    fn default() -> Self {
        Self { prompt_tokens: 128, output_tokens: 64, batch_size: 1, repetitions: 3 }
    }
}

/// Scores a text by llama.cpp's convention: windows of `n_ctx` tokens side by side, the second
/// half of each scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Perplexity {
    /// The text: `builtin:NAME` or a path, relative to the recipe's folder.
    pub text: String,
    /// Tokens in a window.
    #[schemars(range(min = 8, max = 16_777_216))]
    pub n_ctx: u32,
    /// Windows to score; absent scores all.
    #[schemars(range(min = 1))]
    pub chunks: Option<u32>,
}

impl Default for Perplexity {
    fn default() -> Self {
        Self { text: "builtin:heldout".to_owned(), n_ctx: 512, chunks: None }
    }
}

/// Measures what another model, weight format or kernel set costs in quality: the divergence of the
/// cell's predictions from a reference's at every scored position, KL(reference || cell), on windows
/// as in `perplexity`. It also gives both perplexities, so a `perplexity` of its own is not needed.
///
/// Both sides see the same tokens in the same steps: where one engine scores position by position
/// (`reference`), so does the other, because activations are quantized per step and results depend
/// on where a prompt is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KlDivergence {
    /// The text: `builtin:NAME` or a path, relative to the recipe's folder.
    pub text: String,
    /// Tokens in a window.
    #[schemars(range(min = 8, max = 16_777_216))]
    pub n_ctx: u32,
    /// Windows to score; absent scores all.
    #[schemars(range(min = 1))]
    pub chunks: Option<u32>,
    /// What the cell is held against: the cell itself but for what is given here, at least one key.
    pub reference: KlReference,
}

impl Default for KlDivergence {
    fn default() -> Self {
        let Perplexity { text, n_ctx, chunks } = Perplexity::default();
        Self { text, n_ctx, chunks, reference: KlReference::default() }
    }
}

/// Drives a trace of requests past the budget of the key-value cache. Timed, it answers them as fast
/// as the cache lets it: requests whose lengths the seed draws, fed with the text that follows their
/// prompt, so that every policy computes the same tokens. Untimed, it holds the predictions on texts
/// side by side against those of a cache without limit, KL(unlimited || cell), by position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvPressure {
    /// Requests in all.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: u32,
    /// The most requests at once, and the texts scored side by side, against a cache without limit and of 16 bits at
    /// least.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// Tokens of a prompt on average: each has between half and one and a half times as many.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub prompt_tokens: u32,
    /// Tokens of an answer on average, likewise.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub output_tokens: u32,
    /// The text that is scored: `builtin:NAME` or a path, relative to the recipe's folder.
    pub text: String,
    /// Tokens of each text that is scored.
    #[schemars(range(min = 8, max = 16_777_216))]
    pub n_ctx: u32,
    /// Texts of `n_ctx` tokens that have a fact planted in them, at places from the first to the last,
    /// and asked for at their end (`needle_accuracy`).
    #[schemars(range(max = 10_000))]
    pub needles: u32,
}

impl Default for KvPressure {
    fn default() -> Self {
        Self {
            requests: 16,
            concurrency: 8,
            prompt_tokens: 128,
            output_tokens: 128,
            text: "builtin:heldout".to_owned(),
            n_ctx: 512,
            needles: 0,
        }
    }
}

impl KvPressure {
    /// Returns the tokens of the longest request or text.
    #[must_use]
    pub fn longest(&self) -> u32 {
        let most = |mean: u32| mean.saturating_add(mean / 2);
        most(self.prompt_tokens).saturating_add(most(self.output_tokens)).max(self.n_ctx)
    }

    /// Returns the context it needs: a request that loses tokens may outgrow it, a text may not, because it is
    /// scored with a cache without limit too.
    #[must_use]
    pub fn context(&self, cache: &KvCache) -> u32 {
        if cache.pressure.as_ref().is_some_and(Pressure::evicts) { self.n_ctx } else { self.longest() }
    }
}

/// What a cell's predictions are held against. What is absent is the cell's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KlReference {
    /// Other weights with the same vocabulary, in the terms of `model.source`: they run without the
    /// cell's adapter.
    pub source: Option<String>,
    /// The format the reference's matrices are brought to at load; `as_is` keeps the file's.
    pub format: Option<QuantizationFormat>,
    /// The kernel set that runs the reference.
    pub kernels: Option<KernelSet>,
}

impl KlReference {
    /// Returns whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns a cell's recipe with what is given here in place of its own, and activations as they come.
    #[must_use]
    pub fn of(&self, cell: &Recipe) -> Recipe {
        let mut recipe = cell.clone();
        let Self { source, format, kernels } = self;
        if let Some(source) = source {
            source.clone_into(&mut recipe.model.source);
            // The revision is one of the cell's own repository, and an adapter one of its own model.
            recipe.model.revision = None;
            recipe.adapter = None;
        }
        recipe.quantization.format = format.unwrap_or(recipe.quantization.format);
        recipe.kernels.set = kernels.unwrap_or(recipe.kernels.set);
        recipe.kernels.activations = None;
        if recipe.kernels.set != KernelSet::Candle {
            recipe.kernels.device = Device::Cpu;
        }
        recipe
    }
}

impl fmt::Display for KlReference {
    /// Writes what is given, such as `f32` or `pico.gguf+reference`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, format, kernels } = self;
        let source = source.as_deref().map(|source| source.rsplit('/').next().unwrap_or(source).to_owned());
        let given = [source, format.as_ref().and_then(word), kernels.as_ref().and_then(word)];
        f.write_str(&given.into_iter().flatten().collect::<Vec<_>>().join("+"))
    }
}

/// Returns a choice as recipes write it.
fn word(choice: &impl Serialize) -> Option<String> {
    serde_json::to_value(choice).ok()?.as_str().map(str::to_owned)
}

impl Workload {
    /// Returns every text it names, each with its key.
    pub fn texts_mut(&mut self) -> Vec<(String, &mut String)> {
        match self {
            Self::Prefill(_) | Self::Decode(_) => Vec::new(),
            Self::Perplexity(perplexity) => vec![("perplexity.text".to_owned(), &mut perplexity.text)],
            Self::KlDivergence(divergence) => vec![("kl_divergence.text".to_owned(), &mut divergence.text)],
            Self::KvPressure(pressure) => vec![("kv_pressure.text".to_owned(), &mut pressure.text)],
            Self::Continual(continual) => vec![("continual.general".to_owned(), &mut continual.general)],
            Self::Train(train) => train.texts_mut().map(|(key, text)| (format!("train.{key}"), text)).collect(),
            Self::Adapt(adapt) => {
                let domains = adapt.domains.iter_mut().enumerate();
                let domains = domains.map(|(at, text)| (format!("adapt.domains[{at}]"), text));
                domains.chain([("adapt.calibration".to_owned(), &mut adapt.calibration)]).collect()
            }
            Self::Sona(stream) => {
                let domains = stream.domains.iter_mut().enumerate();
                let domains = domains.map(|(at, text)| (format!("sona.domains[{at}]"), text));
                domains.chain([("sona.general".to_owned(), &mut stream.general)]).collect()
            }
        }
    }
}

impl fmt::Display for Workload {
    /// Writes the short label results carry, such as `decode(p128,n64)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = |f: &mut fmt::Formatter<'_>, text: &str, n_ctx: u32, chunks: Option<u32>| {
            write!(f, "{},c{n_ctx}", text.rsplit(['/', ':']).next().unwrap_or(text))?;
            chunks.map_or(Ok(()), |chunks| write!(f, ",k{chunks}"))
        };
        let batch = |f: &mut fmt::Formatter<'_>, size: u32| if size == 1 { Ok(()) } else { write!(f, ",b{size}") };
        match self {
            Self::Prefill(Prefill { prompt_tokens, context_depth, batch_size, repetitions: _ }) => {
                write!(f, "prefill(p{prompt_tokens}")?;
                if *context_depth > 0 {
                    write!(f, ",d{context_depth}")?;
                }
                batch(f, *batch_size)?;
            }
            Self::Decode(Decode { prompt_tokens, output_tokens, batch_size, repetitions: _ }) => {
                write!(f, "decode(p{prompt_tokens},n{output_tokens}")?;
                batch(f, *batch_size)?;
            }
            Self::Perplexity(Perplexity { text, n_ctx, chunks }) => {
                write!(f, "perplexity(")?;
                windows(f, text, *n_ctx, *chunks)?;
            }
            Self::KlDivergence(KlDivergence { text, n_ctx, chunks, reference }) => {
                write!(f, "kl_divergence(")?;
                windows(f, text, *n_ctx, *chunks)?;
                write!(f, ",vs {reference}")?;
            }
            Self::KvPressure(KvPressure {
                requests,
                concurrency,
                prompt_tokens,
                output_tokens,
                text,
                n_ctx,
                needles,
            }) => {
                write!(f, "kv_pressure(r{requests},p{prompt_tokens},n{output_tokens},")?;
                windows(f, text, *n_ctx, None)?;
                batch(f, *concurrency)?;
                if *needles > 0 {
                    write!(f, ",q{needles}")?;
                }
            }
            Self::Train(train) => {
                let name = train.source().map_or("", TrainSource::name);
                write!(f, "train({}", name.rsplit(['/', ':']).next().unwrap_or(name))?;
            }
            Self::Adapt(Adapt { domains, requests, prompt_tokens, output_tokens, order, state, calibration: _ }) => {
                let order = if *order == RequestOrder::Blocked { "blocked" } else { "interleaved" };
                let state = if *state == AdaptState::Shared { ",shared" } else { "" };
                write!(f, "adapt({}x{requests},p{prompt_tokens},n{output_tokens},{order}{state}", domains.len())?;
            }
            Self::Sona(SonaStream {
                domains, requests, prompt_tokens, output_tokens, order, control, restart, ..
            }) => {
                let order = if *order == RequestOrder::Blocked { "blocked" } else { "interleaved" };
                write!(f, "sona({}x{requests},p{prompt_tokens},n{output_tokens},{order}", domains.len())?;
                match control {
                    SonaControl::None => {}
                    SonaControl::Placebo => f.write_str(",placebo")?,
                    SonaControl::ShuffledFeedback => f.write_str(",shuffled")?,
                }
                if *restart {
                    f.write_str(",restart")?;
                }
            }
            Self::Continual(ContinualLearning { eval_sequences, train_sequences, general }) => {
                let name = general.rsplit(['/', ':']).next().unwrap_or(general);
                let train = train_sequences.map_or_else(String::new, |count| format!("t{count},"));
                write!(f, "continual(e{eval_sequences},{train}{name}")?;
            }
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_a_divergence_is_from() {
        let label = |reference: &str| {
            let text = format!(r#"{{"kl_divergence": {{"n_ctx": 256, "chunks": 4, "reference": {reference}}}}}"#);
            serde_json::from_str::<Workload>(&text).unwrap().to_string()
        };
        assert_eq!(label(r#"{"format": "q8_0"}"#), "kl_divergence(heldout,c256,k4,vs q8_0)");
        let all = r#"{"source": "/models/a b.gguf", "format": "f32", "kernels": "reference"}"#;
        assert_eq!(label(all), "kl_divergence(heldout,c256,k4,vs a b.gguf+f32+reference)");
    }
}
